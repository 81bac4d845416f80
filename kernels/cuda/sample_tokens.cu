#include <cfloat>
#include <cstddef>

#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/sample_cut.cuh"
#include "kernels/cuda/sample_row.cuh"

namespace ttt {
namespace sampling {
namespace {

// Weights are whole numbers of 2^-44, so that their sums are exact in any
// order: 2^17 of them of at most 1 stay below 2^62.
constexpr double kWeightUnit = 17592186044416.0;  // 2^44
// So far below the largest, in units of the temperature, weights are 0.
constexpr float kLeastExponent = 31.0f;
// A row of more logits stays in global memory.
constexpr int32_t kMaxStagedLogits = 51200;
constexpr int kMaxSharedBytes = 227 * 1024;  // of a block
static_assert(sizeof(Shared) + kMaxStagedLogits * sizeof(float) <=
                  kMaxSharedBytes,
              "room for the longest row that is staged");

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

// A weight, in [0, 1], in units of 2^-44, rounded down.
__device__ Parts PartsOf(float weight) {
  // To these, adding rounds to a whole number, which then is the low bits.
  constexpr float kWhole = 8388608.0f;  // 2^23
  constexpr uint32_t kWholeBits = 0x4b000000u;
  constexpr float kScale = 4194304.0f;  // 2^22
  static_assert(kLowBits == 22, "half the bits of a unit");
  const float high = __fmaf_rd(weight, kScale, kWhole);
  const float rest = fmaf(weight, kScale, kWhole - high);
  const float low = __fmaf_rd(rest, kScale, kWhole);
  return {__float_as_uint(high) - kWholeBits,
          __float_as_uint(low) - kWholeBits};
}

// What a row is drawn by: after bias and penalties.
class Weights {
 public:
  // Weights below `least` are 0.
  __device__ Weights(float max, float temperature, float least)
      : max_(max), least_(least) {
    // Powers of two by which neither a quotient nor its error overflows or
    // vanishes.
    scale_ = temperature < 1e-12f  ? 1.2676506e30f   // 2^100
             : temperature > 1e18f ? 8.6736174e-19f  // 2^-60
                                   : 1.0f;
    temperature_ = temperature * scale_;
    inverse_ = 1.0f / temperature_;
    floor_ = fmaxf(-2.0f * kLeastExponent * temperature, -FLT_MAX);
  }

  // exp((logit - max) / temperature).
  __device__ Parts Of(float logit) const {
    const float x = fmaxf(logit - max_, floor_) * scale_;
    // The quotient as division rounds it.
    float quotient = x * inverse_;
    quotient = fmaf(fmaf(-quotient, temperature_, x), inverse_, quotient);
    const float weight = expf(quotient);
    return PartsOf(weight < least_ ? 0.0f : weight);
  }

 private:
  float max_;
  float least_;
  float scale_;
  float temperature_;
  float inverse_;
  float floor_;
};

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

// Adds the bias of each id, that of the same id in turn.
__device__ void AddBias(const SampleTokensArgs& args, const SampleRow& sample,
                        const RawLogits& raw, Shared& shared, float* logits) {
  const int32_t i = threadIdx.x;
  const int32_t count = sample.bias_end - sample.bias_begin;
  if (i < count) {
    shared.bias.ids[i] = raw.bias_id;
    shared.bias.values[i] = args.bias_values[sample.bias_begin + i];
  }
  __syncthreads();
  if (i >= count) return;
  float logit = raw.bias_logit;
  for (int32_t j = 0; j < count; ++j) {
    if (shared.bias.ids[j] != raw.bias_id) continue;
    if (j < i) return;  // Another thread does it.
    logit += shared.bias.values[j];
  }
  logits[raw.bias_id] = logit;
}

__device__ void Penalize(const SampleRow& sample, const RawLogits& raw,
                         Shared& shared, float* logits) {
  SeenIds& seen = shared.seen;
  for (int i = threadIdx.x; i < SeenIds::kPlaces; i += kThreads) {
    seen.ids[i] = -1;
    seen.counts[i] = 0;
  }
  __syncthreads();
  bool is_first = false;
  uint32_t place = 0;
  if (raw.seen_id >= 0) {
    place = raw.seen_id * 0x9e3779b1u >> (32 - SeenIds::kPlaceBits);
    while (true) {
      const int32_t before = atomicCAS(&seen.ids[place], -1, raw.seen_id);
      is_first = before == -1;
      if (is_first || before == raw.seen_id) break;
      place = (place + 1) % SeenIds::kPlaces;
    }
    atomicAdd(&seen.counts[place], 1);
  }
  __syncthreads();
  if (!is_first) return;
  const int32_t count = seen.counts[place];
  float& logit = logits[raw.seen_id];
  logit = logit > 0.0f ? logit / sample.repetition_penalty
                       : logit * sample.repetition_penalty;
  logit -= sample.presence_penalty + count * sample.frequency_penalty;
}

// Bias, then penalties, on the row's logits.
__device__ void Adjust(const SampleTokensArgs& args, const SampleRow& sample,
                       const RawLogits& raw, Shared& shared, float* logits) {
  __syncthreads();
  AddBias(args, sample, raw, shared, logits);
  __syncthreads();
  if (NumSeen(sample) > 0) Penalize(sample, raw, shared, logits);
  __syncthreads();
}

// Step 8: the first token, by id, with which the running sum of weights exceeds
// its part of their total; the last that has weight, should rounding ask for
// all of it.
template <typename Has, typename Value>
__device__ int32_t Draw(Shared& shared, const Row& row, Has has, Value value) {
  const Count total = SumWarps(shared, row, has, value);
  const auto passed = Count(shared.random * double(total));
  return Locate(shared, row, passed < total ? passed + 1 : total, has, value);
}

// Steps 4 to 8 of cpu/sample_tokens.h.
__device__ int32_t ChooseToken(const SampleRow& sample, Shared& shared,
                               const Row& row, uint64_t best) {
  const float max = LogitOf(best);
  if (sample.temperature == 0.0f || !isfinite(max)) return IdOf(best);
  if (threadIdx.x == kWarpSize) {  // Not of the warp that has a logarithm.
    shared.random = UniformOf(sample.seed, sample.position);
  }
  const Weights drawn(max, sample.temperature, sample.min_p);
  const bool has_top_k = sample.top_k > 0 && sample.top_k < row.size;
  const bool has_top_p = sample.top_p < 1.0f;
  const auto weight_of = [&](float logit) { return drawn.Of(logit); };
  if (!has_top_k && !has_top_p) {
    return Draw(shared, row, AnyToken(), weight_of);
  }
  const float reach = ReachOf(shared, row, max);
  Kept kept = KeptAll();
  if (has_top_k) kept = CutAtCount(shared, row, sample.top_k, max, reach);
  if (has_top_p) {
    const Weights weights(max, sample.temperature, 0.0f);
    kept = CutAt(
        shared, row, kept, max,
        fminf(reach, kLeastExponent * sample.temperature),
        [&](Count total) -> Count {
          const auto part = Count(ceil(sample.top_p * double(total)));
          return part < 1 ? 1 : part > total ? total : part;
        },
        [&](float logit) { return weights.Of(logit); });
  }
  const auto is_kept = [&](int32_t id, float logit) {
    return kept.Has(id, logit);
  };
  return Draw(shared, row, is_kept, weight_of);
}

// The largest key below `bound` of the row.
__device__ uint64_t BestBelow(Shared& shared, const Row& row, uint64_t bound) {
  uint64_t best = 0;
  row.ForEach([&](int32_t id, float logit) {
    const uint64_t key = KeyOf(logit, id);
    if (key < bound && key > best) best = key;
  });
  return BlockMax(shared, best);
}

__device__ void ReportCandidates(const SampleTokensArgs& args, Shared& shared,
                                 const Row& row, float max) {
  const int32_t count = min(shared.sample.num_candidates, args.max_candidates);
  if (count <= 0) return;
  const int64_t first = int64_t{blockIdx.x} * args.max_candidates;
  const auto report = [&](int32_t i, uint64_t key) {
    args.candidate_ids[first + i] = IdOf(key);
    args.candidate_logprobs[first + i] = float(LogitOf(key) - shared.log_total);
  };
  if (count <= kMaxKeys) {
    const Kept kept =
        CutAtCount(shared, row, count, max, ReachOf(shared, row, max));
    CollectKeys(shared, row,
                [&](int32_t id, float logit) { return kept.Has(id, logit); });
    SortKeys(shared, count);
    for (int32_t i = threadIdx.x; i < count; i += kThreads) {
      report(i, shared.keys[i]);
    }
    return;
  }
  uint64_t key = ~uint64_t{0};
  for (int32_t i = 0; i < count; ++i) {
    key = BestBelow(shared, row, key);
    if (threadIdx.x == 0) report(i, key);
  }
}

// Brings the row `from` to `to`, if that is elsewhere. Returns whether all of
// it is finite, and its best key.
__device__ bool Stage(Shared& shared, const Row& from, const Row& to,
                      uint64_t* best) {
  constexpr int kFours = 8;  // on their way at a time
  float zero = 0.0f;         // A NaN once one is not finite.
  BestOfThread own(from);
  const int32_t end = from.End();
  for (int32_t begin = from.Begin() + 4 * Lane(); begin < end;
       begin += kFours * Row::kStep) {
    float4 fours[kFours];
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const int32_t id = begin + i * Row::kStep;
      if (id < end) fours[i] = from.Four(id);
    }
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const int32_t id = begin + i * Row::kStep;
      if (id >= end) break;
      const float4 x = fours[i];
      if (to.logits != from.logits) {
        *reinterpret_cast<float4*>(to.logits + id) = x;
      }
      zero = fmaf(x.x, 0.0f, zero);
      if (id + 1 < from.size) zero = fmaf(x.y, 0.0f, zero);
      if (id + 2 < from.size) zero = fmaf(x.z, 0.0f, zero);
      if (id + 3 < from.size) zero = fmaf(x.w, 0.0f, zero);
      own.See(id, x);
    }
  }
  const bool finite = __syncthreads_and(zero == 0.0f);
  *best = own.KeyOfBlock(shared, to);
  return finite;
}

// grid [num_rows]; a block owns a row.
template <bool kIsStaged>
__global__ void __launch_bounds__(kThreads)
    SampleTokensKernel(const __grid_constant__ SampleTokensArgs args) {
  extern __shared__ __align__(16) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  WaitForKernelsBefore();
  const int32_t n = args.vocab_size;
  const SampleRow& sample = shared.sample;  // From the first barrier on.
  if (threadIdx.x == 0) shared.sample = args.samples[blockIdx.x];
  float* const logits = args.logits + int64_t{blockIdx.x} * n;
  const Row raw_row = {logits, n, n % 4 == 0};
  Row row = raw_row;
  if constexpr (kIsStaged) {
    row = {reinterpret_cast<float*>(memory + sizeof(Shared)), n, true};
  }
  uint64_t best = 0;
  const bool finite = Stage(shared, raw_row, row, &best);
  if (threadIdx.x == 0) {
    args.finite[blockIdx.x] = finite;
    args.token_ids[blockIdx.x] = kNoToken;
    args.logprobs[blockIdx.x] = 0.0f;
  }
  if (!finite) return;
  const float max = LogitOf(best);
  const Count total = SumWarps(shared, row, AnyToken(), [&](float logit) {
    return PartsOf(expf(logit - max));
  });
  // Its other readers come after a barrier.
  if (threadIdx.x == 0) {
    shared.log_total = max + log(double(total) / kWeightUnit);
  }
  ReportCandidates(args, shared, row, max);
  if (sample.given_token == kNoToken) return;
  if (sample.given_token != kSampleToken) {
    if (threadIdx.x != 0) return;
    args.token_ids[blockIdx.x] = sample.given_token;
    args.logprobs[blockIdx.x] =
        float(row.logits[sample.given_token] - shared.log_total);
    return;
  }
  const bool is_adjusted =
      sample.bias_end > sample.bias_begin || NumSeen(sample) > 0;
  RawLogits raw;
  if (is_adjusted) {
    raw = ReadRaw(args, sample, row.logits);
    Adjust(args, sample, raw, shared, row.logits);
    BestOfThread own(row);
    row.ForEachFour([&](int32_t id, float4 x) { own.See(id, x); });
    best = own.KeyOfBlock(shared, row);
  }
  const int32_t token = ChooseToken(sample, shared, row, best);
  if (threadIdx.x == 0) shared.raw = row.logits[token];
  __syncthreads();
  // Threads that have the same token have the same logit of it.
  if (raw.bias_id == token) shared.raw = raw.bias_logit;
  if (raw.seen_id == token) shared.raw = raw.seen_logit;
  __syncthreads();
  if (threadIdx.x != 0) return;
  args.token_ids[blockIdx.x] = token;
  args.logprobs[blockIdx.x] = float(shared.raw - shared.log_total);
}

}  // namespace
}  // namespace sampling

cudaError_t PrepareSampleTokens() {
  return cudaFuncSetAttribute(
      sampling::SampleTokensKernel<true>,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      sizeof(sampling::Shared) + sampling::kMaxStagedLogits * sizeof(float));
}

cudaError_t LaunchSampleTokens(const SampleTokensArgs& args,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(args.num_rows);
  if (args.vocab_size > sampling::kMaxStagedLogits) {
    return LaunchOverlapped(sampling::SampleTokensKernel<false>, grid,
                            sampling::kThreads, sizeof(sampling::Shared),
                            stream, args);
  }
  const int32_t fours = (args.vocab_size + 3) / 4;
  return LaunchOverlapped(
      sampling::SampleTokensKernel<true>, grid, sampling::kThreads,
      sizeof(sampling::Shared) + fours * sizeof(float4), stream, args);
}

}  // namespace ttt
