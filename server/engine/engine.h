// The step loop: plan, begin, finish, complete, commit.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/engine/running_turn.h"
#include "server/engine/turn.h"
#include "server/model/tokenizer.h"
#include "server/model/ttt_model.h"
#include "server/scheduler/scheduler.h"
#include "server/session/session_store.h"
#include "server/session/state_pool.h"
#include "server/telemetry/metrics.h"

namespace ttt {

// Runs turns on a model, many at once. A device that works on its own is given
// the next step before the last is waited for: what a step must know of the one
// before it is the tokens that it chose, and these do not leave the device. A
// turn that the last step ended is then in the next one too, which reads the
// last token for it. Where all turns decode and none waits, such a device is
// given several steps in one launch. Not thread-safe: EngineThread gives it the
// one thread that it, the model and the device want. All that it is given must
// outlive it.
class Engine {
 public:
  struct Options {
    int32_t max_batch_rows = 0;    // turns in a step, >= 1
    int32_t max_batch_tokens = 0;  // tokens in a step, >= max_batch_rows
    // A turn whose reader takes nothing for that long ends with
    // RESOURCE_EXHAUSTED (SLOW_CONSUMER).
    absl::Duration max_stall = absl::Seconds(60);
    // The same, when all rows are taken and another turn waits for one.
    absl::Duration max_stall_if_wanted = absl::Seconds(2);
    // A turn that has waited longer ends with RESOURCE_EXHAUSTED
    // (QUEUE_TIMEOUT).
    absl::Duration max_queue_wait = absl::InfiniteDuration();
  };

  // `tokenizer` may be null: then no text and no stop strings. `model` has
  // Limits of at least the options.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const Options& options, TttModel* model, const Tokenizer* tokenizer,
      StatePool* pool, SessionStore* sessions, Metrics* metrics,
      const Clock* clock);
  ~Engine();

  // Queues a turn; its stream ends in any case.
  void Add(std::unique_ptr<Turn> turn);
  // One round: ends what is cancelled or late, starts what is queued, begins
  // one ragged step, or a launch of several, and finishes and completes it, or
  // the one before. False: there was nothing to do.
  bool Step();
  // The backend's device is lost, and every turn has ended.
  bool is_device_lost() const { return is_device_lost_; }
  // Ends all turns, queued and running, with `status`.
  void EndAll(const absl::Status& status);

  int32_t num_queued() const { return static_cast<int32_t>(queue_.size()); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }

 private:
  struct Queued {
    std::unique_ptr<Turn> turn;
    absl::Time since;  // in the queue
  };
  // One launch of steps of the model: which turns, and how much of each.
  struct LaunchInFlight {
    struct Row {
      RunningTurn* turn;   // null: it has ended since
      int32_t num_tokens;  // a step
      int32_t num_steps;   // that it is in
      int32_t first_request;
      int32_t num_requests;  // a step, of the first `num_asking` steps
      int32_t num_asking;
    };
    std::vector<Row> rows;
    int32_t num_steps = 1;
    int64_t num_tokens = 0;    // of the first step
    int32_t num_decoding = 0;  // rows that have chosen a token before
    StepKind kind = StepKind::kDecode;
    absl::Time begin;
  };
  // Turns whose states are to be committed when their last steps have ended.
  struct CommitInFlight {
    std::vector<RunningTurn*> turns;  // null: it has ended since
    absl::StatusOr<std::unique_ptr<StateDigests>> digests;
    int64_t num_launches;  // that were begun before it
    absl::Time begin;
  };

  Engine(const Options& options, TttModel* model, const Tokenizer* tokenizer,
         StatePool* pool, SessionStore* sessions, Metrics* metrics,
         const Clock* clock)
      : options_(options),
        model_(model),
        tokenizer_(tokenizer),
        pool_(pool),
        sessions_(sessions),
        metrics_(metrics),
        clock_(clock),
        lookahead_(model->is_asynchronous() ? 1 : 0) {}

  void EndCancelledAndLate();
  void StartQueued();
  absl::StatusOr<StateSlot> PrepareSlot(Turn* turn);
  absl::StatusOr<std::unique_ptr<LastTokens>> TextContext(const Turn& turn,
                                                          int32_t slot);
  std::vector<ScheduledRow> Plan() const;
  // That the launch of `plan` is to have.
  int32_t NumSteps(absl::Span<const ScheduledRow> plan) const;
  // False: no turn wants a step.
  bool BeginLaunch();
  void AddRow(const ScheduledRow& row, LaunchInFlight* launch,
              std::vector<StepSequence>* sequences,
              std::vector<LogitsRequest>* requests);
  void FinishLaunch();
  // One step, whose result was there at `now`. Does not remove what it ends.
  void Complete(const LaunchInFlight& launch, int32_t step,
                const StepResult& result, absl::Time now);
  // Ends the turns of all launches in flight.
  void FailLaunches(const absl::Status& status);
  void AbandonLaunches();
  void QueueCommits();
  // True if a turn has ended.
  bool FinishCommits();
  void FinishCommit(CommitInFlight commit);
  void CommitTurn(RunningTurn* turn, const StateDigest& digest);
  void DropTurn(RunningTurn* turn, const absl::Status& status);
  void DropQueued(Queued* queued, const absl::Status& status);
  void RemoveEnded();
  // What a turn that the device failed ends with.
  absl::Status DeviceError(absl::string_view reason,
                           const absl::Status& status);

  const Options options_;
  TttModel* const model_;
  const Tokenizer* const tokenizer_;
  StatePool* const pool_;
  SessionStore* const sessions_;
  Metrics* const metrics_;
  const Clock* const clock_;
  const int lookahead_;  // launches in flight while the next is planned
  StepCosts costs_;
  bool is_device_lost_ = false;
  std::deque<Queued> queue_;
  std::vector<std::unique_ptr<RunningTurn>> running_;  // oldest first
  std::deque<LaunchInFlight> in_flight_;               // oldest first
  std::deque<CommitInFlight> commits_;                 // oldest first
  int64_t num_begun_ = 0;                              // launches
  absl::Time last_finish_ = absl::InfinitePast();      // of a launch
};

}  // namespace ttt
