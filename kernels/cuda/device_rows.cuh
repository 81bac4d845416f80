// What several ops do alike on the device: addresses of state, the sequence of
// a row, sums over a block, stores that round.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

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

__device__ inline float4 LoadFour(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
// To global memory, or, if not `does`, nowhere: what is computed for it is
// computed all the same. Four are one access, where an assignment may become
// four.
__device__ inline void StoreOne(float* to, float value, bool does) {
  asm volatile(
      "{\n"
      ".reg .pred does;\n"
      "setp.ne.b32 does, %2, 0;\n"
      "@does st.global.f32 [%0], %1;\n"
      "}" ::"l"(to),
      "f"(value), "r"(int(does))
      : "memory");
}
__device__ inline void StoreFour(float* to, float4 values, bool does = true) {
  asm volatile(
      "{\n"
      ".reg .pred does;\n"
      "setp.ne.b32 does, %5, 0;\n"
      "@does st.global.v4.f32 [%0], {%1, %2, %3, %4};\n"
      "}" ::"l"(to),
      "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(int(does))
      : "memory");
}
// At a multiple of 4.
__device__ inline void StoreFour(const Operand& to, int64_t index,
                                 float4 values, bool does = true) {
  if (to.type == DType::kFloat32) {
    StoreFour(static_cast<float*>(to.data) + index, values, does);
    return;
  }
  const __nv_bfloat162 low = __floats2bfloat162_rn(values.x, values.y);
  const __nv_bfloat162 high = __floats2bfloat162_rn(values.z, values.w);
  uint32_t halves[2];
  memcpy(&halves[0], &low, sizeof(low));
  memcpy(&halves[1], &high, sizeof(high));
  asm volatile(
      "{\n"
      ".reg .pred does;\n"
      "setp.ne.b32 does, %3, 0;\n"
      "@does st.global.v2.b32 [%0], {%1, %2};\n"
      "}" ::"l"(static_cast<__nv_bfloat16*>(to.data) + index),
      "r"(halves[0]), "r"(halves[1]), "r"(int(does))
      : "memory");
}

// Of which each has a four of a row: their fours are one line of the caches.
inline constexpr int kThreadsPerLine = kLineBytes / sizeof(float4);

// Puts the 128 bytes around an address into the L2 cache. Always allowed: what
// is written there later is seen all the same.
__device__ inline void PrefetchLine(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Of StepRows, which no op of the step writes from EmbedTokens on: may be read
// before WaitForKernelsBefore, if not through the L1 cache.
__device__ inline SequenceRows LoadSequence(const StepRows& rows,
                                            int32_t index) {
  const SequenceRows* const from = rows.sequences + index;
  SequenceRows sequence;
  sequence.first_row = __ldcg(&from->first_row);
  sequence.num_rows = __ldcg(&from->num_rows);
  sequence.slot = __ldcg(&from->slot);
  sequence.position =
      __ldcg(reinterpret_cast<const long long*>(&from->position));
  return sequence;
}

// The sequence that a row of the step belongs to; of one that has ended it is
// no row, as that has none. In steps of a row a sequence it mostly is the one
// of the row's own index: that saves a trip to memory.
__device__ inline SequenceRows SequenceOfRow(const StepRows& rows,
                                             int32_t row) {
  const SequenceRows guess = LoadSequence(rows, min(row, rows.batch - 1));
  const int32_t index = __ldcg(rows.row_sequence + row);
  if (row >= guess.first_row && row < guess.first_row + guess.num_rows) {
    return guess;
  }
  return LoadSequence(rows, index);
}

__device__ inline float WarpSum(float value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// Blocks that sum have a multiple of this many threads, up to kMaxSumThreads.
inline constexpr int kSumThreads = 4 * kWarpSize;
inline constexpr int kMaxSumThreads = 16 * kWarpSize;

// Of up to kCount sums: one float a warp each.
template <int kCount>
struct alignas(sizeof(float4)) SumSpace {
  float warp_sums[kCount][kMaxSumThreads / kWarpSize];
};

// Sums over a block of `num_threads`, the same in all of them, in an order that
// depends on their number alone. Holds one barrier: between two calls with the
// same space there must be another.
template <int kSpace, int kCount>
__device__ void BlockSums(SumSpace<kSpace>& space, int num_threads,
                          float (&values)[kCount]) {
  static_assert(kCount <= kSpace);
#pragma unroll
  for (float& value : values) value = WarpSum(value);
  if (threadIdx.x % kWarpSize == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      space.warp_sums[i][threadIdx.x / kWarpSize] = values[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    // All that there can be at once: none then waits for another.
    float4 sums[kMaxSumThreads / kSumThreads];
#pragma unroll
    for (int n = 0; n < kMaxSumThreads / kSumThreads; ++n) {
      sums[n] = LoadFour(&space.warp_sums[i][4 * n]);
    }
    values[i] = 0.0f;
#pragma unroll
    for (int n = 0; n < kMaxSumThreads / kSumThreads; ++n) {
      const float sum = (sums[n].x + sums[n].y) + (sums[n].z + sums[n].w);
      if (n * kSumThreads < num_threads) values[i] += sum;
    }
  }
}
__device__ inline float BlockSum(SumSpace<1>& space, int num_threads,
                                 float value) {
  float values[1] = {value};
  BlockSums(space, num_threads, values);
  return values[0];
}

}  // namespace ttt
