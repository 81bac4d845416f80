#include "server/engine/running_turn.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

std::vector<int32_t> StopIds(const StopParams& stop, int32_t eos_token_id) {
  std::vector<int32_t> ids = stop.token_ids;
  if (eos_token_id >= 0 && !stop.ignore_eos) ids.push_back(eos_token_id);
  return ids;
}

}  // namespace

RunningTurn::RunningTurn(Args args)
    : turn_(std::move(args.turn)),
      slot_(std::move(args.slot)),
      context_(std::move(args.context)),
      tokenizer_(args.tokenizer),
      stop_ids_(StopIds(turn_->request.stop, args.eos_token_id)),
      arrival_(args.arrival),
      start_(args.start),
      queued_position_(base_tokens()),
      most_sampled_(turn_->request.max_tokens),
      position_(base_tokens()),
      last_progress_(args.start) {}

int64_t RunningTurn::base_tokens() const {
  return is_score() ? turn_->view.tokens : turn_->lease.tokens();
}

int64_t RunningTurn::num_pending() const {
  if (last_chosen_.has_value()) return 1;
  if (finish_reason_ == FinishReason::kCancelled) return 0;
  return static_cast<int64_t>(turn_->request.input_ids.size()) - num_queued_;
}

bool RunningTurn::wants_step() const {
  // Without input it chooses after what the session has read.
  return num_pending() > 0 || (num_steps_ == 0 && !is_ending_);
}

bool RunningTurn::StartsCommit() {
  if (!turn_->lease.has_value() || wants_step()) return false;
  // One that is yet to be chosen may be the last that is read.
  if (!is_ending_ && num_generated_ + 1 < num_reread_) return false;
  return !std::exchange(starts_commit_, true);
}

bool RunningTurn::is_done() const {
  if (!is_ending_ || wants_step()) return false;
  // Without a session nobody reads the state that its last steps make.
  return num_steps_taken_ == num_steps_ || !turn_->lease.has_value();
}

SchedulerRow RunningTurn::scheduler_row() const {
  const int64_t ahead_bytes =
      (num_sampled_ - num_generated_) *
      TokenStream::Bytes(turn_->request.top_logprobs.value_or(0));
  return {.pending_tokens = num_pending(),
          .position = queued_position_,
          .is_decoding = is_decoding(),
          .is_blocked = !is_ending_ && turn_->stream->IsFull(ahead_bytes)};
}

// After all that is queued.
bool RunningTurn::WantsSample() const {
  return !is_ending_ && num_pending() == 0 && num_sampled_ < most_sampled_;
}

void RunningTurn::CountSample(int32_t chosen) {
  ++num_sampled_;
  // Without a session nobody reads the state that the last token makes.
  if (num_sampled_ < most_sampled_ || turn_->lease.has_value()) {
    last_chosen_ = chosen;
  }
}

StepSequence RunningTurn::Queue(int32_t index, int32_t num_tokens,
                                std::vector<LogitsRequest>* requests) {
  StepSequence sequence = {slot_.index(), queued_position_, {}};
  if (is_score()) AppendScoreRequests(index, num_tokens, requests);
  if (last_chosen_.has_value()) {
    TTT_CHECK(num_tokens == 1);
    reading_ = *std::exchange(last_chosen_, std::nullopt);
    ++num_reread_;
    sequence.token_ids = absl::MakeConstSpan(&reading_, 1);
  } else {
    sequence.token_ids = absl::MakeConstSpan(turn_->request.input_ids)
                             .subspan(num_queued_, num_tokens);
    num_queued_ += num_tokens;
  }
  queued_position_ += num_tokens;
  ++num_steps_;
  if (is_score() || !WantsSample()) return sequence;
  CountSample(ChosenBy(static_cast<int32_t>(requests->size())));
  requests->push_back(
      {.sequence = index,
       .row = num_tokens - 1,
       .given_token = kSampleToken,
       .num_candidates = turn_->request.top_logprobs.value_or(0),
       .sampling = &turn_->request.sampling});
  return sequence;
}

bool RunningTurn::CanDecode(int num_steps) const {
  const Request& request = turn_->request;
  const int64_t ahead = num_sampled_ - num_generated_ + num_steps;
  return is_decoding() && last_chosen_.has_value() &&
         request.stop.strings.empty() && stop_ids_.size() <= kMostStopIds &&
         !turn_->stream->IsFull(
             ahead * TokenStream::Bytes(request.top_logprobs.value_or(0)));
}

int64_t RunningTurn::steps_left() const {
  if (is_ending_) return 1;
  return most_sampled_ - num_sampled_ + (turn_->lease.has_value() ? 1 : 0);
}

StepSequence RunningTurn::QueueLaunch(int32_t index, int num_steps,
                                      std::vector<LogitsRequest>* requests) {
  const size_t before = requests->size();
  StepSequence sequence = Queue(index, 1, requests);
  if (requests->size() == before) {
    requests->push_back({.sequence = index, .row = 0, .given_token = kNoToken});
  }
  sequence.stop_ids = stop_ids_;
  while (sequence.num_steps < num_steps && last_chosen_.has_value()) {
    const int32_t chosen = *std::exchange(last_chosen_, std::nullopt);
    ++num_reread_;
    ++queued_position_;
    ++num_steps_;
    ++sequence.num_steps;
    if (WantsSample()) CountSample(chosen);
  }
  return sequence;
}

void RunningTurn::AppendScoreRequests(
    int32_t index, int32_t num_tokens,
    std::vector<LogitsRequest>* requests) const {
  const std::vector<int32_t>& input = turn_->request.input_ids;
  // The kept vector of the session predicts the first input token.
  const int32_t begin = num_queued_ == 0 && base_tokens() > 0 ? -1 : 0;
  for (int32_t row = begin; row < num_tokens; ++row) {
    const size_t next = num_queued_ + row + 1;
    requests->push_back(
        {.sequence = index,
         .row = row,
         .given_token = next < input.size() ? input[next] : kNoToken,
         .num_candidates = turn_->request.top_logprobs.value_or(0)});
  }
}

absl::Status RunningTurn::Advance(int32_t num_tokens, bool finite,
                                  absl::Span<const LogitsResult> results,
                                  absl::Time now) {
  ++num_steps_taken_;
  // Of a step that the turn was left out of there is nothing to take, nor of
  // any without a session.
  if (is_ending_ && (!turn_->lease.has_value() ||
                     position_ + num_tokens > queued_position_)) {
    return absl::OkStatus();
  }
  if (is_ending_) results = {};  // They are for nobody.
  for (const LogitsResult& result : results) finite = finite && result.finite;
  if (!finite) {
    return Error(absl::StatusCode::kInternal, "NUMERIC_FAULT",
                 absl::StrCat("a number of this turn is not finite, at token ",
                              position_));
  }
  last_progress_ = now;
  turn_->work.Done(num_tokens);
  if (is_score()) TakeScores(results);
  position_ += num_tokens;
  if (num_generated_ == 0) num_read_ += num_tokens;
  const Request& request = turn_->request;
  if (is_score() || request.max_tokens == 0) {
    const auto input_tokens = static_cast<int64_t>(request.input_ids.size());
    is_ending_ = is_ending_ || num_read_ == input_tokens;
  } else if (!results.empty()) {
    if (num_generated_ == 0) TTT_RETURN_IF_ERROR(StartText());
    TakeToken(results[0], now);
  }
  return absl::OkStatus();
}

void RunningTurn::TakeScores(absl::Span<const LogitsResult> results) {
  const std::vector<int32_t>& input = turn_->request.input_ids;
  if (positions_.empty()) positions_.reserve(input.size());
  for (const LogitsResult& result : results) {
    TokenPosition scored;
    scored.top = result.candidates;
    if (result.token_id != kNoToken) scored.logprob = result.logprob;
    if (positions_.empty() && !first_.has_value() && base_tokens() > 0) {
      scored.token_id = std::max(result.token_id, 0);
      first_ = std::move(scored);
    } else {
      scored.token_id = input[positions_.size()];
      positions_.push_back(std::move(scored));
    }
  }
}

// The context was queued before the first step, and is there.
absl::Status RunningTurn::StartText() {
  if (tokenizer_ == nullptr) return absl::OkStatus();
  std::vector<int32_t> before;
  if (context_ != nullptr) {
    TTT_ASSIGN_OR_RETURN(before, context_->Finish());
    context_.reset();
  }
  const Request& request = turn_->request;
  const bool at_start = base_tokens() <= static_cast<int64_t>(before.size());
  before.insert(before.end(), request.input_ids.begin(),
                request.input_ids.end());
  text_.emplace(tokenizer_, at_start, before, request.stop.strings);
  return absl::OkStatus();
}

bool RunningTurn::IsStopToken(int32_t id) const {
  return absl::c_linear_search(stop_ids_, id);
}

void RunningTurn::TakeToken(const LogitsResult& result, absl::Time now) {
  const Request& request = turn_->request;
  ++num_generated_;
  const bool is_last = num_generated_ == num_sampled_;
  if (is_last && last_chosen_.has_value()) last_chosen_ = result.token_id;
  if (!first_token_.has_value()) first_token_ = now;
  last_token_ = now;
  TokenPosition token{.token_id = result.token_id};
  if (request.top_logprobs.has_value()) {
    token.logprob = result.logprob;
    token.top = result.candidates;
  }
  const bool is_stop_token = IsStopToken(result.token_id);
  std::string text;
  if (text_.has_value() && !is_stop_token)
    text = text_->Append(result.token_id);
  if (is_stop_token || (text_.has_value() && !text_->matched_stop().empty())) {
    is_ending_ = true;
    finish_reason_ = FinishReason::kStop;
  } else if (num_generated_ >= most_sampled_) {
    is_ending_ = true;
  }
  if (is_ending_) {
    if (text_.has_value()) {
      absl::StrAppend(&text,
                      text_->Finish(/*goes_on=*/turn_->lease.has_value()));
      // What was held back may have been the rest of a stop string.
      if (!text_->matched_stop().empty()) finish_reason_ = FinishReason::kStop;
    }
    if (!is_last || !turn_->lease.has_value()) last_chosen_.reset();
    // What is queued reads this token and no more.
    if (num_generated_ < num_reread_) queued_position_ = position_ + 1;
  }
  turn_->stream->Push(std::move(token), text, now);
}

bool RunningTurn::EndEarly(absl::Time now) {
  TTT_CHECK(!is_ending_);
  if (num_queued_ == 0 && num_generated_ == 0) return false;
  // What is still to be chosen is for nobody, unless it is to be read.
  if (num_generated_ < num_sampled_) last_chosen_.reset();
  most_sampled_ = std::max(num_generated_, num_reread_);
  finish_reason_ = FinishReason::kCancelled;
  if (num_generated_ < most_sampled_) return true;
  is_ending_ = true;
  if (text_.has_value()) {
    const std::string rest =
        text_->Finish(/*goes_on=*/turn_->lease.has_value());
    if (!rest.empty()) turn_->stream->Push(std::nullopt, rest, now);
  }
  return true;
}

void RunningTurn::FillCounts(TurnEnd* end, absl::Time now) const {
  end->usage.input_tokens = num_read_;
  end->usage.output_tokens = num_generated_;
  end->timing.queue = start_ - arrival_;
  end->timing.prefill = first_token_.value_or(now) - start_;
  end->timing.decode =
      first_token_.has_value() ? now - *first_token_ : absl::ZeroDuration();
}

TurnEnd RunningTurn::Commit(const StateDigest& digest, absl::Time now) {
  TTT_CHECK(is_done());
  TurnEnd end;
  end.finish_reason = finish_reason_;
  if (text_.has_value()) end.matched_stop = text_->matched_stop();
  FillCounts(&end, now);
  end.positions = std::move(positions_);
  end.first = std::move(first_);
  if (turn_->lease.has_value()) {
    end.revision = turn_->lease.revision() + 1;
    end.digest = digest;
    end.usage.session_tokens = position_;
    turn_->lease.Commit(std::move(slot_), position_, digest);
  }
  return end;
}

TurnEnd RunningTurn::Drop(absl::Status status, absl::Time now) {
  TurnEnd end;
  end.status = std::move(status);
  FillCounts(&end, now);
  return end;
}

void RunningTurn::End(TurnEnd end) {
  has_ended_ = true;
  slot_ = StateSlot();
  turn_->lease = SessionLease();
  turn_->view = SessionView();
  turn_->work = CallWork();
  turn_->stream->End(std::move(end));
}

}  // namespace ttt
