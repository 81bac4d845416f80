// For SampleTokens: the best tokens of a row, by number or by weight.
#pragma once

#include <cfloat>

#include "kernels/cuda/sample_row.cuh"

namespace ttt::sampling {

// CutAt for any values, which finds the key from the highest digit down.
template <typename Value>
__device__ uint64_t CutByDigits(Shared& shared, const Row& row, uint64_t kept,
                                double wanted, Value value) {
  uint64_t prefix = 0;
  Count above = 0;
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
    __syncthreads();
    Count* const histogram =
        shared.histograms[threadIdx.x / kWarpSize % kHistograms];
    row.ForEach([&](int32_t id, float logit) {
      const uint64_t key = KeyOf(logit, id);
      if (key < kept) return;
      if (shift + kDigitBits < 64 &&
          key >> (shift + kDigitBits) != prefix >> (shift + kDigitBits)) {
        return;
      }
      const Count own = value(logit);
      if (own > 0) atomicAdd(&histogram[key >> shift & (kDigits - 1)], own);
    });
    __syncthreads();
    for (int digit = threadIdx.x; digit < kDigits; digit += kThreads) {
      for (int i = 1; i < kHistograms; ++i) {
        shared.histograms[0][digit] += shared.histograms[i][digit];
      }
    }
    __syncthreads();
    int lowest = kDigits - 1;  // that has any, should rounding ask for more
    Count lowest_above = above;
    for (int digit = kDigits - 1; digit >= 0; --digit) {
      const Count sum = shared.histograms[0][digit];
      if (sum == 0) continue;
      lowest = digit;
      lowest_above = above;
      if (double(above + sum) >= wanted) break;
      above += sum;
    }
    above = lowest_above;
    prefix |= uint64_t(lowest) << shift;
  }
  __syncthreads();
  return prefix;
}

// Sorts shared.keys[count], largest first; what is beyond it, up to a power of
// two, is overwritten.
__device__ inline void SortKeys(Shared& shared, int count) {
  int size = kWarpSize;
  while (size < count) size *= 2;
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += kThreads) {
    if (i >= count) shared.keys[i] = 0;
  }
  __syncthreads();
  // Bitonic.
  for (int width = 2; width <= size; width *= 2) {
    for (int stride = width / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < size; i += kThreads) {
        const int other = i ^ stride;
        if (other < i) continue;  // Its thread does both.
        const bool descends = (i & width) == 0;
        const uint64_t a = shared.keys[i];
        const uint64_t b = shared.keys[other];
        if ((a < b) == descends) {
          shared.keys[i] = b;
          shared.keys[other] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Puts the keys that `is_wanted` takes in shared.keys, if they are kMaxKeys at
// most; returns their number.
template <typename Wanted>
__device__ int CollectKeys(Shared& shared, const Row& row, Wanted is_wanted) {
  __syncthreads();
  if (threadIdx.x == 0) shared.num_keys = 0;
  __syncthreads();
  row.ForEach([&](int32_t id, float logit) {
    const uint64_t key = KeyOf(logit, id);
    if (!is_wanted(key, logit)) return;
    const int i = atomicAdd(&shared.num_keys, 1);
    if (i < kMaxKeys) shared.keys[i] = key;
  });
  __syncthreads();
  return shared.num_keys;
}

// The key of the last token, best first, of the fewest whose values sum to at
// least `wanted` > 0, of those whose keys are `kept` or more. Sums the values
// by ranges of logits from `max` down to `max - reach`, and sorts only the
// tokens of the range that has the cut.
template <typename Value>
__device__ uint64_t CutAt(Shared& shared, const Row& row, uint64_t kept,
                          double wanted, float max, float reach, Value value) {
  const float scale = fminf(float{kBins} / reach, FLT_MAX);
  const auto bin_of = [&](float logit) {
    // The last one for a NaN, which infinity times 0 is.
    return int(fminf(float{kBins - 1}, (max - logit) * scale));
  };
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
  if (threadIdx.x == 0) shared.bin = -1;
  __syncthreads();
  row.ForEach([&](int32_t id, float logit) {
    if (KeyOf(logit, id) < kept) return;
    const Count own = value(logit);
    if (own > 0) atomicAdd(&shared.bins[bin_of(logit)], own);
  });
  __syncthreads();
  constexpr int kShare = kBins / kThreads;
  Count own = 0;
  for (int i = 0; i < kShare; ++i) {
    own += shared.bins[kShare * threadIdx.x + i];
  }
  Count total = 0;
  Count before = SumBefore(shared, own, &total);
  if (double(before) < wanted && double(before + own) >= wanted) {
    int bin = kShare * threadIdx.x;
    while (double(before + shared.bins[bin]) < wanted) {
      before += shared.bins[bin++];
    }
    shared.bin = bin;
    shared.above = before;
  }
  __syncthreads();
  const int bin = shared.bin;
  const Count above = shared.above;
  int count = 0;
  if (bin >= 0) {
    count = CollectKeys(shared, row, [&](uint64_t key, float logit) {
      return key >= kept && bin_of(logit) == bin;
    });
  }
  // Values are all in few ranges, or rounding asks for more than there is.
  if (bin < 0 || count > kMaxKeys) {
    return CutByDigits(shared, row, kept, wanted, value);
  }
  SortKeys(shared, count);
  const int i = threadIdx.x;
  const uint64_t key = i < count ? shared.keys[i] : 0;
  own = i < count ? value(row.logits[IdOf(key)]) : 0;
  before = above + SumBefore(shared, own, &total);
  if (double(before) < wanted && double(before + own) >= wanted) {
    shared.cut = key;
  }
  __syncthreads();
  return shared.cut;
}

// How far the finite logits of a row reach below its largest.
__device__ inline float ReachOf(Shared& shared, const Row& row, float max) {
  float least = max;
  row.ForEach([&](int32_t, float logit) {
    if (isfinite(logit)) least = fminf(least, logit);
  });
  // The order of its negative is greatest for the least.
  const uint64_t order = BlockMax(shared, OrderOf(-least));
  return max + ValueOf(uint32_t(order));
}

}  // namespace ttt::sampling
