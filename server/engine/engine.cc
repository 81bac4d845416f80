#include "server/engine/engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

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
  const StepPlan plan = Plan();
  if (!plan.rows.empty()) Run(plan);
  const bool committed = CommitDone();
  if (is_device_lost_) {
    EndAll(Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the server ends, it has lost its device"));
    return false;
  }
  return committed || !plan.rows.empty();
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
      if (!keeps_part) turn.reset();
    } else if (turn->scheduler_row().is_blocked &&
               now - turn->last_progress() >= max_stall) {
      DropTurn(turn.get(),
               Error(absl::StatusCode::kResourceExhausted, "SLOW_CONSUMER",
                     absl::StrCat("the client read nothing for ",
                                  absl::FormatDuration(max_stall))));
      turn.reset();
    }
  }
  RemoveEnded();
}

void Engine::StartQueued() {
  while (!queue_.empty() && num_running() < options_.max_batch_rows) {
    Queued queued = std::move(queue_.front());
    queue_.pop_front();
    absl::StatusOr<StateSlot> slot = PrepareSlot(queued.turn.get());
    absl::StatusOr<std::vector<int32_t>> context =
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
absl::StatusOr<std::vector<int32_t>> Engine::TextContext(const Turn& turn,
                                                         int32_t slot) {
  if (tokenizer_ == nullptr || turn.lease.tokens() == 0) {
    return std::vector<int32_t>();
  }
  return model_->LastTokens(*pool_, slot, turn.lease.tokens());
}

Engine::StepPlan Engine::Plan() const {
  std::vector<SchedulerRow> rows;
  // Those that have ended have nothing pending, and wait for their commit.
  std::vector<int32_t> index;
  for (int32_t i = 0; i < num_running(); ++i) {
    if (running_[i]->is_done()) continue;
    rows.push_back(running_[i]->scheduler_row());
    index.push_back(i);
  }
  StepPlan plan;
  int32_t num_prefilling = 0;
  for (const ScheduledRow& row :
       PlanStep({.max_tokens = options_.max_batch_tokens,
       .mini_batch = model_->config().mini_batch_size,
       .costs = &costs_},
                rows)) {
    ++(rows[row.row].is_decoding ? plan.num_decoding : num_prefilling);
    const int32_t sequence = static_cast<int32_t>(plan.rows.size());
    const RunningTurn& turn = *running_[index[row.row]];
    plan.rows.push_back({index[row.row], row.num_tokens});
    plan.sequences.push_back(turn.Sequence(row.num_tokens));
    plan.first_request.push_back(static_cast<int32_t>(plan.requests.size()));
    turn.AppendRequests(sequence, row.num_tokens, &plan.requests);
    plan.num_tokens += row.num_tokens;
  }
  plan.first_request.push_back(static_cast<int32_t>(plan.requests.size()));
  if (num_prefilling > 0) {
    plan.kind = plan.num_decoding > 0 ? StepKind::kMixed : StepKind::kPrefill;
  }
  return plan;
}

void Engine::Run(const StepPlan& plan) {
  const absl::Time begin = clock_->Now();
  const absl::StatusOr<StepResult> result =
      model_->Step(*pool_, plan.sequences, plan.requests);
  const absl::Time now = clock_->Now();
  metrics_->RecordStep(plan.kind, now - begin, plan.rows.size(),
                       plan.num_tokens);
  if (result.ok()) {
    // A row that decodes reads the token that it chose before.
    costs_.Record(plan.num_decoding, plan.num_tokens - plan.num_decoding,
                  now - begin);
    Complete(plan, *result, now);
    return;
  }
  Log(LogLevel::kError, "a step failed",
      {{"status", result.status().ToString()}});
  const absl::Status error = DeviceError("STEP_FAILED", result.status());
  for (const ScheduledRow& row : plan.rows) {
    DropTurn(running_[row.row].get(), error);
    running_[row.row].reset();
  }
  RemoveEnded();
}

void Engine::Complete(const StepPlan& plan, const StepResult& result,
                      absl::Time now) {
  const auto results = absl::MakeConstSpan(result.logits);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    std::unique_ptr<RunningTurn>& turn = running_[plan.rows[i].row];
    const std::optional<absl::Time> last_token = turn->last_token();
    const int64_t generated = turn->num_generated();
    const int32_t begin = plan.first_request[i];
    const absl::Status status = turn->Advance(
        plan.rows[i].num_tokens, result.finite[i],
        results.subspan(begin, plan.first_request[i + 1] - begin), now);
    if (!status.ok()) {
      metrics_->RecordNumericFault();
      DropTurn(turn.get(), status);
      turn.reset();
      continue;
    }
    if (generated == 0) {
      metrics_->RecordTokens(TokenKind::kInput, plan.rows[i].num_tokens);
    }
    if (turn->num_generated() == generated) continue;
    metrics_->RecordTokens(TokenKind::kGenerated, 1);
    if (last_token.has_value()) {
      metrics_->RecordInterToken(now - *last_token);
    } else {
      metrics_->RecordFirstToken(now - turn->arrival());
    }
  }
  RemoveEnded();
}

bool Engine::CommitDone() {
  const absl::Time begin = clock_->Now();
  std::vector<RunningTurn*> in_session;
  std::vector<int32_t> slots;
  std::vector<int64_t> tokens;
  bool any_done = false;
  for (auto& turn : running_) {
    if (!turn->is_done()) continue;
    any_done = true;
    if (!turn->turn().lease.has_value()) continue;
    in_session.push_back(turn.get());
    slots.push_back(turn->slot());
    tokens.push_back(turn->position());
  }
  if (!any_done) return false;
  absl::StatusOr<std::vector<std::optional<StateDigest>>> digests =
      model_->Digest(*pool_, slots, tokens);
  size_t next_digest = 0;
  for (auto& turn : running_) {
    if (!turn->is_done()) continue;
    if (!turn->turn().lease.has_value()) {
      CommitTurn(turn.get(), {});
    } else if (!digests.ok()) {
      DropTurn(turn.get(), DeviceError("COMMIT_FAILED", digests.status()));
    } else if (const auto& digest = (*digests)[next_digest++]) {
      // Before the answer can leave, so that who has it sees it counted.
      metrics_->RecordTurn(TurnOutcome::kCommitted);
      CommitTurn(turn.get(), *digest);
      metrics_->RecordCommit(clock_->Now() - begin);
    } else {
      metrics_->RecordNumericFault();
      DropTurn(
          turn.get(),
          Error(absl::StatusCode::kInternal, "NUMERIC_FAULT",
                "the state after this turn has a number that is not finite"));
    }
    turn.reset();
  }
  RemoveEnded();
  return true;
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
  std::erase_if(running_, [](const auto& turn) { return turn == nullptr; });
}

}  // namespace ttt
