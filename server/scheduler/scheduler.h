// Who runs in the next step. No clock, no device, no I/O.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/scheduler/row_order.h"
#include "server/scheduler/step_costs.h"

namespace ttt {

// What the scheduler must know of one running turn.
struct SchedulerRow {
  int64_t pending_tokens = 0;  // to read before the next token can be chosen
  int64_t position = 0;        // tokens of its session before them
  bool is_decoding = false;    // has chosen a token in this turn
  bool is_blocked = false;     // its reader is behind: do not run it
};

// How many tokens of a row go into the step.
struct ScheduledRow {
  int32_t row;         // index into the rows
  int32_t num_tokens;  // >= 0; 0 chooses a token from the kept hidden vector
};

struct SchedulerOptions {
  int32_t max_tokens = 0;  // a step, >= 1
  int32_t mini_batch = 1;  // of the model, >= 1
  LongRowsPlace long_rows = LongRowsPlace::kFirst;
  // Bounds what prompts may take beside rows that decode, so that a long prompt
  // does not make the others wait. Null: max_tokens alone bounds it.
  const StepCosts* costs = nullptr;
};

// Picks the rows of one step: all rows that want at most one token first,
// oldest first, then prefill chunks, up to the token budget. Prompts share the
// budget, in parts of a mini-batch or more: one part is kept for the oldest, so
// that none waits for ever, then the shortest come first, and what one does not
// need goes to the next. A chunk that does not end its prompt ends on a
// mini-batch boundary where the budget allows it. `rows` is in order of
// arrival, and so is the answer within its two parts, but for PlaceLongRows in
// the first.
std::vector<ScheduledRow> PlanStep(const SchedulerOptions& options,
                                   absl::Span<const SchedulerRow> rows);

}  // namespace ttt
