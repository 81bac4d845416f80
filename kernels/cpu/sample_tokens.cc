#include "kernels/cpu/sample_tokens.h"

#include <algorithm>
#include <bit>
#include <cfloat>
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

// How far apart two sums in double of the same n weights of at most `total` may
// be, whatever the order of each, with room for a product by top_p or by the
// random number.
double SlackOf(double total, int32_t n) {
  return total * (double(n) + 8.0) * 0x1p-47;
}

// Puts the best keys of the n values, best first, in `keys`.
void BestKeys(const float* values, int32_t n, int32_t count,
              std::vector<uint64_t>& keys) {
  constexpr int32_t kBlock = 16;
  const int32_t room = 2 * count + 256;
  if (room > n / 4) {
    MakeKeys(values, n, keys);
    SortBest(keys.data(), keys.data() + count, keys.data() + n);
    keys.resize(count);
    return;
  }
  // Holds the best so far, and others; what is not above the worst of the best
  // is not looked at. Of equals the first came first, and is better.
  MakeKeys(values, room, keys);
  float least = 0.0f;
  const auto shrink = [&] {
    std::nth_element(keys.begin(), keys.begin() + count - 1, keys.end(),
                     std::greater<>());
    keys.resize(count);
    least = values[IdOf(keys.back())];
  };
  shrink();
  for (int32_t begin = room; begin < n; begin += kBlock) {
    const int32_t end = std::min(n, begin + kBlock);
    if (end - begin == kBlock) {
      int32_t above = 0;
      for (int32_t i = 0; i < kBlock; ++i) above |= values[begin + i] > least;
      if (above == 0) continue;
    }
    for (int32_t id = begin; id < end; ++id) {
      if (values[id] > least) keys.push_back(KeyOf(values[id], id));
    }
    if (int32_t(keys.size()) + kBlock > room) shrink();
  }
  std::sort(keys.begin(), keys.end(), std::greater<>());
  keys.resize(count);
}

// The weights of a range of values, added up by bins that are in the order of
// the values, the largest first.
class WeightBins {
 public:
  static constexpr int32_t kBins = 256;

  // Bins of equal width from `max` down to `max - reach`; the last has all
  // below, too.
  WeightBins(float max, float reach)
      : max_(max), scale_(std::min(float{kBins} / reach, FLT_MAX)) {}

  int32_t BinOf(float value) const {
    // The last bin for a NaN, which minus infinity times 0 is.
    return int32_t(std::min(float{kBins - 1}, (max_ - value) * scale_));
  }
  // Neighbours are often of one bin, and an addition waits for the last one in
  // its place: each of four has its own.
  void Add(int32_t bin, float weight, int64_t index) {
    sums_[index % kLanes][bin] += weight;
  }
  double SumOf(int32_t bin) const {
    return (sums_[0][bin] + sums_[1][bin]) + (sums_[2][bin] + sums_[3][bin]);
  }
  double Total() const {
    double total = 0.0;
    for (int32_t bin = 0; bin < kBins; ++bin) total += SumOf(bin);
    return total;
  }
  // The first bin at whose end the sum, `above` before the bins, is at least
  // `wanted`, or the last one; adds to `above` what is before that bin.
  int32_t Find(double wanted, double* above) const {
    for (int32_t bin = 0; bin < kBins - 1; ++bin) {
      const double next = *above + SumOf(bin);
      if (next >= wanted) return bin;
      *above = next;
    }
    return kBins - 1;
  }

 private:
  static constexpr int32_t kLanes = 4;
  const float max_;
  const float scale_;
  double sums_[kLanes][kBins] = {};
};

// Puts the keys of the first bin from the top at whose end the weights are at
// least top_p of their total in scratch.keys.
void CollectBin(const float* logits, const float* weights, int32_t n, float max,
                const SampleRow& sample, SampleScratch& scratch, double* above,
                double* total) {
  // Further down, weights are 0.
  WeightBins bins(max, 88.0f * sample.temperature);
  scratch.bins.resize(n);
  int32_t* const bin_of = scratch.bins.data();
  for (int32_t id = 0; id < n; ++id) bin_of[id] = bins.BinOf(logits[id]);
  for (int32_t id = 0; id < n; ++id) bins.Add(bin_of[id], weights[id], id);
  *total = bins.Total();
  const int32_t found = bins.Find(sample.top_p * *total, above);
  scratch.keys.clear();
  constexpr int32_t kBlock = 16;
  for (int32_t begin = 0; begin < n; begin += kBlock) {
    const int32_t end = std::min(n, begin + kBlock);
    if (end - begin == kBlock) {
      int32_t any = 0;
      for (int32_t i = 0; i < kBlock; ++i) any |= bin_of[begin + i] == found;
      if (any == 0) continue;
    }
    for (int32_t id = begin; id < end; ++id) {
      if (bin_of[id] == found) scratch.keys.push_back(KeyOf(logits[id], id));
    }
  }
}

// Leaves in `keys` the part of them where the sum, `above` before them, comes
// to `wanted`.
void NarrowKeys(const float* logits, const float* weights, double wanted,
                std::vector<uint64_t>& keys, double* above) {
  constexpr size_t kFewKeys = 64;
  constexpr int kMaxRounds = 3;
  for (int round = 0; round < kMaxRounds && keys.size() > kFewKeys; ++round) {
    const auto [least, most] = std::minmax_element(keys.begin(), keys.end());
    const float max = logits[IdOf(*most)];
    const float reach = max - logits[IdOf(*least)];
    if (reach == 0.0f) return;
    WeightBins bins(max, reach);
    for (size_t i = 0; i < keys.size(); ++i) {
      const int32_t id = IdOf(keys[i]);
      bins.Add(bins.BinOf(logits[id]), weights[id], i);
    }
    const int32_t found = bins.Find(wanted, above);
    std::erase_if(keys, [&](uint64_t key) {
      return bins.BinOf(logits[IdOf(key)]) != found;
    });
  }
}

// Step 6 over all tokens: gives those that it drops weight 0. Returns false,
// with the weights as they were, if it cannot tell where to cut.
//
// The cut is where a sum over the weights in double, best first, comes to
// `wanted`; the sums here are over the same weights in another order. Both are
// within the slack of the true sum, so that a cut that is clear of `wanted` by
// the slack on both sides is the same.
bool DropByTopP(const SampleRow& sample, int32_t n, float max,
                SampleScratch& scratch) {
  const float* const logits = scratch.logits.data();
  float* const weights = scratch.weights.data();
  std::vector<uint64_t>& keys = scratch.keys;
  double above = 0.0;
  double total = 0.0;
  CollectBin(logits, weights, n, max, sample, scratch, &above, &total);
  const double wanted = sample.top_p * total;
  const double slack = SlackOf(total, n);
  NarrowKeys(logits, weights, wanted, keys, &above);
  std::sort(keys.begin(), keys.end(), std::greater<>());
  double sum = above;
  size_t last = 0;
  for (; last < keys.size(); ++last) {
    above = sum;
    sum += weights[IdOf(keys[last])];
    if (sum >= wanted) break;
  }
  const bool is_clear = above < wanted - slack && sum > wanted + slack;
  if (last == keys.size() || !is_clear) return false;

  const int32_t last_id = IdOf(keys[last]);
  const float least = logits[last_id];
  for (int32_t id = 0; id <= last_id; ++id) {
    weights[id] = logits[id] >= least ? weights[id] : 0.0f;
  }
  for (int32_t id = last_id + 1; id < n; ++id) {
    weights[id] = logits[id] > least ? weights[id] : 0.0f;
  }
  return true;
}

// Step 8, over weights in the order of ids.
int32_t DrawInOrder(double random, const float* weights, int32_t n) {
  double total = 0.0;
  for (int32_t i = 0; i < n; ++i) total += weights[i];
  const double wanted = random * total;
  double sum = 0.0;
  int32_t last = 0;
  for (int32_t i = 0; i < n; ++i) {
    if (weights[i] == 0.0f) continue;
    sum += weights[i];
    last = i;
    if (sum > wanted) break;
  }
  return last;
}

double SumOfBlock(const float* weights, int32_t n) {
  constexpr int32_t kLanes = 8;  // An addition waits for the last in its lane.
  double lanes[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += weights[i + lane];
    }
  }
  for (int32_t lane = 0; i < n; ++i, ++lane) lanes[lane] += weights[i];
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The same as DrawInOrder. Sums by blocks, and is as sure as DropByTopP is; if
// not, it does as DrawInOrder does.
int32_t Draw(double random, const float* weights, int32_t n,
             std::vector<double>& block_sums) {
  constexpr int32_t kBlock = 256;
  block_sums.clear();
  double total = 0.0;
  for (int32_t begin = 0; begin < n; begin += kBlock) {
    block_sums.push_back(
        SumOfBlock(weights + begin, std::min(kBlock, n - begin)));
    total += block_sums.back();
  }
  const double wanted = random * total;
  const double slack = SlackOf(total, n);
  double sum = 0.0;
  size_t block = 0;
  while (block + 1 < block_sums.size() && sum + block_sums[block] <= wanted) {
    sum += block_sums[block++];
  }
  const int32_t begin = int32_t(block) * kBlock;
  const int32_t end = std::min(n, begin + kBlock);
  for (int32_t id = begin; id < end; ++id) {
    const double before = sum;
    sum += weights[id];
    if (sum <= wanted) continue;
    if (before < wanted - slack && sum > wanted + slack) return id;
    break;
  }
  return DrawInOrder(random, weights, n);
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
