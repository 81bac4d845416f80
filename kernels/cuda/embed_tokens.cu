#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// grid [num_rows]; a block owns a row.
__global__ void EmbedTokensKernel(const EmbedTokensArgs args) {
  WaitForKernelsBefore();
  const int32_t row = blockIdx.x;
  const int32_t id = args.token_ids[row];
  const int64_t from = int64_t{id} * args.hidden_size;
  const int64_t to = int64_t{row} * args.hidden_size;
  for (int32_t c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    args.hidden[to + c] = LoadOperand(args.table, from + c);
  }
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  const int32_t index = row - sequence.first_row;
  // Of more rows than the ring holds the last stay.
  if (threadIdx.x == 0 && index >= sequence.num_rows - kTokenRingSize) {
    SlotOf<int32_t>(
        args.ring,
        sequence.slot)[(sequence.position + index) % kTokenRingSize] = id;
  }
}

}  // namespace

cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args,
                              cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  return LaunchOverlapped(EmbedTokensKernel, dim3(args.rows.num_rows), kThreads,
                          0, stream, args);
}

}  // namespace ttt
