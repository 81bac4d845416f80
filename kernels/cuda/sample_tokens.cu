#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
// Weights are whole numbers of 2^-44, so that their sums are exact in any
// order: 2^17 of them of at most 1 stay below 2^62.
constexpr double kWeightUnit = 17592186044416.0;  // 2^44
constexpr float kLeastWeight = 1e-37f;            // less is 0
// More candidates are found one by one.
constexpr int kMaxSortedCandidates = 1024;

using Count = unsigned long long;

struct Shared {
  Count histograms[kWarps][kDigits];
  Count scan[kWarps];
  double double_scan[kWarps];
  uint64_t keys[kMaxSortedCandidates];
  int32_t ids[kTokenRingSize];
  int32_t found;
  float raw;  // logit of the token, before bias and penalties
  int32_t num_keys;
};

// Greater is better; of equals none. -0.0 is 0.0. A NaN must not get here.
__device__ uint32_t OrderOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
// Ties go to the lowest id.
__device__ uint64_t KeyOf(float value, int32_t id) {
  return uint64_t{OrderOf(value)} << 32 | uint32_t(~id);
}
__device__ int32_t IdOf(uint64_t key) { return int32_t(~uint32_t(key)); }

template <typename T>
__device__ T WarpMax(T value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// Each of these returns the same in all threads of the block.
__device__ uint64_t BlockMax(Shared& shared, uint64_t value) {
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
__device__ double BlockSum(Shared& shared, double value) {
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
__device__ Count SumBefore(Shared& shared, Count value, Count* total) {
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

// Philox4x32-10 with key `seed` and counter `position`: 53 bits / 2^53.
__device__ double UniformOf(uint64_t seed, int64_t position) {
  uint32_t counter[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * counter[0];
    const uint64_t b = uint64_t{0xcd9e8d57u} * counter[2];
    const uint32_t next[4] = {
        uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b),
        uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
    for (int i = 0; i < 4; ++i) counter[i] = next[i];
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  const uint64_t bits = uint64_t{counter[0]} << 32 | counter[1];
  return double(bits >> 11) / 9007199254740992.0;  // 2^53
}

// Tokens that are kept: those above `order`, and of those at it the first
// `num_equal` by id.
struct Cut {
  uint32_t order;
  Count num_equal;
};
constexpr Cut kKeepAll = {0, ~Count{0}};

// The row of logits that is drawn from, after bias and penalties. A thread owns
// [begin, end) of its ids.
struct Row {
  const float* logits;
  int32_t vocab_size;
  int32_t begin;
  int32_t end;
  float max;
  float temperature;

  __device__ Count WeightOf(int32_t id) const {
    const float weight = expf((logits[id] - max) / temperature);
    return weight < kLeastWeight ? 0 : Count(double(weight) * kWeightUnit);
  }
};

// The threads' own tokens that a cut keeps, each given to `visit`.
template <typename Visit>
__device__ void VisitKept(Shared& shared, const Row& row, Cut cut,
                          Visit visit) {
  Count equal = 0;
  for (int32_t id = row.begin; id < row.end; ++id) {
    equal += OrderOf(row.logits[id]) == cut.order;
  }
  Count all_equal = 0;
  Count rank = SumBefore(shared, equal, &all_equal);
  for (int32_t id = row.begin; id < row.end; ++id) {
    const uint32_t order = OrderOf(row.logits[id]);
    if (order < cut.order) continue;
    if (order == cut.order && rank++ >= cut.num_equal) continue;
    visit(id, order);
  }
}

// The cut that keeps the fewest tokens of `kept`, best first, whose values sum
// to at least `wanted` > 0: finds its order from the highest digit down.
template <typename Value>
__device__ Cut CutAt(Shared& shared, const Row& row, Cut kept, double wanted,
                     Value value) {
  uint32_t prefix = 0;
  Count above = 0;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    __syncthreads();
    for (int i = threadIdx.x; i < kWarps * kDigits; i += kThreads) {
      shared.histograms[i / kDigits][i % kDigits] = 0;
    }
    __syncthreads();
    Count* const histogram = shared.histograms[threadIdx.x / kWarpSize];
    VisitKept(shared, row, kept, [&](int32_t id, uint32_t order) {
      if (shift + kDigitBits < 32 &&
          order >> (shift + kDigitBits) != prefix >> (shift + kDigitBits)) {
        return;
      }
      atomicAdd(&histogram[order >> shift & (kDigits - 1)], value(id));
    });
    __syncthreads();
    for (int digit = threadIdx.x; digit < kDigits; digit += kThreads) {
      for (int warp = 1; warp < kWarps; ++warp) {
        shared.histograms[0][digit] += shared.histograms[warp][digit];
      }
    }
    __syncthreads();
    int lowest = kDigits - 1;  // that has any, should rounding ask for more
    int digit = kDigits - 1;
    Count lowest_above = above;
    for (; digit >= 0; --digit) {
      const Count sum = shared.histograms[0][digit];
      if (sum == 0) continue;
      lowest = digit;
      lowest_above = above;
      if (double(above + sum) >= wanted) break;
      above += sum;
    }
    above = lowest_above;
    prefix |= uint32_t(lowest) << shift;
  }
  // All at the cut are of one value.
  Count each = 0;
  for (int32_t id = row.begin; id < row.end; ++id) {
    if (OrderOf(row.logits[id]) == prefix) each = value(id);
  }
  each = BlockMax(shared, each);
  Count num_equal = 1;
  if (each > 0 && wanted > double(above)) {
    num_equal = Count(ceil((wanted - double(above)) / double(each)));
  }
  if (kept.order == prefix && num_equal > kept.num_equal) {
    num_equal = kept.num_equal;
  }
  return {prefix, num_equal < 1 ? 1 : num_equal};
}

// The logits that a thread of Adjust may change, as they were.
struct RawLogits {
  int32_t bias_id = -1;
  int32_t seen_id = -1;
  float bias_logit = 0.0f;
  float seen_logit = 0.0f;
};

__device__ int32_t NumSeen(const SampleRow& sample) {
  const bool is_off = sample.repetition_penalty == 1.0f &&
                      sample.presence_penalty == 0.0f &&
                      sample.frequency_penalty == 0.0f;
  if (sample.slot < 0 || is_off) return 0;
  return sample.position < kTokenRingSize ? sample.position : kTokenRingSize;
}

__device__ RawLogits ReadRaw(const SampleTokensArgs& args,
                             const SampleRow& sample, const float* logits) {
  static_assert(kThreads == kTokenRingSize && kThreads == kMaxSampleBias,
                "a thread a token");
  RawLogits raw;
  if (threadIdx.x < sample.bias_end - sample.bias_begin) {
    raw.bias_id = args.bias_ids[sample.bias_begin + threadIdx.x];
    raw.bias_logit = logits[raw.bias_id];
  }
  if (threadIdx.x < NumSeen(sample)) {
    const int32_t id = SlotOf<int32_t>(args.ring, sample.slot)[threadIdx.x];
    if (id >= 0 && id < args.vocab_size) {
      raw.seen_id = id;
      raw.seen_logit = logits[id];
    }
  }
  return raw;
}

// Bias, then penalties, on the row's logits.
__device__ void Adjust(const SampleTokensArgs& args, const SampleRow& sample,
                       const RawLogits& raw, Shared& shared, float* logits) {
  if (threadIdx.x == 0) {  // In turn: an id may occur twice.
    for (int32_t i = sample.bias_begin; i < sample.bias_end; ++i) {
      logits[args.bias_ids[i]] += args.bias_values[i];
    }
  }
  __syncthreads();
  const int32_t num_seen = NumSeen(sample);
  if (num_seen == 0) return;
  const int32_t i = threadIdx.x;
  const int32_t id = raw.seen_id;
  shared.ids[i] = id;
  __syncthreads();
  if (id < 0) return;
  int32_t count = 0;
  for (int32_t j = 0; j < num_seen; ++j) {
    if (shared.ids[j] != id) continue;
    if (j < i) return;  // Another thread does it.
    ++count;
  }
  float& logit = logits[id];
  logit = logit > 0.0f ? logit / sample.repetition_penalty
                       : logit * sample.repetition_penalty;
  logit -= sample.presence_penalty + count * sample.frequency_penalty;
}

// Steps 4 to 8 of cpu/sample_tokens.h.
__device__ int32_t ChooseToken(const SampleTokensArgs& args,
                               const SampleRow& sample, Shared& shared,
                               const float* logits) {
  const int32_t n = args.vocab_size;
  uint64_t best = 0;
  for (int32_t id = threadIdx.x; id < n; id += kThreads) {
    const uint64_t key = KeyOf(logits[id], id);
    best = key > best ? key : best;
  }
  best = BlockMax(shared, best);
  const float max = logits[IdOf(best)];
  if (sample.temperature == 0.0f || !isfinite(max)) return IdOf(best);

  const int32_t share = (n + kThreads - 1) / kThreads;
  const int32_t begin = min(n, int32_t(threadIdx.x) * share);
  const Row row = {
      logits, n, begin, min(n, begin + share), max, sample.temperature};
  Cut cut = kKeepAll;
  if (sample.top_k > 0 && sample.top_k < n) {
    cut =
        CutAt(shared, row, cut, sample.top_k, [](int32_t) { return Count{1}; });
  }
  if (sample.top_p < 1.0f) {
    Count own = 0;
    VisitKept(shared, row, cut,
              [&](int32_t id, uint32_t) { own += row.WeightOf(id); });
    Count total = 0;
    SumBefore(shared, own, &total);
    cut = CutAt(shared, row, cut, sample.top_p * double(total),
                [&](int32_t id) { return row.WeightOf(id); });
  }
  const auto weight_of = [&](int32_t id) {
    const Count weight = row.WeightOf(id);
    return double(weight) < double(sample.min_p) * kWeightUnit ? 0 : weight;
  };
  Count own = 0;
  VisitKept(shared, row, cut,
            [&](int32_t id, uint32_t) { own += weight_of(id); });
  Count total = 0;
  Count sum = SumBefore(shared, own, &total);
  const double wanted = UniformOf(sample.seed, sample.position) * double(total);
  if (threadIdx.x == 0) shared.found = IdOf(best);
  const bool is_here = double(sum) <= wanted && double(sum + own) > wanted;
  __syncthreads();
  VisitKept(shared, row, cut, [&](int32_t id, uint32_t) {
    if (!is_here || double(sum) > wanted) return;
    sum += weight_of(id);
    if (double(sum) > wanted) shared.found = id;
  });
  __syncthreads();
  return shared.found;
}

// The largest key below `bound` of the row.
__device__ uint64_t BestBelow(Shared& shared, const float* logits, int32_t n,
                              uint64_t bound) {
  uint64_t best = 0;
  for (int32_t id = threadIdx.x; id < n; id += kThreads) {
    const uint64_t key = KeyOf(logits[id], id);
    if (key < bound && key > best) best = key;
  }
  return BlockMax(shared, best);
}

// Puts the keys of the best `count` tokens, best first, in shared.keys.
__device__ void SortBest(Shared& shared, const float* logits, int32_t n,
                         int32_t count) {
  const int32_t share = (n + kThreads - 1) / kThreads;
  const int32_t begin = min(n, int32_t(threadIdx.x) * share);
  const Row row = {logits, n, begin, min(n, begin + share), 0.0f, 1.0f};
  const Cut cut =
      CutAt(shared, row, kKeepAll, count, [](int32_t) { return Count{1}; });
  __syncthreads();
  if (threadIdx.x == 0) shared.num_keys = 0;
  for (int i = threadIdx.x; i < kMaxSortedCandidates; i += kThreads) {
    shared.keys[i] = 0;
  }
  __syncthreads();
  VisitKept(shared, row, cut, [&](int32_t id, uint32_t) {
    const int32_t i = atomicAdd(&shared.num_keys, 1);
    if (i < kMaxSortedCandidates) shared.keys[i] = KeyOf(logits[id], id);
  });
  __syncthreads();
  // Bitonic, largest first.
  for (int size = 2; size <= kMaxSortedCandidates; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < kMaxSortedCandidates; i += kThreads) {
        const int other = i ^ stride;
        if (other < i) continue;  // Its thread does both.
        const bool descends = (i & size) == 0;
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

__device__ void ReportCandidates(const SampleTokensArgs& args, int32_t row,
                                 Shared& shared, const float* logits,
                                 double log_total) {
  const int32_t count =
      min(args.samples[row].num_candidates, args.max_candidates);
  if (count <= 0) return;
  const int64_t first = int64_t{row} * args.max_candidates;
  const auto report = [&](int32_t i, uint64_t key) {
    args.candidate_ids[first + i] = IdOf(key);
    args.candidate_logprobs[first + i] = float(logits[IdOf(key)] - log_total);
  };
  if (count <= kMaxSortedCandidates) {
    SortBest(shared, logits, args.vocab_size, count);
    for (int32_t i = threadIdx.x; i < count; i += kThreads) {
      report(i, shared.keys[i]);
    }
    return;
  }
  uint64_t key = ~uint64_t{0};
  for (int32_t i = 0; i < count; ++i) {
    key = BestBelow(shared, logits, args.vocab_size, key);
    if (threadIdx.x == 0) report(i, key);
  }
}

// grid [num_rows]; a block owns a row.
__global__ void __launch_bounds__(kThreads)
    SampleTokensKernel(const __grid_constant__ SampleTokensArgs args) {
  extern __shared__ uint64_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  WaitForKernelsBefore();
  const int32_t row = blockIdx.x;
  const int32_t n = args.vocab_size;
  const SampleRow sample = args.samples[row];
  float* const logits = args.logits + int64_t{row} * n;
  uint32_t order = 0;
  bool finite = true;
  for (int32_t id = threadIdx.x; id < n; id += kThreads) {
    finite = finite && isfinite(logits[id]);
    order = max(order, OrderOf(logits[id]));
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0) {
    args.finite[row] = finite;
    args.token_ids[row] = kNoToken;
    args.logprobs[row] = 0.0f;
  }
  if (!finite) return;
  const uint64_t best = BlockMax(shared, order);
  const float max = __uint_as_float(
      best >> 31 != 0 ? uint32_t(best) & 0x7fffffffu : ~uint32_t(best));
  double own = 0.0;
  for (int32_t id = threadIdx.x; id < n; id += kThreads) {
    own += expf(logits[id] - max);
  }
  const double log_total = max + log(BlockSum(shared, own));
  ReportCandidates(args, row, shared, logits, log_total);
  if (sample.given_token == kNoToken) return;
  if (sample.given_token != kSampleToken) {
    if (threadIdx.x != 0) return;
    args.token_ids[row] = sample.given_token;
    args.logprobs[row] = float(logits[sample.given_token] - log_total);
    return;
  }
  const RawLogits raw = ReadRaw(args, sample, logits);
  __syncthreads();
  Adjust(args, sample, raw, shared, logits);
  __syncthreads();
  const int32_t token = ChooseToken(args, sample, shared, logits);
  if (threadIdx.x == 0) shared.raw = logits[token];
  __syncthreads();
  // Threads that have the same token have the same logit of it.
  if (raw.bias_id == token) shared.raw = raw.bias_logit;
  if (raw.seen_id == token) shared.raw = raw.seen_logit;
  __syncthreads();
  if (threadIdx.x != 0) return;
  args.token_ids[row] = token;
  args.logprobs[row] = float(shared.raw - log_total);
}

}  // namespace

cudaError_t PrepareSampleTokens() {
  return cudaFuncSetAttribute(SampleTokensKernel,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(Shared));
}

cudaError_t LaunchSampleTokens(const SampleTokensArgs& args,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return LaunchOverlapped(SampleTokensKernel, dim3(args.num_rows), kThreads,
                          sizeof(Shared), stream, args);
}

}  // namespace ttt
