// One benchmark for each op of a backend.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/op_cost.h"
#include "tests/bench/op_inputs.h"
#include "tests/bench/timing_backend.h"

namespace ttt {

// A call of an op on inputs of its own. Each call takes the next of several
// sets of weights or slots, together larger than the caches, as in a step.
struct PreparedOp {
  OpCost cost;
  std::function<absl::Status()> call;
};

struct OpCase {
  OpKind kind;
  std::string name;  // "Gemm/125m gate_up/16"
  // Makes the inputs; what it returns uses them.
  std::function<PreparedOp(OpInputs&)> prepare;
  bool is_large = false;  // seconds on a CPU
};

// All of a kind: realistic shapes, for 1 to 256 rows, and where it tells
// something, those of a prefill.
std::vector<OpCase> CasesOf(OpKind kind);

}  // namespace ttt
