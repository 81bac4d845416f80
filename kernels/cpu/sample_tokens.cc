#include "kernels/cpu/sample_tokens.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "kernels/cpu/rows.h"

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

// Orders by value, ties to the lowest id: greater keys are better. A NaN must
// not get here.
uint64_t KeyOf(float value, int32_t id) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0.0 is 0.0
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | uint32_t(~id);
}
int32_t IdOf(uint64_t key) { return int32_t(~uint32_t(key)); }

// Puts the best keys of [begin, end) in order at its front.
void SortBest(uint64_t* begin, uint64_t* middle, uint64_t* end) {
  if (middle - begin > (end - begin) / 16) {
    if (middle != end) {
      std::nth_element(begin, middle, end, std::greater<>());
    }
    std::sort(begin, middle, std::greater<>());
  } else {
    std::partial_sort(begin, middle, end, std::greater<>());
  }
}

void MakeKeys(const float* values, int32_t n, std::vector<uint64_t>& keys) {
  keys.resize(n);
  for (int32_t id = 0; id < n; ++id) keys[id] = KeyOf(values[id], id);
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

// Steps 5 and 6. Leaves the kept tokens' weights in scratch.kept, or does
// nothing and returns false if both filters are off.
bool KeepBest(const SampleRow& sample, int32_t n, SampleScratch& scratch) {
  const bool has_top_k = sample.top_k > 0 && sample.top_k < n;
  if (!has_top_k && sample.top_p >= 1.0f) return false;
  MakeKeys(scratch.logits.data(), n, scratch.keys);
  uint64_t* const keys = scratch.keys.data();
  int32_t num_kept = n;
  int32_t num_sorted = 0;
  if (has_top_k) {
    SortBest(keys, keys + sample.top_k, keys + n);
    num_kept = num_sorted = sample.top_k;
  }
  if (sample.top_p < 1.0f) {
    double total = 0.0;
    for (int32_t i = 0; i < num_kept; ++i) {
      total += scratch.weights[IdOf(keys[i])];
    }
    const double wanted = sample.top_p * total;
    double sum = 0.0;
    for (int32_t i = 0; i < num_kept; ++i) {
      if (i == num_sorted) {
        num_sorted = std::min(num_kept, 8 * num_sorted + 64);
        SortBest(keys + i, keys + num_sorted, keys + num_kept);
      }
      sum += scratch.weights[IdOf(keys[i])];
      if (sum >= wanted) num_kept = i + 1;
    }
  }
  scratch.kept.assign(n, 0.0f);
  for (int32_t i = 0; i < num_kept; ++i) {
    const int32_t id = IdOf(keys[i]);
    scratch.kept[id] = scratch.weights[id];
  }
  return true;
}

int32_t Draw(const SampleRow& sample, const float* weights, int32_t n) {
  double total = 0.0;
  for (int32_t id = 0; id < n; ++id) total += weights[id];
  const double wanted = UniformOf(sample.seed, sample.position) * total;
  double sum = 0.0;
  int32_t last = 0;
  for (int32_t id = 0; id < n; ++id) {
    if (weights[id] == 0.0f) continue;
    sum += weights[id];
    last = id;
    if (sum > wanted) break;
  }
  return last;
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
  if (sample.temperature == 0.0f || !std::isfinite(logits[best])) return best;

  scratch.weights.resize(n);
  math.exp_scaled(logits, logits[best], sample.temperature,
                  scratch.weights.data(), n);
  float* const weights = KeepBest(sample, n, scratch) ? scratch.kept.data()
                                                      : scratch.weights.data();
  if (sample.min_p > 0.0f) {
    const float least = sample.min_p * weights[best];
    for (int32_t id = 0; id < n; ++id) {
      if (weights[id] < least) weights[id] = 0.0f;
    }
  }
  return Draw(sample, weights, n);
}

void ReportCandidates(const SampleTokensArgs& args, int32_t row,
                      const float* raw, double log_total,
                      SampleScratch& scratch) {
  const int32_t count =
      std::min(args.samples[row].num_candidates, args.max_candidates);
  if (count <= 0) return;
  MakeKeys(raw, args.vocab_size, scratch.keys);
  uint64_t* const keys = scratch.keys.data();
  SortBest(keys, keys + count, keys + args.vocab_size);
  const int64_t first = int64_t{row} * args.max_candidates;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = IdOf(keys[i]);
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
