// For SampleTokens: a row of logits, its tokens as keys, and sums over a block.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_rows.cuh"
#include "kernels/op_args.h"

namespace ttt::sampling {

inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / kWarpSize;
// More candidates are found one by one.
inline constexpr int kMaxKeys = 1024;

using Count = unsigned long long;

// What a cut is found by: sums over ranges of values, or over the digits of
// keys.
inline constexpr int kBins = 4096;
inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;
inline constexpr int kHistograms = kBins / kDigits;

struct alignas(sizeof(float4)) Shared {
  union {
    Count bins[kBins];
    Count histograms[kHistograms][kDigits];
  };
  Count scan[kWarps];
  double double_scan[kWarps];
  uint64_t keys[kMaxKeys];
  int32_t ids[kTokenRingSize];
  uint64_t cut;
  Count above;
  int32_t bin;
  int32_t found;
  float raw;  // logit of the token, before bias and penalties
  int32_t num_keys;
};

// Greater is better; of equals none. -0.0 is 0.0. A NaN must not get here.
__device__ inline uint32_t OrderOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float ValueOf(uint32_t order) {
  return __uint_as_float(order >> 31 != 0 ? order & 0x7fffffffu : ~order);
}
// Ties go to the lowest id.
__device__ inline uint64_t KeyOf(float value, int32_t id) {
  return uint64_t{OrderOf(value)} << 32 | uint32_t(~id);
}
__device__ inline int32_t IdOf(uint64_t key) { return int32_t(~uint32_t(key)); }

template <typename T>
__device__ T WarpMax(T value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// Each of these returns the same in all threads of the block.
__device__ inline uint64_t BlockMax(Shared& shared, uint64_t value) {
  value = WarpMax(value);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) {
    shared.scan[threadIdx.x / kWarpSize] = value;
  }
  __syncthreads();
  uint64_t max = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    max = shared.scan[warp] > max ? shared.scan[warp] : max;
  }
  return max;
}
__device__ inline double BlockSum(Shared& shared, double value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) {
    shared.double_scan[threadIdx.x / kWarpSize] = value;
  }
  __syncthreads();
  double sum = 0.0;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared.double_scan[warp];
  return sum;
}
// The sum over the threads before this one, and over all.
__device__ inline Count SumBefore(Shared& shared, Count value, Count* total) {
  const int lane = threadIdx.x % kWarpSize;
  Count sum = value;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const Count other = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();
  if (lane == kWarpSize - 1) shared.scan[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  Count before = sum - value;
  *total = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp < threadIdx.x / kWarpSize) before += shared.scan[warp];
    *total += shared.scan[warp];
  }
  return before;
}

// The row of logits in hand. Thread t has the ids of the fours t, t + kThreads,
// .. of it.
struct Row {
  float* logits;  // shared memory, or global
  int32_t size;
  bool has_fours;  // may be read in fours, beyond its end too

  __device__ float4 Four(int32_t id) const {
    if (has_fours) return LoadFour(logits + id);
    return {logits[id], id + 1 < size ? logits[id + 1] : 0.0f,
            id + 2 < size ? logits[id + 2] : 0.0f,
            id + 3 < size ? logits[id + 3] : 0.0f};
  }
  // Calls visit(id, logit) for the thread's own.
  template <typename Visit>
  __device__ void ForEach(Visit visit) const {
#pragma unroll 2
    for (int32_t id = 4 * threadIdx.x; id < size; id += 4 * kThreads) {
      VisitFour(id, Four(id), visit);
    }
  }
  template <typename Visit>
  __device__ void VisitFour(int32_t id, float4 x, Visit visit) const {
    visit(id, x.x);
    if (id + 1 < size) visit(id + 1, x.y);
    if (id + 2 < size) visit(id + 2, x.z);
    if (id + 3 < size) visit(id + 3, x.w);
  }
};

}  // namespace ttt::sampling
