// The step loop: plan, run, complete.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/engine/turn.h"
#include "server/model/tokenizer.h"
#include "server/model/ttt_model.h"
#include "server/scheduler/scheduler.h"
#include "server/session/state_pool.h"
#include "server/telemetry/metrics.h"

namespace ttt {

// Runs turns on a model, many at once. Not thread-safe: EngineThread gives it
// the one thread that it, the model and the device want. All that it is given
// must outlive it.
class Engine {
 public:
  struct Options {
    int32_t max_batch_rows = 0;    // turns in a step, >= 1
    int32_t max_batch_tokens = 0;  // tokens in a step, >= max_batch_rows
    // A turn whose reader takes nothing for that long ends with
    // RESOURCE_EXHAUSTED (SLOW_CONSUMER).
    absl::Duration max_stall = absl::Seconds(60);
  };

  // `tokenizer` may be null: then no text and no stop strings. `model` has
  // Limits of at least the options.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const Options& options, TttModel* model, const Tokenizer* tokenizer,
      StatePool* pool, Metrics* metrics, const Clock* clock);
  ~Engine();

  // Queues a turn; its stream ends in any case.
  void Add(std::unique_ptr<Turn> turn);
  // One round: ends what is cancelled or late, starts what is queued, runs one
  // ragged step, completes it. False: there was nothing to run.
  bool Step();
  // Ends all turns, queued and running, with `status`.
  void EndAll(const absl::Status& status);

  int32_t num_queued() const;
  int32_t num_running() const;

 private:
  class Running;
  struct StepPlan;
  // ...
};

}  // namespace ttt
