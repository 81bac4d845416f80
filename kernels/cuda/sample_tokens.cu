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
constexpr float kLeastWeight = 1e-37f;            // less is 0
// Beyond this far below the largest, in units of the temperature, weights are
// less than kLeastWeight.
constexpr float kLeastExponent = 88.0f;
// A row of more logits stays in global memory.
constexpr int32_t kMaxStagedLogits = 40960;

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

// What a row is drawn by: after bias and penalties.
struct Weights {
  float max;
  float temperature;

  __device__ Count Of(float logit) const {
    const float weight = expf((logit - max) / temperature);
    return weight < kLeastWeight ? 0 : Count(double(weight) * kWeightUnit);
  }
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

// Step 8: of the tokens whose keys are `kept` or more, the first, by id, whose
// running sum of weights exceeds its part of their total; `best` if rounding
// leaves none.
template <typename Value>
__device__ int32_t Draw(Shared& shared, const Row& row, uint64_t kept,
                        double random, int32_t best, Value value) {
  Count own = 0;
  row.ForEach([&](int32_t id, float logit) {
    if (KeyOf(logit, id) >= kept) own += value(logit);
  });
  Count total = 0;
  SumBefore(shared, own, &total);
  const double wanted = random * double(total);
  if (threadIdx.x == 0) shared.found = best;
  Count sum = 0;
  for (int32_t begin = 0; begin < row.size; begin += 4 * kThreads) {
    const int32_t first = begin + 4 * threadIdx.x;
    const auto visit_own = [&](auto visit) {
      if (first >= row.size) return;
      row.VisitFour(first, row.Four(first), [&](int32_t id, float logit) {
        if (KeyOf(logit, id) >= kept) visit(id, value(logit));
      });
    };
    own = 0;
    visit_own([&](int32_t, Count weight) { own += weight; });
    Count all = 0;
    Count before = sum + SumBefore(shared, own, &all);
    sum += all;
    if (double(sum) <= wanted) continue;
    if (double(before) <= wanted && double(before + own) > wanted) {
      visit_own([&](int32_t id, Count weight) {
        if (double(before) > wanted) return;
        before += weight;
        if (double(before) > wanted) shared.found = id;
      });
    }
    break;
  }
  __syncthreads();
  return shared.found;
}

// The key of the best token.
__device__ uint64_t BestKey(Shared& shared, const Row& row) {
  uint64_t best = 0;
  row.ForEach([&](int32_t id, float logit) {
    const uint64_t key = KeyOf(logit, id);
    best = key > best ? key : best;
  });
  return BlockMax(shared, best);
}

// Steps 4 to 8 of cpu/sample_tokens.h.
__device__ int32_t ChooseToken(const SampleRow& sample, Shared& shared,
                               const Row& row, uint64_t best) {
  const float max = row.logits[IdOf(best)];
  if (sample.temperature == 0.0f || !isfinite(max)) return IdOf(best);
  const Weights weights = {max, sample.temperature};
  const bool has_top_k = sample.top_k > 0 && sample.top_k < row.size;
  const bool has_top_p = sample.top_p < 1.0f;
  uint64_t kept = 0;
  const float reach = has_top_k || has_top_p ? ReachOf(shared, row, max) : 0.0f;
  if (has_top_k) {
    kept = CutAt(shared, row, kept, sample.top_k, max, reach,
                 [](float) { return Count{1}; });
  }
  const auto weight_of = [&](float logit) { return weights.Of(logit); };
  if (has_top_p) {
    Count own = 0;
    row.ForEach([&](int32_t id, float logit) {
      if (KeyOf(logit, id) >= kept) own += weight_of(logit);
    });
    Count total = 0;
    SumBefore(shared, own, &total);
    kept = CutAt(shared, row, kept, sample.top_p * double(total), max,
                 fminf(reach, kLeastExponent * sample.temperature), weight_of);
  }
  const double least = double(sample.min_p) * kWeightUnit;
  return Draw(shared, row, kept, UniformOf(sample.seed, sample.position),
              IdOf(best), [&](float logit) {
                const Count weight = weight_of(logit);
                return double(weight) < least ? 0 : weight;
              });
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
                                 const Row& row, float max, double log_total) {
  const int32_t count =
      min(args.samples[blockIdx.x].num_candidates, args.max_candidates);
  if (count <= 0) return;
  const int64_t first = int64_t{blockIdx.x} * args.max_candidates;
  const auto report = [&](int32_t i, uint64_t key) {
    args.candidate_ids[first + i] = IdOf(key);
    args.candidate_logprobs[first + i] =
        float(row.logits[IdOf(key)] - log_total);
  };
  if (count <= kMaxKeys) {
    const uint64_t cut =
        CutAt(shared, row, 0, count, max, ReachOf(shared, row, max),
              [](float) { return Count{1}; });
    CollectKeys(shared, row, [&](uint64_t key, float) { return key >= cut; });
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

// Brings the row to shared memory, if `staged` is not null. Returns whether all
// of it is finite, and its best key.
__device__ bool Stage(Shared& shared, const Row& row, float* staged,
                      uint64_t* best) {
  constexpr int kFours = 8;  // on their way at a time
  bool finite = true;
  uint64_t own = 0;
  for (int32_t begin = 4 * threadIdx.x; begin < row.size;
       begin += 4 * kFours * kThreads) {
    float4 fours[kFours];
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const int32_t id = begin + 4 * i * kThreads;
      if (id < row.size) fours[i] = row.Four(id);
    }
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const int32_t id = begin + 4 * i * kThreads;
      if (id >= row.size) break;
      if (staged != nullptr) StoreFour(staged + id, fours[i]);
      row.VisitFour(id, fours[i], [&](int32_t of, float logit) {
        finite = finite && isfinite(logit);
        const uint64_t key = KeyOf(logit, of);
        own = key > own ? key : own;
      });
    }
  }
  finite = __syncthreads_and(finite);
  *best = BlockMax(shared, own);
  return finite;
}

// grid [num_rows]; a block owns a row.
__global__ void __launch_bounds__(kThreads)
    SampleTokensKernel(const __grid_constant__ SampleTokensArgs args,
                       bool is_staged) {
  extern __shared__ __align__(16) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  float* const staged =
      is_staged ? reinterpret_cast<float*>(memory + sizeof(Shared)) : nullptr;
  WaitForKernelsBefore();
  const int32_t n = args.vocab_size;
  const SampleRow sample = args.samples[blockIdx.x];
  float* const logits = args.logits + int64_t{blockIdx.x} * n;
  uint64_t best = 0;
  const bool finite = Stage(shared, {logits, n, n % 4 == 0}, staged, &best);
  if (threadIdx.x == 0) {
    args.finite[blockIdx.x] = finite;
    args.token_ids[blockIdx.x] = kNoToken;
    args.logprobs[blockIdx.x] = 0.0f;
  }
  if (!finite) return;
  const Row row = {is_staged ? staged : logits, n, is_staged || n % 4 == 0};
  const float max = ValueOf(uint32_t(best >> 32));
  double own = 0.0;
  row.ForEach([&](int32_t, float logit) { own += expf(logit - max); });
  const double log_total = max + log(BlockSum(shared, own));
  ReportCandidates(args, shared, row, max, log_total);
  if (sample.given_token == kNoToken) return;
  if (sample.given_token != kSampleToken) {
    if (threadIdx.x != 0) return;
    args.token_ids[blockIdx.x] = sample.given_token;
    args.logprobs[blockIdx.x] =
        float(row.logits[sample.given_token] - log_total);
    return;
  }
  const bool is_adjusted =
      sample.bias_end > sample.bias_begin || NumSeen(sample) > 0;
  RawLogits raw;
  if (is_adjusted) {
    raw = ReadRaw(args, sample, row.logits);
    __syncthreads();
    Adjust(args, sample, raw, shared, row.logits);
    __syncthreads();
    best = BestKey(shared, row);
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
  args.logprobs[blockIdx.x] = float(shared.raw - log_total);
}

}  // namespace
}  // namespace sampling

cudaError_t PrepareSampleTokens() {
  return cudaFuncSetAttribute(
      sampling::SampleTokensKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
      sizeof(sampling::Shared) + sampling::kMaxStagedLogits * sizeof(float));
}

cudaError_t LaunchSampleTokens(const SampleTokensArgs& args,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const bool is_staged = args.vocab_size <= sampling::kMaxStagedLogits;
  const int32_t fours = is_staged ? (args.vocab_size + 3) / 4 : 0;
  return LaunchOverlapped(sampling::SampleTokensKernel, dim3(args.num_rows),
                          sampling::kThreads,
                          sizeof(sampling::Shared) + fours * sizeof(float4),
                          stream, args, is_staged);
}

}  // namespace ttt
