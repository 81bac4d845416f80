#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// grid [num_rows, channels / kThreads]; a thread owns a channel of a row, or of
// the first kernel - 1 rows of a sequence.
__global__ void CausalConvKernel(const CausalConvArgs args) {
  WaitForKernelsBefore();
  const SequenceRows sequence = SequenceOfRow(args.rows, blockIdx.x);
  const int32_t c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= args.hidden_size) return;
  const int64_t first = int64_t{sequence.first_row} * args.hidden_size + c;
  const ConvChannel channel = {args.input + first, args.hidden_size,
                               SlotOf<float>(args.tail, sequence.slot) + c,
                               args.hidden_size, args.kernel};
  const int32_t index = blockIdx.x - sequence.first_row;
  const int32_t end = EndOfConvRows(index, sequence.num_rows, args.kernel);
  for (int32_t row = index; row < end; ++row) {
    args.output[first + int64_t{row} * args.hidden_size] +=
        channel.Convolve(args.weight + c, args.bias[c], row);
  }
  if (index == 0) channel.ReplaceTail(sequence.num_rows);
}

}  // namespace

cudaError_t LaunchCausalConv(const CausalConvArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  const dim3 grid(args.rows.num_rows,
                  (args.hidden_size + kThreads - 1) / kThreads);
  return LaunchOverlapped(CausalConvKernel, grid, kThreads, 0, stream, args);
}

}  // namespace ttt
