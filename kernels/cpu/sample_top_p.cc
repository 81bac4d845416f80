#include "kernels/cpu/sample_top_p.h"

#include <algorithm>
#include <cfloat>
#include <functional>
#include <vector>

#include "kernels/cpu/sample_keys.h"
#include "kernels/cpu/sample_sums.h"

namespace ttt {
namespace {

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

}  // namespace

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
  // Else the sum in the defined order may pass `wanted` one token earlier or
  // later.
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

}  // namespace ttt
