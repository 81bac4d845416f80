#include "server/engine/engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/status_macros.h"
#include "server/scheduler/row_order.h"

namespace ttt {
namespace {

// Of a launch of several.
constexpr int kLaunchSteps = TttModel::kMostSteps;
// A call that comes may find two launches before it.
constexpr absl::Duration kMostLaunchTime = absl::Milliseconds(5);

// Why a turn must end now, if it must.
std::optional<absl::Status> EndOf(const Turn& turn, absl::Time now) {
  if (turn.stream->IsCancelled()) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED_BY_CLIENT",
                 "the client cancelled the call");
  }
  if (now >= turn.request.deadline) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the call's deadline has passed");
  }
  return std::nullopt;
}

bool IsRolledBack(const absl::Status& status) {
  return status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kUnavailable;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const Options& options, TttModel* model, const Tokenizer* tokenizer,
    StatePool* pool, SessionStore* sessions, Metrics* metrics,
    const Clock* clock) {
  if (options.max_batch_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_rows is ", options.max_batch_rows));
  }
  if (options.max_batch_tokens < options.max_batch_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_tokens is ", options.max_batch_tokens,
                     ", less than max_batch_rows, ", options.max_batch_rows));
  }
  return std::unique_ptr<Engine>(
      new Engine(options, model, tokenizer, pool, sessions, metrics, clock));
}

Engine::~Engine() {
  EndAll(Error(absl::StatusCode::kUnavailable, "DRAINING", "the server stops"));
}

void Engine::Add(std::unique_ptr<Turn> turn) {
  const absl::Time now = clock_->Now();
  turn->arrival = std::min(turn->arrival, now);
  queue_.push_back({std::move(turn), now});
}

bool Engine::Step() {
  EndCancelledAndLate();
  StartQueued();
  const bool begins = BeginLaunch();
  // The device goes on with what was begun.
  const bool finishes =
      static_cast<int>(in_flight_.size()) > (begins ? lookahead_ : 0);
  if (finishes) FinishLaunch();
  QueueCommits();
  const bool committed = FinishCommits();
  if (is_device_lost_) {
    EndAll(Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the server ends, it has lost its device"));
    return false;
  }
  return begins || finishes || committed;
}

absl::Status Engine::DeviceError(absl::string_view reason,
                                 const absl::Status& status) {
  if (absl::IsUnavailable(status)) is_device_lost_ = true;
  return Error(absl::StatusCode::kInternal, reason,
               absl::StrCat("the device failed: ", status.message()));
}

void Engine::EndAll(const absl::Status& status) {
  for (Queued& queued : queue_) DropQueued(&queued, status);
  queue_.clear();
  for (auto& turn : running_) DropTurn(turn.get(), status);
  AbandonLaunches();
  commits_.clear();
  running_.clear();
}

void Engine::EndCancelledAndLate() {
  const absl::Time now = clock_->Now();
  for (Queued& queued : queue_) {
    if (const auto status = EndOf(*queued.turn, now)) {
      DropQueued(&queued, *status);
    } else if (now - queued.since > options_.max_queue_wait) {
      DropQueued(&queued, QueueTimeout(now - queued.since));
    }
  }
  std::erase_if(queue_,
                [](const Queued& queued) { return queued.turn == nullptr; });
  const bool row_is_wanted =
      !queue_.empty() && num_running() >= options_.max_batch_rows;
  const absl::Duration max_stall =
      row_is_wanted ? std::min(options_.max_stall, options_.max_stall_if_wanted)
                    : options_.max_stall;
  for (auto& turn : running_) {
    const auto status = EndOf(turn->turn(), now);
    if (status.has_value()) {
      const bool keeps_part =
          turn->turn().lease.has_value() &&
          turn->turn().request.on_cancel == OnCancel::kCommitPartial &&
          (turn->is_ending() || turn->EndEarly(now));
      if (!keeps_part) DropTurn(turn.get(), *status);
    } else if (turn->scheduler_row().is_blocked &&
               now - turn->last_progress() >= max_stall) {
      DropTurn(turn.get(),
               Error(absl::StatusCode::kResourceExhausted, "SLOW_CONSUMER",
                     absl::StrCat("the client read nothing for ",
                                  absl::FormatDuration(max_stall))));
    }
  }
  RemoveEnded();
}

void Engine::StartQueued() {
  while (!queue_.empty() && num_running() < options_.max_batch_rows) {
    Queued queued = std::move(queue_.front());
    queue_.pop_front();
    absl::StatusOr<StateSlot> slot = PrepareSlot(queued.turn.get());
    absl::StatusOr<std::unique_ptr<LastTokens>> context =
        slot.ok() ? TextContext(*queued.turn, slot->index()) : slot.status();
    if (!context.ok()) {
      // One with a reason is of the session or the pool.
      DropQueued(&queued, ErrorReason(context.status()).empty()
                              ? DeviceError("STEP_FAILED", context.status())
                              : context.status());
      continue;
    }
    const absl::Time now = clock_->Now();
    const absl::Time arrival = queued.turn->arrival;
    metrics_->RecordQueue(now - arrival);
    queued.turn->work.Start();
    running_.push_back(std::make_unique<RunningTurn>(
        RunningTurn::Args{.turn = std::move(queued.turn),
                          .slot = *std::move(slot),
                          .context = *std::move(context),
                          .tokenizer = tokenizer_,
                          .eos_token_id = model_->config().eos_token_id,
                          .arrival = arrival,
                          .start = now}));
  }
}

// A scratch slot that holds the committed state, or that of an empty session.
absl::StatusOr<StateSlot> Engine::PrepareSlot(Turn* turn) {
  if (!turn->view_session.empty()) {
    TTT_ASSIGN_OR_RETURN(turn->view, sessions_->View(turn->view_session));
  }
  TTT_ASSIGN_OR_RETURN(StateSlot slot, pool_->AcquireSlot());
  const StateSlot& from =
      turn->lease.has_value() ? turn->lease.state() : turn->view.state;
  if (from.has_value()) {
    TTT_RETURN_IF_ERROR(model_->CopyState(*pool_, slot.index(), from.index()));
  } else {
    TTT_RETURN_IF_ERROR(model_->InitState(*pool_, slot.index()));
  }
  turn->view.state = StateSlot();
  return slot;
}

// What the text of a turn goes on from; its slot holds the session's state.
absl::StatusOr<std::unique_ptr<LastTokens>> Engine::TextContext(
    const Turn& turn, int32_t slot) {
  if (tokenizer_ == nullptr || turn.lease.tokens() == 0 ||
      turn.request.max_tokens == 0) {
    return nullptr;
  }
  return model_->QueueLastTokens(*pool_, slot, turn.lease.tokens());
}

// Of running_.
std::vector<ScheduledRow> Engine::Plan() const {
  std::vector<SchedulerRow> rows;
  std::vector<int32_t> index;
  rows.reserve(running_.size());
  index.reserve(running_.size());
  for (int32_t i = 0; i < num_running(); ++i) {
    if (!running_[i]->wants_step()) continue;
    rows.push_back(running_[i]->scheduler_row());
    index.push_back(i);
  }
  std::vector<ScheduledRow> plan =
      PlanStep({.max_tokens = options_.max_batch_tokens,
                .mini_batch = model_->config().mini_batch_size,
                .long_rows = PlaceOfLongRows(model_->config().is_mlp),
                .costs = &costs_},
               rows);
  for (ScheduledRow& row : plan) row.row = index[row.row];
  return plan;
}

int32_t Engine::NumSteps(absl::Span<const ScheduledRow> plan) const {
  if (lookahead_ == 0 || !queue_.empty()) return 1;
  int64_t most_left = 0;
  for (const auto& turn : running_) {
    if (!turn->wants_step() || turn->scheduler_row().is_blocked) continue;
    if (!turn->CanDecode(kLaunchSteps)) return 1;
    most_left = std::max(most_left, turn->steps_left());
  }
  if (most_left < kLaunchSteps) return 1;
  const auto num_rows = static_cast<int32_t>(plan.size());
  return kLaunchSteps * costs_.DecodeTime(num_rows) <= kMostLaunchTime
             ? kLaunchSteps
             : 1;
}

bool Engine::BeginLaunch() {
  const std::vector<ScheduledRow> plan = Plan();
  if (plan.empty()) return false;
  LaunchInFlight& launch = in_flight_.emplace_back();
  launch.num_steps = NumSteps(plan);
  std::vector<StepSequence> sequences;
  std::vector<LogitsRequest> requests;
  launch.rows.reserve(plan.size());
  sequences.reserve(plan.size());
  requests.reserve(plan.size());
  for (const ScheduledRow& row : plan) {
    AddRow(row, &launch, &sequences, &requests);
  }
  if (launch.num_decoding < static_cast<int32_t>(plan.size())) {
    launch.kind =
        launch.num_decoding > 0 ? StepKind::kMixed : StepKind::kPrefill;
  }
  ++num_begun_;
  launch.begin = clock_->Now();
  const absl::Status begun =
      model_->Begin(*pool_, sequences, requests, launch.num_steps);
  if (!begun.ok()) {
    // Those before it were begun, and may end well.
    while (in_flight_.size() > 1) FinishLaunch();
    FailLaunches(begun);
  }
  return true;
}

void Engine::AddRow(const ScheduledRow& row, LaunchInFlight* launch,
                    std::vector<StepSequence>* sequences,
                    std::vector<LogitsRequest>* requests) {
  RunningTurn* const turn = running_[row.row].get();
  if (turn->is_decoding()) ++launch->num_decoding;
  const auto index = static_cast<int32_t>(sequences->size());
  const auto first_request = static_cast<int32_t>(requests->size());
  const int64_t sampled = turn->num_sampled();
  sequences->push_back(
      launch->num_steps > 1
          ? turn->QueueLaunch(index, launch->num_steps, requests)
          : turn->Queue(index, row.num_tokens, requests));
  launch->rows.push_back(
      {.turn = turn,
       .num_tokens = row.num_tokens,
       .num_steps = sequences->back().num_steps,
       .first_request = first_request,
       .num_requests = static_cast<int32_t>(requests->size()) - first_request,
       .num_asking = launch->num_steps > 1
                         ? static_cast<int32_t>(turn->num_sampled() - sampled)
                         : 1});
  launch->num_tokens += row.num_tokens;
}

void Engine::FinishLaunch() {
  const absl::StatusOr<std::vector<StepResult>> results = model_->Finish();
  const absl::Time now = clock_->Now();
  const LaunchInFlight& oldest = in_flight_.front();
  // It stood behind the launch before.
  const absl::Duration took =
      (now - std::max(oldest.begin, std::exchange(last_finish_, now))) /
      oldest.num_steps;
  for (int32_t step = 0; step < oldest.num_steps; ++step) {
    const auto has_step = [step](const LaunchInFlight::Row& row) {
      return row.num_steps > step;
    };
    const int64_t rows = absl::c_count_if(oldest.rows, has_step);
    metrics_->RecordStep(oldest.kind, took, rows,
                         step == 0 ? oldest.num_tokens : rows);
  }
  if (!results.ok()) return FailLaunches(results.status());
  const LaunchInFlight launch = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (int32_t step = 0; step < launch.num_steps; ++step) {
    // A row that decodes reads the token that it chose before.
    costs_.Record(launch.num_decoding, launch.num_tokens - launch.num_decoding,
                  took);
    Complete(launch, step, (*results)[step],
             now - (launch.num_steps - 1 - step) * took);
  }
  RemoveEnded();
}

void Engine::FailLaunches(const absl::Status& status) {
  Log(LogLevel::kError, "a step failed", {{"status", status.ToString()}});
  const absl::Status error = DeviceError("STEP_FAILED", status);
  for (const LaunchInFlight& launch : in_flight_) {
    for (const LaunchInFlight::Row& row : launch.rows) {
      if (row.turn == nullptr || row.turn->has_ended()) continue;
      DropTurn(row.turn, error);
    }
  }
  AbandonLaunches();
  RemoveEnded();
}

void Engine::AbandonLaunches() {
  in_flight_.clear();
  while (model_->num_in_flight() > 0) model_->Finish().status().IgnoreError();
}

void Engine::Complete(const LaunchInFlight& launch, int32_t step,
                      const StepResult& result, absl::Time now) {
  const auto results = absl::MakeConstSpan(result.logits);
  int64_t input_tokens = 0;
  int64_t generated_tokens = 0;
  for (size_t i = 0; i < launch.rows.size(); ++i) {
    const LaunchInFlight::Row& row = launch.rows[i];
    RunningTurn* const turn = row.turn;
    if (turn == nullptr || turn->has_ended() || step >= row.num_steps) continue;
    const std::optional<absl::Time> last_token = turn->last_token();
    const int64_t generated = turn->num_generated();
    const absl::Status status = turn->Advance(
        row.num_tokens, result.finite[i],
        results.subspan(row.first_request,
                        step < row.num_asking ? row.num_requests : 0),
        now);
    if (!status.ok()) {
      const bool is_of_device = ErrorReason(status).empty();
      if (!is_of_device) metrics_->RecordNumericFault();
      DropTurn(turn,
               is_of_device ? DeviceError("STEP_FAILED", status) : status);
      continue;
    }
    if (generated == 0) input_tokens += row.num_tokens;
    if (turn->num_generated() == generated) continue;
    ++generated_tokens;
    if (last_token.has_value()) {
      metrics_->RecordInterToken(now - *last_token);
    } else {
      metrics_->RecordFirstToken(now - turn->arrival());
    }
  }
  metrics_->RecordTokens(TokenKind::kInput, input_tokens);
  metrics_->RecordTokens(TokenKind::kGenerated, generated_tokens);
}

// Right behind the last steps of their turns.
void Engine::QueueCommits() {
  std::vector<RunningTurn*> turns;
  std::vector<int32_t> slots;
  std::vector<int64_t> tokens;
  for (auto& turn : running_) {
    if (!turn->StartsCommit()) continue;
    turns.push_back(turn.get());
    slots.push_back(turn->slot());
    tokens.push_back(turn->queued_position());
  }
  if (turns.empty()) return;
  commits_.push_back({.turns = std::move(turns),
                      .digests = model_->QueueDigests(*pool_, slots, tokens),
                      .num_launches = num_begun_,
                      .begin = clock_->Now()});
}

bool Engine::FinishCommits() {
  bool any_done = false;
  for (auto& turn : running_) {
    if (turn->turn().lease.has_value() || !turn->is_done()) continue;
    any_done = true;
    CommitTurn(turn.get(), {});
  }
  RemoveEnded();
  const int64_t num_finished =
      num_begun_ - static_cast<int64_t>(in_flight_.size());
  while (!commits_.empty() && commits_.front().num_launches <= num_finished) {
    any_done = true;
    CommitInFlight commit = std::move(commits_.front());
    commits_.pop_front();
    FinishCommit(std::move(commit));
  }
  RemoveEnded();
  return any_done;
}

void Engine::FinishCommit(CommitInFlight commit) {
  absl::StatusOr<std::vector<std::optional<StateDigest>>> digests =
      commit.digests.ok() ? (*commit.digests)->Finish()
                          : commit.digests.status();
  for (size_t i = 0; i < commit.turns.size(); ++i) {
    RunningTurn* const turn = commit.turns[i];
    if (turn == nullptr) continue;
    if (!digests.ok()) {
      DropTurn(turn, DeviceError("COMMIT_FAILED", digests.status()));
    } else if (const auto& digest = (*digests)[i]) {
      // Before the answer can leave, so that who has it sees it counted.
      metrics_->RecordTurn(TurnOutcome::kCommitted);
      CommitTurn(turn, *digest);
      metrics_->RecordCommit(clock_->Now() - commit.begin);
    } else {
      metrics_->RecordNumericFault();
      DropTurn(
          turn,
          Error(absl::StatusCode::kInternal, "NUMERIC_FAULT",
                "the state after this turn has a number that is not finite"));
    }
  }
}

void Engine::CommitTurn(RunningTurn* turn, const StateDigest& digest) {
  TurnEnd end = turn->Commit(digest, clock_->Now());
  metrics_->RecordLengths(end.usage.input_tokens, end.usage.output_tokens);
  turn->End(std::move(end));
}

void Engine::DropTurn(RunningTurn* turn, const absl::Status& status) {
  if (turn->turn().lease.has_value()) {
    metrics_->RecordTurn(IsRolledBack(status) ? TurnOutcome::kRolledBack
                                              : TurnOutcome::kFailed);
  }
  metrics_->RecordTokens(TokenKind::kDiscarded, turn->num_generated());
  turn->End(turn->Drop(status, clock_->Now()));
}

void Engine::DropQueued(Queued* queued, const absl::Status& status) {
  if (queued->turn->lease.has_value()) {
    metrics_->RecordTurn(IsRolledBack(status) ? TurnOutcome::kRolledBack
                                              : TurnOutcome::kFailed);
  }
  const std::unique_ptr<Turn> turn = std::move(queued->turn);
  TurnEnd end;
  end.status = status;
  end.timing.queue = clock_->Now() - turn->arrival;
  turn->lease = SessionLease();
  turn->view = SessionView();
  turn->work = CallWork();
  turn->stream->End(std::move(end));
}

void Engine::RemoveEnded() {
  if (std::none_of(running_.begin(), running_.end(),
                   [](const auto& turn) { return turn->has_ended(); })) {
    return;
  }
  const auto forget = [](RunningTurn*& turn) {
    if (turn != nullptr && turn->has_ended()) turn = nullptr;
  };
  for (LaunchInFlight& launch : in_flight_) {
    for (LaunchInFlight::Row& row : launch.rows) forget(row.turn);
  }
  for (CommitInFlight& commit : commits_) {
    for (RunningTurn*& turn : commit.turns) forget(turn);
  }
  std::erase_if(running_, [](const auto& turn) { return turn->has_ended(); });
}

}  // namespace ttt
