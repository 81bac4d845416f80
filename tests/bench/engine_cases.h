// What ttt_engine_bench times.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/ceilings.h"
#include "tests/bench/engine_workload.h"
#include "tests/bench/statistics.h"

namespace ttt {

// Something that is done again and again. A round of it is of trains of equal
// operations: a decode train is one whole mini-batch, so that it has each phase
// once, whatever phase it begins at.
struct BenchCase {
  std::string mode;
  std::string name;
  double tokens = 0;  // that one operation reads; 0: it reads none
  bool streams_weights = false;
  int32_t operations = 1;  // a train
  int32_t trains = 1;      // a round that is timed, one behind the other
  int32_t steps = 1;       // an operation; what is told is told of one of them
  // Makes the state that the round starts from; not timed. Then `run` is called
  // once more than is timed.
  std::function<absl::Status()> prepare;
  std::function<absl::Status()> run;  // one operation
  // Waits for the last one, in the time of the round; empty: `run` does.
  std::function<absl::Status()> finish;
};

struct BenchResult {
  std::vector<double> seconds;             // a step, the mean of each round
  OpCost cost;                             // of a step
  std::vector<std::vector<OpCall>> calls;  // of a round, operation by operation
};

inline constexpr int32_t kForkSlots = 16;  // that ForkCase needs

// `steps`: a launch, by which mini_batch_size divides.
BenchCase DecodeCase(EngineWorkload& workload, int32_t batch,
                     int32_t steps = 1);
// `batch` sequences read `tokens` each, from their start.
BenchCase PrefillCase(EngineWorkload& workload, int32_t batch, int32_t tokens);
// `batch` sequences decode while one reads `tokens` of its prompt.
BenchCase MixedCase(EngineWorkload& workload, int32_t batch, int32_t tokens);
// Decodes one sequence whose state, that of a session of `position` tokens, is
// in slot `from`; runs in slot 0.
BenchCase PositionCase(EngineWorkload& workload, int64_t position,
                       int32_t from);
BenchCase ForkCase(EngineWorkload& workload);
BenchCase DigestCase(EngineWorkload& workload, int32_t batch);

// Runs the cases in turn, `rounds` times, so that all of them meet the same
// hours of a shared machine, and measures the ceilings in between. Once before,
// untimed by the case, records each operation of a round.
absl::StatusOr<std::vector<BenchResult>> RunCases(
    const std::vector<BenchCase>& cases, int32_t rounds, TimingBackend& backend,
    CeilingMeter& meter);

}  // namespace ttt
