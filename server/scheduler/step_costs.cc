#include "server/scheduler/step_costs.h"

#include <algorithm>
#include <cmath>

namespace ttt {
namespace {

// A hundred steps ago weighs a third of now.
constexpr double kForgetting = 0.99;
// A step that was interrupted for long says little of the next.
constexpr int64_t kTrustedSteps = 16;
constexpr double kMostOfPrediction = 3;
// Of the time of the decode rows, what prompts may add. Below 1, as the fit is
// of the mean and a step may take longer than that.
constexpr double kPrefillShare = 0.6;
// Of the tokens of prompts, squared: a mini-batch of 16 in one step of late.
constexpr double kLeastMoment = 256;
// Holds a coefficient near zero that no step has yet spoken for.
constexpr double kRidge = 1e-6;

double Dot(const std::array<double, 3>& a, const std::array<double, 3>& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

}  // namespace

void StepCosts::Record(int32_t decode_rows, int64_t prefill_tokens,
                       absl::Duration time) {
  if (decode_rows == 0) return;
  const Vector x = {1, static_cast<double>(decode_rows),
                    static_cast<double>(prefill_tokens)};
  double seconds = std::max(0.0, absl::ToDoubleSeconds(time));
  if (num_steps_ >= kTrustedSteps) {
    const double predicted = Dot(Fit(), x);
    if (predicted > 0) {
      seconds = std::min(seconds, kMostOfPrediction * predicted);
    }
  }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      moments_[i][j] = kForgetting * moments_[i][j] + x[i] * x[j];
    }
    times_[i] = kForgetting * times_[i] + x[i] * seconds;
  }
  ++num_steps_;
}

// Solves (moments + ridge) w = times by elimination; the matrix is positive
// definite, so that no pivot is zero.
StepCosts::Vector StepCosts::Fit() const {
  std::array<Vector, 3> a = moments_;
  Vector w = times_;
  for (int i = 0; i < 3; ++i) a[i][i] += kRidge * (1 + moments_[i][i]);
  for (int i = 0; i < 3; ++i) {
    for (int row = i + 1; row < 3; ++row) {
      const double factor = a[row][i] / a[i][i];
      for (int j = i; j < 3; ++j) a[row][j] -= factor * a[i][j];
      w[row] -= factor * w[i];
    }
  }
  for (int i = 2; i >= 0; --i) {
    for (int j = i + 1; j < 3; ++j) w[i] -= a[i][j] * w[j];
    w[i] /= a[i][i];
  }
  return w;
}

absl::Duration StepCosts::DecodeTime(int32_t decode_rows) const {
  if (num_steps_ == 0) return absl::InfiniteDuration();
  const Vector w = Fit();
  return absl::Seconds(std::max(0.0, w[0] + w[1] * decode_rows));
}

int64_t StepCosts::PrefillTokensBeside(int32_t decode_rows,
                                       int64_t least) const {
  // No prompt beside a row, or long ago: what is left of it is not trusted.
  if (moments_[2][2] < kLeastMoment) return least;
  const Vector w = Fit();
  const double decode_seconds = w[0] + w[1] * decode_rows;
  if (decode_seconds <= 0 || w[2] <= 0) return least;
  const double tokens = kPrefillShare * decode_seconds / w[2];
  return std::max(least, static_cast<int64_t>(std::min(tokens, 1e9)));
}

}  // namespace ttt
