#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// Four values of a table at a multiple of 4.
__device__ float4 LoadValues(const Operand& from, int64_t index) {
  if (from.type == DType::kFloat32) {
    return LoadFour(static_cast<const float*>(from.data) + index);
  }
  const uint2 halves = *reinterpret_cast<const uint2*>(
      static_cast<const __nv_bfloat16*>(from.data) + index);
  return {
      __uint_as_float(halves.x << 16), __uint_as_float(halves.x & 0xffff0000u),
      __uint_as_float(halves.y << 16), __uint_as_float(halves.y & 0xffff0000u)};
}

// grid [num_rows]; a block owns a row.
//
// The first op of a step, but for EndSequences: none after it begins before all
// of the steps before have ended, so that these may read what the host or such
// a step wrote before their own wait.
__global__ void EmbedTokensKernel(const EmbedTokensArgs args) {
  cudaGridDependencySynchronize();
  LetNextKernelBegin();
  const int32_t row = blockIdx.x;
  int32_t stop = 0;
  int32_t stop_end = 0;
  if (args.ended != nullptr) {
    stop = args.stop_begin[row] + threadIdx.x;
    stop_end = args.stop_begin[row + 1];
  }
  const int32_t id = TokenOfRow(args, row);
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  bool has_ended = sequence.num_rows == 0;
  for (; stop < stop_end; stop += kThreads) {
    has_ended = has_ended || args.stop_ids[stop] == id;
  }
  const int64_t from = int64_t{id} * args.hidden_size;
  const int64_t to = int64_t{row} * args.hidden_size;
  if (args.hidden_size % 4 == 0) {
    for (int32_t c = 4 * threadIdx.x; c < args.hidden_size; c += 4 * kThreads) {
      StoreFour(args.hidden + to + c, LoadValues(args.table, from + c));
    }
  } else {
    for (int32_t c = threadIdx.x; c < args.hidden_size; c += kThreads) {
      args.hidden[to + c] = LoadOperand(args.table, from + c);
    }
  }
  const int32_t index = row - sequence.first_row;
  // Of more rows than the ring holds the last stay.
  if (threadIdx.x == 0 && index < sequence.num_rows &&
      index >= sequence.num_rows - kTokenRingSize) {
    SlotOf<int32_t>(
        args.ring,
        sequence.slot)[(sequence.position + index) % kTokenRingSize] = id;
  }
  if (args.ended == nullptr) return;
  has_ended = __syncthreads_or(has_ended);
  if (threadIdx.x > 0) return;
  args.ended[row] = has_ended;
  if (has_ended && args.next_sequences != nullptr) {
    args.next_sequences[row].num_rows = 0;
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
