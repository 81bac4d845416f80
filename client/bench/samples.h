// Many measurements of one thing, and their percentiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/bench/random.h"

namespace ttt::bench {

struct Summary {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
  // Percentiles are of all samples, not of some.
  bool exact = true;
};

// Keeps every sample up to a capacity, and from then on a uniform choice of
// that many. Count, mean and maximum are always of all. Percentiles are by
// nearest rank: the smallest sample that is not below that share of them.
// Not thread-safe.
class Samples {
 public:
  static constexpr size_t kCapacity = size_t{4} << 20;

  explicit Samples(size_t capacity = kCapacity) : capacity_(capacity) {}

  // Seconds, or any other unit; kept as float32.
  void Add(double value);
  int64_t count() const { return count_; }
  // All zero without samples.
  Summary Summarize() const;

 private:
  size_t capacity_;
  std::vector<float> kept_;
  int64_t count_ = 0;
  double sum_ = 0;
  double max_ = 0;
  Random random_{1};
};

}  // namespace ttt::bench
