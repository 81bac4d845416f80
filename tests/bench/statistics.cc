#include "tests/bench/statistics.h"

#include <algorithm>
#include <cmath>

#include "server/base/check.h"

namespace ttt {
namespace {

// Of sorted values; `share` in [0, 1].
double Quantile(const std::vector<double>& values, double share) {
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, values.size() - 1);
  const double part = place - static_cast<double>(below);
  return values[below] * (1 - part) + values[above] * part;
}

}  // namespace

Summary Summarize(std::vector<double> values) {
  TTT_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  Summary summary;
  summary.median = Quantile(values, 0.5);
  summary.least = values.front();
  summary.greatest = values.back();
  if (summary.median != 0) {
    summary.spread =
        (Quantile(values, 0.75) - Quantile(values, 0.25)) / 2 / summary.median;
  }
  return summary;
}

}  // namespace ttt
