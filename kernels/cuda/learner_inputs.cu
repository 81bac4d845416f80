#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

__device__ float2 Rotate(const float* rope, float even, float odd) {
  const float cosine = rope[0];
  const float sine = rope[1];
  return {fmaf(even, cosine, -odd * sine), fmaf(odd, cosine, even * sine)};
}

// The queries, keys and targets of channels c and c + 1 of a sequence's row.
__device__ void WritePair(const LearnerInputsArgs& args,
                          const SequenceRows& sequence, int32_t row, int32_t c,
                          float2 query, float2 key) {
  const int32_t width = args.num_heads * args.head_dim;
  const int64_t step_row = int64_t{sequence.first_row} + row;
  const float* const values =
      args.projections + step_row * args.row_stride + args.value_offset + c;
  const int64_t phase = (sequence.position + row) % args.mini_batch;
  const float* const rope =
      args.rope + phase * args.head_dim + c % args.head_dim;
  query = Rotate(rope, query.x, query.y);
  key = Rotate(rope, key.x, key.y);
  const int64_t out = step_row * width + c;
  StoreOperand(args.queries, out, query.x);
  StoreOperand(args.queries, out + 1, query.y);
  StoreOperand(args.keys, out, key.x);
  StoreOperand(args.keys, out + 1, key.y);
  StoreOperand(args.targets, out, values[0] - key.x);
  StoreOperand(args.targets, out + 1, values[1] - key.y);
}

// A thread owns a pair of channels of a row, or, with share_qk, of the first
// kernel - 1 rows of a sequence.
__device__ void RunPair(const LearnerInputsArgs& args,
                        const SequenceRows& sequence, int32_t index,
                        int32_t c) {
  const float* const first =
      args.projections + int64_t{sequence.first_row} * args.row_stride;
  if (args.conv_q_weight == nullptr) {
    const float* const row = first + int64_t{index} * args.row_stride;
    const float* const q = row + args.query_offset + c;
    const float* const k = row + args.key_offset + c;
    WritePair(args, sequence, index, c, {q[0], q[1]}, {k[0], k[1]});
    return;
  }
  const int32_t width = args.num_heads * args.head_dim;
  float* const tail = SlotOf<float>(args.tail, sequence.slot) + c;
  const float* const shared = first + args.query_offset + c;
  const ConvChannel even = {shared, args.row_stride, tail, width, args.kernel};
  const ConvChannel odd = {shared + 1, args.row_stride, tail + 1, width,
                           args.kernel};
  const int32_t end = EndOfConvRows(index, sequence.num_rows, args.kernel);
  for (int32_t row = index; row < end; ++row) {
    const float* const wq = args.conv_q_weight + c;
    const float* const wk = args.conv_k_weight + c;
    WritePair(args, sequence, row, c,
              {even.Convolve(wq, args.conv_q_bias[c], row),
               odd.Convolve(wq + 1, args.conv_q_bias[c + 1], row)},
              {even.Convolve(wk, args.conv_k_bias[c], row),
               odd.Convolve(wk + 1, args.conv_k_bias[c + 1], row)});
  }
  if (index == 0) {
    even.ReplaceTail(sequence.num_rows);
    odd.ReplaceTail(sequence.num_rows);
  }
}

// grid [num_rows, pairs of channels / kThreads].
__global__ void LearnerInputsKernel(const LearnerInputsArgs args) {
  WaitForKernelsBefore();
  const SequenceRows sequence = SequenceOfRow(args.rows, blockIdx.x);
  const int32_t index = blockIdx.x - sequence.first_row;
  const int32_t thread = blockIdx.y * kThreads + threadIdx.x;
  if (thread < args.num_heads) {
    const float logit = args.projections[blockIdx.x * args.row_stride +
                                         args.rate_offset + thread];
    args.rates[int64_t{blockIdx.x} * args.num_heads + thread] =
        args.base_lr * Sigmoid(logit + args.rate_bias[thread]) / args.head_dim;
  }
  if (2 * thread < args.num_heads * args.head_dim) {
    RunPair(args, sequence, index, 2 * thread);
  }
}

}  // namespace

cudaError_t LaunchLearnerInputs(const LearnerInputsArgs& args,
                                cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  const int32_t pairs = args.num_heads * args.head_dim / 2;
  const dim3 grid(args.rows.num_rows, (pairs + kThreads - 1) / kThreads);
  return LaunchOverlapped(LearnerInputsKernel, grid, kThreads, 0, stream, args);
}

}  // namespace ttt
