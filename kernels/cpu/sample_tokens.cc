#include "kernels/cpu/sample_tokens.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sample_draw.h"
#include "kernels/cpu/sample_keys.h"
#include "kernels/cpu/sample_top_p.h"

namespace ttt {
namespace {

float ReferenceMax(const float* values, int64_t n, bool* finite) {
  float max = values[0];
  *finite = true;
  for (int64_t i = 0; i < n; ++i) {
    max = std::max(max, values[i]);
    *finite = *finite && std::isfinite(values[i]);
  }
  return max;
}

double ReferenceExpSum(const float* values, float max, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(values[i] - max);
  return sum;
}

void ReferenceExpScaled(const float* values, float max, float temperature,
                        float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float weight = std::exp((values[i] - max) / temperature);
    out[i] = weight < 1e-37f ? 0.0f : weight;
  }
}

void ApplyPenalties(const SampleTokensArgs& args, const SampleRow& sample,
                    std::vector<int32_t>& seen, float* logits) {
  if (sample.slot < 0) return;
  const bool is_off = sample.repetition_penalty == 1.0f &&
                      sample.presence_penalty == 0.0f &&
                      sample.frequency_penalty == 0.0f;
  if (is_off) return;
  const int32_t* const ring = SlotOf<int32_t>(args.ring, sample.slot);
  const int64_t num_seen = std::min<int64_t>(sample.position, kTokenRingSize);
  seen.assign(ring, ring + num_seen);  // Which places are filled: 0 .. n - 1.
  std::sort(seen.begin(), seen.end());
  for (size_t i = 0; i < seen.size();) {
    const int32_t id = seen[i];
    size_t end = i;
    while (end < seen.size() && seen[end] == id) ++end;
    const float count = float(end - i);
    i = end;
    if (id < 0 || id >= args.vocab_size) continue;
    float& logit = logits[id];
    logit = logit > 0.0f ? logit / sample.repetition_penalty
                         : logit * sample.repetition_penalty;
    logit -= sample.presence_penalty + count * sample.frequency_penalty;
  }
}

int32_t ArgMax(const float* values, int32_t n) {
  int32_t best = 0;
  for (int32_t id = 1; id < n; ++id) {
    if (values[id] > values[best]) best = id;
  }
  return best;
}

// Steps 6 to 8 over the tokens of scratch.keys, which are in order, best first.
// `total` is what top_p takes its part of.
int32_t DrawOfKeys(const SampleRow& sample, double total,
                   SampleScratch& scratch) {
  std::vector<uint64_t>& keys = scratch.keys;
  std::vector<float>& weights = scratch.kept;
  size_t num_kept = keys.size();
  if (sample.top_p < 1.0f) {
    const double wanted = sample.top_p * total;
    double sum = 0.0;
    for (size_t i = 0; i < num_kept; ++i) {
      sum += weights[i];
      if (sum >= wanted) num_kept = i + 1;
    }
  }
  const float least = sample.min_p * weights[0];
  // By id, with the weight beside.
  for (size_t i = 0; i < num_kept; ++i) {
    const float weight = weights[i] < least ? 0.0f : weights[i];
    keys[i] = uint64_t{uint32_t(IdOf(keys[i]))} << 32 |
              std::bit_cast<uint32_t>(weight);
  }
  std::sort(keys.begin(), keys.begin() + num_kept);
  for (size_t i = 0; i < num_kept; ++i) {
    weights[i] = std::bit_cast<float>(uint32_t(keys[i]));
  }
  const int32_t drawn = DrawInOrder(UniformOf(sample.seed, sample.position),
                                    weights.data(), int32_t(num_kept));
  return int32_t(keys[drawn] >> 32);
}

// Steps 5 to 8 with top_k: only the weights that it keeps are computed.
int32_t DrawOfTopK(const SampleRow& sample, int32_t n, float max,
                   const SampleMath& math, SampleScratch& scratch) {
  BestKeys(scratch.logits.data(), n, sample.top_k, scratch.keys);
  scratch.weights.clear();
  for (const uint64_t key : scratch.keys) {
    scratch.weights.push_back(scratch.logits[IdOf(key)]);
  }
  scratch.kept.resize(sample.top_k);
  math.exp_scaled(scratch.weights.data(), max, sample.temperature,
                  scratch.kept.data(), sample.top_k);
  double total = 0.0;
  for (const float weight : scratch.kept) total += weight;
  return DrawOfKeys(sample, total, scratch);
}

// Steps 6 to 8 with all tokens in order.
int32_t DrawOfSorted(const SampleRow& sample, int32_t n,
                     SampleScratch& scratch) {
  double total = 0.0;
  for (int32_t id = 0; id < n; ++id) total += scratch.weights[id];
  MakeKeys(scratch.logits.data(), n, scratch.keys);
  std::sort(scratch.keys.begin(), scratch.keys.end(), std::greater<>());
  scratch.kept.clear();
  for (const uint64_t key : scratch.keys) {
    scratch.kept.push_back(scratch.weights[IdOf(key)]);
  }
  return DrawOfKeys(sample, total, scratch);
}

int32_t ChooseToken(const SampleTokensArgs& args, const SampleRow& sample,
                    const float* raw, const SampleMath& math,
                    SampleScratch& scratch) {
  const int32_t n = args.vocab_size;
  scratch.logits.assign(raw, raw + n);
  float* const logits = scratch.logits.data();
  for (int32_t i = sample.bias_begin; i < sample.bias_end; ++i) {
    logits[args.bias_ids[i]] += args.bias_values[i];
  }
  ApplyPenalties(args, sample, scratch.seen, logits);
  const int32_t best = ArgMax(logits, n);
  const float max = logits[best];
  if (sample.temperature == 0.0f || !std::isfinite(max)) return best;
  if (sample.top_k > 0 && sample.top_k < n) {
    return DrawOfTopK(sample, n, max, math, scratch);
  }

  scratch.weights.resize(n);
  float* const weights = scratch.weights.data();
  math.exp_scaled(logits, max, sample.temperature, weights, n);
  if (sample.top_p < 1.0f && !DropByTopP(sample, n, max, scratch)) {
    return DrawOfSorted(sample, n, scratch);
  }
  if (sample.min_p > 0.0f) {
    const float least = sample.min_p * weights[best];
    for (int32_t id = 0; id < n; ++id) {
      weights[id] = weights[id] < least ? 0.0f : weights[id];
    }
  }
  return Draw(UniformOf(sample.seed, sample.position), weights, n,
              scratch.block_sums);
}

void ReportCandidates(const SampleTokensArgs& args, int32_t row,
                      const float* raw, double log_total,
                      SampleScratch& scratch) {
  const int32_t count =
      std::min(args.samples[row].num_candidates, args.max_candidates);
  if (count <= 0) return;
  BestKeys(raw, args.vocab_size, count, scratch.keys);
  const int64_t first = int64_t{row} * args.max_candidates;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = IdOf(scratch.keys[i]);
    args.candidate_ids[first + i] = id;
    args.candidate_logprobs[first + i] = float(raw[id] - log_total);
  }
}

}  // namespace

const SampleMath kReferenceSampleMath = {ReferenceMax, ReferenceExpSum,
                                         ReferenceExpScaled};

double UniformOf(uint64_t seed, int64_t position) {
  uint32_t counter[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * counter[0];
    const uint64_t b = uint64_t{0xcd9e8d57u} * counter[2];
    const uint32_t next[4] = {
        uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b),
        uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  const uint64_t bits = uint64_t{counter[0]} << 32 | counter[1];
  return double(bits >> 11) * 0x1p-53;
}

void SampleRowToken(const SampleTokensArgs& args, int32_t row,
                    const SampleMath& math, SampleScratch& scratch) {
  const SampleRow& sample = args.samples[row];
  const float* const raw = args.logits + int64_t{row} * args.vocab_size;
  args.token_ids[row] = kNoToken;
  args.logprobs[row] = 0.0f;
  bool finite = false;
  const float max = math.max(raw, args.vocab_size, &finite);
  args.finite[row] = finite;
  if (!finite) return;
  const double log_total =
      max + std::log(math.exp_sum(raw, max, args.vocab_size));
  if (sample.given_token != kNoToken) {
    const int32_t token = sample.given_token == kSampleToken
                              ? ChooseToken(args, sample, raw, math, scratch)
                              : sample.given_token;
    args.token_ids[row] = token;
    args.logprobs[row] = float(raw[token] - log_total);
  }
  ReportCandidates(args, row, raw, log_total, scratch);
}

}  // namespace ttt
