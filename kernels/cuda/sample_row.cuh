// For SampleTokens: a row of logits, its tokens as keys, and sums over a block.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_rows.cuh"
#include "kernels/op_args.h"

namespace ttt::sampling {

inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / kWarpSize;
// That are sorted at once: one a thread.
inline constexpr int kMaxKeys = kThreads;
// Ranges of logits by which a cut is found.
inline constexpr int kBins = 2048;

using Count = unsigned long long;

// A whole number, 2^22 high + low: a thread sums each part of up to 512 such on
// its own, without a carry.
inline constexpr int kLowBits = 22;
struct Parts {
  uint32_t high;
  uint32_t low;
};
__device__ inline Count Join(Parts parts) {
  return (Count{parts.high} << kLowBits) + parts.low;
}

// Sums by range: 2^32 high + low. Shared memory adds 32 bits at a time.
struct BinSums {
  uint32_t low[kBins];
  uint32_t high[kBins];
};
// The pairs of a row in turn.
struct BiasPairs {
  int32_t ids[kMaxSampleBias];
  float values[kMaxSampleBias];
};
// How often an id was seen: a hash table that is never more than half full.
struct SeenIds {
  static constexpr int kPlaceBits = 11;
  static constexpr int kPlaces = 1 << kPlaceBits;
  static_assert(kPlaces >= 2 * kTokenRingSize, "half of it stays free");
  int32_t ids[kPlaces];  // -1: free
  int32_t counts[kPlaces];
};

struct alignas(sizeof(float4)) Shared {
  union {
    BinSums bins;
    BiasPairs bias;
    SeenIds seen;
  };
  SampleRow sample;
  uint64_t keys[kMaxKeys];
  Count scan[kWarps];
  Count warp_sums[kWarps];  // of SumWarps
  uint64_t cut;
  Count above;
  double log_total;  // log of the sum over exp(logit), before bias
  double random;     // of the draw
  int32_t bin;
  int32_t found;
  float raw;  // logit of the token, before bias and penalties
  int32_t num_keys;
};

__device__ inline int Warp() { return threadIdx.x / kWarpSize; }
__device__ inline int Lane() { return threadIdx.x % kWarpSize; }

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
__device__ inline float LogitOf(uint64_t key) {
  return ValueOf(uint32_t(key >> 32));
}

// The tokens from the best down to one of them.
struct Kept {
  float least;      // logit of the last
  int32_t last_id;  // its id
  __device__ bool Has(int32_t id, float logit) const {
    // Without branches.
    return bool(int(logit > least) |
                (int(logit == least) & int(id <= last_id)));
  }
};
__device__ inline Kept KeptAll() { return {-INFINITY, INT32_MAX}; }

// Over a warp, the same in all lanes.
__device__ inline uint64_t WarpMax(uint64_t value) {
  const auto high = uint32_t(value >> 32);
  const uint32_t most = __reduce_max_sync(kAllLanes, high);
  const uint32_t low =
      __reduce_max_sync(kAllLanes, high == most ? uint32_t(value) : 0);
  return uint64_t{most} << 32 | low;
}
// Of values below 2^53.
__device__ inline Count WarpSum(Count value) {
  constexpr int kBits = 26;
  const Count low =
      __reduce_add_sync(kAllLanes, uint32_t(value & ((Count{1} << kBits) - 1)));
  const Count high = __reduce_add_sync(kAllLanes, uint32_t(value >> kBits));
  return (high << kBits) + low;
}
// The sum over the lanes up to this one.
__device__ inline Count WarpScan(Count value) {
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const Count other = __shfl_up_sync(kAllLanes, value, offset);
    if (Lane() >= offset) value += other;
  }
  return value;
}

// Each of these two holds for all threads of the block.
__device__ inline uint64_t BlockMax(Shared& shared, uint64_t value) {
  value = WarpMax(value);
  __syncthreads();
  if (Lane() == 0) shared.scan[Warp()] = value;
  __syncthreads();
  return WarpMax(shared.scan[Lane()]);
}
// The sum over the threads before this one, and over all.
__device__ inline Count SumBefore(Shared& shared, Count value, Count* total) {
  const Count sum = WarpScan(value);
  __syncthreads();
  if (Lane() == kWarpSize - 1) shared.scan[Warp()] = sum;
  __syncthreads();
  const Count of_warp = shared.scan[Lane()];
  const Count up_to = WarpScan(of_warp);
  *total = __shfl_sync(kAllLanes, up_to, kWarpSize - 1);
  return __shfl_sync(kAllLanes, up_to - of_warp, Warp()) + sum - value;
}

struct AnyToken {
  __device__ bool operator()(int32_t, float) const { return true; }
};

// The row of logits in hand. A warp owns a run of its ids, and walks it a four
// a lane at a time.
struct Row {
  static constexpr int32_t kStep = 4 * kWarpSize;

  float* logits;  // shared memory, or global
  int32_t size;
  // May be read in fours; what is in the last one beyond the row is -inf, which
  // ranks below all of the row.
  bool has_fours;

  __device__ int32_t RunSize() const {
    return (size + kStep * kWarps - 1) / (kStep * kWarps) * kStep;
  }
  // Of this warp.
  __device__ int32_t Begin() const { return Warp() * RunSize(); }
  __device__ int32_t End() const { return min(size, Begin() + RunSize()); }

  __device__ float4 Four(int32_t id) const {
    if (has_fours) return LoadFour(logits + id);
    return {logits[id], id + 1 < size ? logits[id + 1] : -INFINITY,
            id + 2 < size ? logits[id + 2] : -INFINITY,
            id + 3 < size ? logits[id + 3] : -INFINITY};
  }
  // Calls visit(id, four) for the thread's own.
  template <typename Visit>
  __device__ void ForEachFour(Visit visit) const {
    const int32_t end = End();
#pragma unroll 1
    for (int32_t id = Begin() + 4 * Lane(); id < end; id += kStep) {
      visit(id, Four(id));
    }
  }
  // Calls visit(id, logit), for what is beyond the row in the last four too.
  template <typename Visit>
  __device__ void ForEach(Visit visit) const {
    ForEachOf(AnyToken(),
              [&](int32_t id, float logit, bool) { visit(id, logit); });
  }
  // Calls visit(id, logit, has(id, logit)) for those of the fours of which it
  // has any: a branch a four, not a token.
  template <typename Has, typename Visit>
  __device__ void ForEachOf(Has has, Visit visit) const {
    ForEachFour([&](int32_t id, float4 x) {
      const bool of_x = has(id, x.x);
      const bool of_y = has(id + 1, x.y);
      const bool of_z = has(id + 2, x.z);
      const bool of_w = has(id + 3, x.w);
      if ((int(of_x) | int(of_y) | int(of_z) | int(of_w)) == 0) return;
      visit(id, x.x, of_x);
      visit(id + 1, x.y, of_y);
      visit(id + 2, x.z, of_z);
      visit(id + 3, x.w, of_w);
    });
  }
};

// The best of the tokens that a thread sees, in the order of ids.
class BestOfThread {
 public:
  __device__ explicit BestOfThread(const Row& row)
      : four_(row.Begin() + 4 * Lane()), is_any_(four_ < row.End()) {}
  __device__ void See(int32_t id, float4 x) {
    const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
    if (most > logit_) {
      logit_ = most;
      four_ = id;
    }
  }
  // Of the best of all threads.
  __device__ uint64_t KeyOfBlock(Shared& shared, const Row& row) const {
    uint64_t key = 0;
    if (is_any_) {
      const float4 x = row.Four(four_);
      const int32_t at = x.x == logit_   ? 0
                         : x.y == logit_ ? 1
                         : x.z == logit_ ? 2
                                         : 3;
      key = KeyOf(logit_, four_ + at);
    }
    return BlockMax(shared, key);
  }

 private:
  float logit_ = -INFINITY;
  int32_t four_;
  bool is_any_;
};

// The sum of value(logit) over the tokens of which has(id, logit), with those
// of the warps in shared.warp_sums.
template <typename Has, typename Value>
__device__ Count SumWarps(Shared& shared, const Row& row, Has has,
                          Value value) {
  Parts own = {0, 0};
  row.ForEachOf(has, [&](int32_t, float logit, bool is_in) {
    const Parts parts = value(logit);
    own.high += is_in ? parts.high : 0;
    own.low += is_in ? parts.low : 0;
  });
  const Count sum = WarpSum(Join(own));
  __syncthreads();
  if (Lane() == 0) shared.warp_sums[Warp()] = sum;
  __syncthreads();
  const Count up_to = WarpScan(shared.warp_sums[Lane()]);
  return __shfl_sync(kAllLanes, up_to, kWarpSize - 1);
}

// The first token, by id, with which the running sum of what SumWarps has just
// summed comes to `wanted`, of 1 up to that sum.
template <typename Has, typename Value>
__device__ int32_t Locate(Shared& shared, const Row& row, Count wanted, Has has,
                          Value value) {
  const auto value_of = [&](int32_t id, float logit) {
    return has(id, logit) ? Join(value(logit)) : 0;
  };
  const Count of_warp = shared.warp_sums[Lane()];
  Count up_to = WarpScan(of_warp);
  const int owner = __ffs(__ballot_sync(kAllLanes, up_to >= wanted)) - 1;
  if (Warp() == owner) {
    Count before = __shfl_sync(kAllLanes, up_to - of_warp, owner);
    const int32_t end = row.End();
    for (int32_t first = row.Begin(); first < end; first += Row::kStep) {
      const int32_t id = first + 4 * Lane();
      Count x = 0, y = 0, z = 0, w = 0;
      if (id < end) {
        const float4 four = row.Four(id);
        x = value_of(id, four.x);
        y = x + value_of(id + 1, four.y);
        z = y + value_of(id + 2, four.z);
        w = z + value_of(id + 3, four.w);
      }
      up_to = before + WarpScan(w);
      const unsigned reached = __ballot_sync(kAllLanes, up_to >= wanted);
      if (reached != 0) {
        if (Lane() == __ffs(reached) - 1) {
          const Count rest = wanted - (up_to - w);
          shared.found = id + (x >= rest   ? 0
                               : y >= rest ? 1
                               : z >= rest ? 2
                                           : 3);
        }
        break;
      }
      before = __shfl_sync(kAllLanes, up_to, kWarpSize - 1);
    }
  }
  __syncthreads();
  return shared.found;
}

}  // namespace ttt::sampling
