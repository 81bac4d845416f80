// What a step costs, learned from those that ran.
#pragma once

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace ttt {

// Fits  time = base + per_row * decode_rows + per_token * prefill_tokens  to
// the last hundred or so steps that had a decode row, by least squares with
// forgetting. It decides only how prompts are cut and how many steps a launch
// has, and that changes no bit of any answer. Not thread-safe.
class StepCosts {
 public:
  // `decode_rows` >= 0 rows of one token, `prefill_tokens` >= 0 of prompts.
  void Record(int32_t decode_rows, int64_t prefill_tokens, absl::Duration time);

  // Of a step of `decode_rows` >= 1 rows alone; infinite as long as nothing is
  // known.
  absl::Duration DecodeTime(int32_t decode_rows) const;

  // How many tokens of prompts go beside `decode_rows` >= 1 rows so that those
  // wait less than twice as long as they would alone. No less than `least`,
  // which is also the answer as long as nothing is known.
  int64_t PrefillTokensBeside(int32_t decode_rows, int64_t least) const;

 private:
  using Vector = std::array<double, 3>;

  Vector Fit() const;

  // Sums over the steps, later ones weighing more: of x x^T and of x * seconds,
  // x = (1, decode_rows, prefill_tokens).
  std::array<Vector, 3> moments_{};
  Vector times_{};
  int64_t num_steps_ = 0;
};

}  // namespace ttt
