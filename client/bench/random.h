// Numbers drawn for a workload, the same on every machine.
#pragma once

#include <cmath>
#include <cstdint>

namespace ttt::bench {

// SplitMix64. The standard library's distributions are not the same everywhere;
// these are. Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // The generator of one thing: what it draws depends on nothing else.
  static Random For(uint64_t seed, uint64_t kind, uint64_t a, uint64_t b) {
    uint64_t state = seed;
    for (const uint64_t part : {kind, a, b}) {
      state = Random(state ^ (part * 0x9E3779B97F4A7C15ull)).Next();
    }
    return Random(state);
  }

  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // In [0, 1).
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [min, max].
  int64_t Between(int64_t min, int64_t max) {
    return min + static_cast<int64_t>(Uniform() *
                                      (static_cast<double>(max - min) + 1.0));
  }
  double Exponential(double mean) { return -mean * std::log1p(-Uniform()); }
  double Normal() {
    const double radius = std::sqrt(2.0 * Exponential(1.0));
    return radius * std::cos(6.283185307179586 * Uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace ttt::bench
