// The arithmetic that sampling is built of.
#pragma once

#include <cstdint>

namespace ttt {

struct SampleMath {
  // The largest of n >= 1 values; *finite tells whether all are finite, and if
  // not, the value returned means nothing.
  float (*max)(const float* values, int64_t n, bool* finite);
  // Sum over exp(value - max).
  double (*exp_sum)(const float* values, float max, int64_t n);
  // out = exp((value - max) / temperature), 0 below about 1e-37.
  void (*exp_scaled)(const float* values, float max, float temperature,
                     float* out, int64_t n);
};

}  // namespace ttt
