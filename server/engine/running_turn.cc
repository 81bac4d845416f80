#include "server/engine/running_turn.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/error.h"

namespace ttt {

RunningTurn::RunningTurn(Args args)
    : turn_(std::move(args.turn)),
      slot_(std::move(args.slot)),
      eos_token_id_(args.eos_token_id),
      arrival_(args.arrival),
      start_(args.start),
      position_(base_tokens()),
      last_progress_(args.start) {
  const Request& request = turn_->request;
  if (args.tokenizer != nullptr && !is_score()) {
    std::vector<int32_t> before = std::move(args.context);
    const bool at_start = base_tokens() <= static_cast<int64_t>(before.size());
    before.insert(before.end(), request.input_ids.begin(),
                  request.input_ids.end());
    text_.emplace(args.tokenizer, at_start, before, request.stop.strings);
  }
}

int64_t RunningTurn::base_tokens() const {
  return is_score() ? turn_->view.tokens : turn_->lease.tokens();
}

absl::Span<const int32_t> RunningTurn::Pending() const {
  if (chosen_.has_value()) return absl::MakeConstSpan(&*chosen_, 1);
  const std::vector<int32_t>& input = turn_->request.input_ids;
  if (finish_reason_ == FinishReason::kCancelled) return {};
  return absl::MakeConstSpan(input).subspan(num_read_);
}

int64_t RunningTurn::num_pending() const {
  return static_cast<int64_t>(Pending().size());
}

SchedulerRow RunningTurn::scheduler_row() const {
  return {.pending_tokens = num_pending(),
          .position = position_,
          .is_decoding = num_generated_ > 0,
          .is_blocked = !is_ending_ && turn_->stream->IsFull()};
}

StepSequence RunningTurn::Sequence(int32_t num_tokens) const {
  return {slot_.index(), position_, Pending().first(num_tokens)};
}

void RunningTurn::AppendRequests(int32_t index, int32_t num_tokens,
                                 std::vector<LogitsRequest>* requests) const {
  const Request& request = turn_->request;
  const int32_t candidates = request.top_logprobs.value_or(0);
  if (is_score()) {
    const std::vector<int32_t>& input = request.input_ids;
    // The kept vector of the session predicts the first input token.
    const int32_t begin = num_read_ == 0 && base_tokens() > 0 ? -1 : 0;
    for (int32_t row = begin; row < num_tokens; ++row) {
      const size_t next = num_read_ + row + 1;
      requests->push_back(
          {.sequence = index,
           .row = row,
           .given_token = next < input.size() ? input[next] : kNoToken,
           .num_candidates = candidates});
    }
    return;
  }
  if (is_ending_ || num_tokens < num_pending() || request.max_tokens == 0)
    return;
  requests->push_back({.sequence = index,
                       .row = num_tokens - 1,
                       .given_token = kSampleToken,
                       .num_candidates = candidates,
                       .sampling = &request.sampling});
}

absl::Status RunningTurn::Advance(int32_t num_tokens, bool finite,
                                  absl::Span<const LogitsResult> results,
                                  absl::Time now) {
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
  if (chosen_.has_value()) {
    if (num_tokens > 0) chosen_.reset();
  } else {
    num_read_ += num_tokens;
  }
  if (is_score() || turn_->request.max_tokens == 0) {
    is_ending_ = is_ending_ || num_pending() == 0;
  } else if (!results.empty()) {
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

bool RunningTurn::IsStopToken(int32_t id) const {
  const StopParams& stop = turn_->request.stop;
  return (id == eos_token_id_ && !stop.ignore_eos) ||
         absl::c_linear_search(stop.token_ids, id);
}

void RunningTurn::TakeToken(const LogitsResult& result, absl::Time now) {
  const Request& request = turn_->request;
  chosen_ = result.token_id;
  ++num_generated_;
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
  } else if (num_generated_ >= request.max_tokens) {
    is_ending_ = true;
    finish_reason_ = FinishReason::kLength;
  }
  if (is_ending_) {
    if (text_.has_value()) {
      absl::StrAppend(&text,
                      text_->Finish(/*goes_on=*/turn_->lease.has_value()));
      // What was held back may have been the rest of a stop string.
      if (!text_->matched_stop().empty()) finish_reason_ = FinishReason::kStop;
    }
    // Without a session nobody reads the state that the last token makes.
    if (!turn_->lease.has_value()) chosen_.reset();
  }
  std::vector<TokenPosition> tokens;
  tokens.push_back(std::move(token));
  turn_->stream->Push(std::move(tokens), text, now);
}

bool RunningTurn::EndEarly(absl::Time now) {
  TTT_CHECK(!is_ending_);
  if (num_read_ == 0 && num_generated_ == 0) return false;
  is_ending_ = true;
  finish_reason_ = FinishReason::kCancelled;
  if (text_.has_value()) {
    const std::string rest =
        text_->Finish(/*goes_on=*/turn_->lease.has_value());
    if (!rest.empty()) turn_->stream->Push({}, rest, now);
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
  slot_ = StateSlot();
  turn_->lease = SessionLease();
  turn_->view = SessionView();
  turn_->work = CallWork();
  turn_->stream->End(std::move(end));
}

}  // namespace ttt
