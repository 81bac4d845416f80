// For SampleTokens: the best tokens of a row, by number or by weight.
#pragma once

#include "kernels/cuda/sample_row.cuh"

namespace ttt::sampling {

// Sorts shared.keys[count], largest first; what is beyond it, up to a power of
// two, is overwritten.
__device__ inline void SortKeys(Shared& shared, int count) {
  static_assert(kMaxKeys == kThreads, "a thread a key");
  int size = kWarpSize;
  while (size < count) size *= 2;
  const int i = threadIdx.x;
  __syncthreads();
  if (i >= count && i < size) shared.keys[i] = 0;
  __syncthreads();
  // Bitonic. Strides within a warp need no other.
  for (int width = 2; width <= size; width *= 2) {
    for (int stride = width / 2; stride > 0; stride /= 2) {
      const int other = i ^ stride;
      if (i < size && i < other) {  // The other one's thread does nothing.
        const bool descends = (i & width) == 0;
        const uint64_t a = shared.keys[i];
        const uint64_t b = shared.keys[other];
        if ((a < b) == descends) {
          shared.keys[i] = b;
          shared.keys[other] = a;
        }
      }
      const int next = stride > 1 ? stride / 2 : width;
      if (stride >= kWarpSize || next >= kWarpSize) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

// Puts the keys of the tokens that is_wanted(id, logit) takes in shared.keys,
// if they are kMaxKeys at most; returns their number.
template <typename Wanted>
__device__ int CollectKeys(Shared& shared, const Row& row, Wanted is_wanted) {
  __syncthreads();
  if (threadIdx.x == 0) shared.num_keys = 0;
  __syncthreads();
  row.ForEachOf(is_wanted, [&](int32_t id, float logit, bool is_in) {
    if (!is_in) return;
    const int i = atomicAdd(&shared.num_keys, 1);
    if (i < kMaxKeys) shared.keys[i] = KeyOf(logit, id);
  });
  __syncthreads();
  return shared.num_keys;
}

// kBins ranges of logits from `most` down by `reach`; the last has all below,
// too. The first has `most`, the last what is `reach` or more below.
class Ranges {
 public:
  __device__ Ranges(float most, float reach)
      : most_(most),
        boost_(reach < 1e-20f ? 1.2676506e30f : 1.0f),  // 2^100: else kBins /
        scale_(kBins / (reach * boost_)) {}             // reach may be infinite
  // The last one for a NaN, which infinity times 0 is.
  __device__ int Of(float logit) const {
    return int(
        fminf(float{kBins - 1}, fmaxf(most_ - logit, 0.0f) * boost_ * scale_));
  }

 private:
  float most_;
  float boost_;
  float scale_;
};

__device__ inline void AddToBin(BinSums& bins, int bin, Count value) {
  const auto low = uint32_t(value);
  auto high = uint32_t(value >> 32);
  const uint32_t before = atomicAdd(&bins.low[bin], low);
  if (before + low < before) ++high;
  if (high != 0) atomicAdd(&bins.high[bin], high);
}

// The first bin with which the sum, `above` before the bins, comes to
// wanted_of(sum of all bins): in shared.bin, with the sum before it in
// shared.above. Returns what was wanted.
template <typename WantedOf>
__device__ Count FindBin(Shared& shared, Count above, WantedOf wanted_of) {
  constexpr int kShare = kBins / kThreads;
  const auto sum_of = [&](int i) {
    const int bin = kShare * threadIdx.x + i;
    return Count{shared.bins.high[bin]} << 32 | shared.bins.low[bin];
  };
  Count own = 0;
  for (int i = 0; i < kShare; ++i) own += sum_of(i);
  Count total = 0;
  Count before = above + SumBefore(shared, own, &total);
  const Count wanted = wanted_of(total);
  if (before < wanted && before + own >= wanted) {
    int i = 0;
    while (before + sum_of(i) < wanted) before += sum_of(i++);
    shared.bin = kShare * threadIdx.x + i;
    shared.above = before;
  }
  __syncthreads();
  return wanted;
}

// Of the `count` keys in shared.keys the first, best first, with which the sum
// of values, `above` before them, comes to `wanted`.
template <typename Value>
__device__ Kept CutAmong(Shared& shared, int count, Count above, Count wanted,
                         Value value) {
  SortKeys(shared, count);
  const int i = threadIdx.x;
  const uint64_t key = i < count ? shared.keys[i] : 0;
  const Count own = i < count ? Join(value(LogitOf(key))) : 0;
  Count total = 0;
  const Count before = above + SumBefore(shared, own, &total);
  if (before < wanted && before + own >= wanted) shared.cut = key;
  __syncthreads();
  return {LogitOf(shared.cut), IdOf(shared.cut)};
}

// The fewest of the tokens of `kept`, best first, whose values, value(logit),
// sum to what wanted_of(the sum of all) says: at least 1, at most that sum.
// Sums by ranges of logits from `max` down to `max - reach`, and sorts only the
// tokens of the range that has the cut; if these are too many, that range is
// parted anew.
template <typename WantedOf, typename Value>
__device__ Kept CutAt(Shared& shared, const Row& row, Kept kept, float max,
                      float reach, WantedOf wanted_of, Value value) {
  float most = max;
  float least = -INFINITY;
  Count above = 0;
  Count wanted = 0;
  while (true) {
    const Ranges ranges(most, reach);
    const auto is_in = [&](int32_t id, float logit) {
      return bool(int(logit >= least) & int(logit <= most) &
                  int(kept.Has(id, logit)));
    };
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kThreads) {
      shared.bins.low[i] = 0;
      shared.bins.high[i] = 0;
    }
    __syncthreads();
    row.ForEachOf(is_in, [&](int32_t, float logit, bool counts) {
      const Count own = Join(value(logit));
      const int bin = ranges.Of(logit);
      if (counts && own > 0) AddToBin(shared.bins, bin, own);
    });
    __syncthreads();
    wanted = FindBin(shared, above, [&](Count total) {
      return wanted > 0 ? wanted : wanted_of(total);
    });
    above = shared.above;
    const int bin = shared.bin;
    const auto is_in_bin = [&](int32_t id, float logit) {
      return bool(int(is_in(id, logit)) & int(ranges.Of(logit) == bin));
    };
    const int count = CollectKeys(shared, row, is_in_bin);
    if (count <= kMaxKeys) {
      return CutAmong(shared, count, above, wanted, value);
    }
    float bin_most = -INFINITY;
    float bin_least = INFINITY;
    row.ForEachOf(is_in_bin, [&](int32_t, float logit, bool is_of_bin) {
      if (!is_of_bin) return;
      bin_most = fmaxf(bin_most, logit);
      bin_least = fminf(bin_least, logit);
    });
    most = LogitOf(BlockMax(shared, KeyOf(bin_most, 0)));
    // Its negative is the largest.
    least = -LogitOf(BlockMax(shared, KeyOf(-bin_least, 0)));
    if (!(least < most)) break;
    reach = most - least;  // One range has not both again.
  }
  // Equals in the order of ids.
  const auto is_equal = [&](int32_t id, float logit) {
    return logit == most && kept.Has(id, logit);
  };
  SumWarps(shared, row, is_equal, value);
  return {most, Locate(shared, row, wanted - above, is_equal, value)};
}

// Logits further below the largest are rarely among the best, and some models
// have a few that are much further.
inline constexpr float kUsualReach = 64.0f;

// The `count` best, of at least so many.
__device__ inline Kept CutAtCount(Shared& shared, const Row& row, int32_t count,
                                  float max, float reach) {
  return CutAt(
      shared, row, KeptAll(), max, fminf(reach, kUsualReach),
      [&](Count) { return Count(count); },
      [](float) {
        return Parts{0, 1};
      });
}

// How far the finite logits of a row reach below its largest.
__device__ inline float ReachOf(Shared& shared, const Row& row, float max) {
  float least = max;
  row.ForEach([&](int32_t, float logit) {
    if (isfinite(logit)) least = fminf(least, logit);
  });
  return max + LogitOf(BlockMax(shared, KeyOf(-least, 0)));
}

}  // namespace ttt::sampling
