// What several ops do alike on the device: addresses of state, the sequence of
// a row, sums over a block, stores that round.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/op_args.h"

namespace ttt {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
__device__ T* SlotOf(const StatePlane& plane, int32_t slot) {
  return reinterpret_cast<T*>(plane.base + int64_t{slot} * plane.slot_stride);
}

__device__ inline float LoadOperand(const Operand& from, int64_t index) {
  return from.type == DType::kFloat32
             ? static_cast<const float*>(from.data)[index]
             : __bfloat162float(
                   static_cast<const __nv_bfloat16*>(from.data)[index]);
}

__device__ inline void StoreOperand(const Operand& to, int64_t index,
                                    float value) {
  if (to.type == DType::kFloat32) {
    static_cast<float*>(to.data)[index] = value;
  } else {
    static_cast<__nv_bfloat16*>(to.data)[index] = __float2bfloat16_rn(value);
  }
}

// The sequence that a row of the step belongs to.
__device__ inline SequenceRows SequenceOfRow(const StepRows& rows,
                                             int32_t row) {
  return rows.sequences[rows.row_sequence[row]];
}

__device__ inline float WarpSum(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// The sum over a block of kThreads threads, the same in all of them. Adds in an
// order that depends on kThreads alone. Holds barriers.
template <int kThreads>
__device__ float BlockSum(float value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ float warp_sums[kWarps];
  value = WarpSum(value);
  __syncthreads();  // A call before this one may still read.
  if (threadIdx.x % kWarpSize == 0) {
    warp_sums[threadIdx.x / kWarpSize] = value;
  }
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace ttt
