#include "client/bench/samples.h"

#include <algorithm>
#include <cmath>

namespace ttt::bench {
namespace {

double Percentile(const std::vector<float>& sorted, double share) {
  const auto rank = static_cast<size_t>(
      std::ceil(share * static_cast<double>(sorted.size()) - 1e-9));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

}  // namespace

void Samples::Add(double value) {
  max_ = count_ == 0 ? value : std::max(max_, value);
  ++count_;
  sum_ += value;
  if (kept_.size() < capacity_) {
    kept_.push_back(static_cast<float>(value));
    return;
  }
  const auto place = static_cast<size_t>(random_.Between(0, count_ - 1));
  if (place < capacity_) kept_[place] = static_cast<float>(value);
}

Summary Samples::Summarize() const {
  Summary summary;
  summary.count = count_;
  if (count_ == 0) return summary;
  std::vector<float> sorted = kept_;
  std::sort(sorted.begin(), sorted.end());
  summary.mean = sum_ / static_cast<double>(count_);
  summary.p50 = Percentile(sorted, 0.50);
  summary.p90 = Percentile(sorted, 0.90);
  summary.p95 = Percentile(sorted, 0.95);
  summary.p99 = Percentile(sorted, 0.99);
  summary.max = max_;
  summary.exact = static_cast<size_t>(count_) == kept_.size();
  return summary;
}

}  // namespace ttt::bench
