#include "client/turn.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "client/text.h"

namespace ttt {
namespace {

constexpr float kTemperature = 0.8f;

// Puts a stream's events together into the reply of the unary call.
class Gatherer {
 public:
  explicit Gatherer(absl::FunctionRef<void(const std::string&)> on_text)
      : on_text_(on_text), start_(absl::Now()) {}

  void Take(const v1::CompleteEvent& event) {
    v1::CompleteResponse& response = result_.response;
    switch (event.event_case()) {
      case v1::CompleteEvent::kAccepted:
        response.set_turn_id(event.accepted().turn_id());
        response.set_session_id(event.accepted().session_id());
        response.set_seed(event.accepted().seed());
        break;
      case v1::CompleteEvent::kTokens:
        TakeTokens(event.tokens());
        break;
      case v1::CompleteEvent::kFinished:
        response.set_finish_reason(event.finished().finish_reason());
        response.set_matched_stop(event.finished().matched_stop());
        *response.mutable_usage() = event.finished().usage();
        *response.mutable_timing() = event.finished().timing();
        finished_ = true;
        break;
      case v1::CompleteEvent::kCommitted:
        response.set_revision(event.committed().revision());
        response.set_state_digest(event.committed().state_digest());
        committed_ = true;
        break;
      case v1::CompleteEvent::EVENT_NOT_SET:
        break;  // Of a newer server.
    }
  }

  absl::StatusOr<TurnResult> Result() {
    if (!finished_ || (!committed_ && !result_.response.session_id().empty())) {
      return absl::InternalError("the stream ended before the turn did");
    }
    result_.elapsed = absl::Now() - start_;
    return std::move(result_);
  }

 private:
  void TakeTokens(const v1::CompleteEvent::Tokens& tokens) {
    v1::CompleteResponse& response = result_.response;
    if (!result_.time_to_first_token.has_value() && tokens.ids_size() > 0) {
      result_.time_to_first_token = absl::Now() - start_;
    }
    response.mutable_token_ids()->MergeFrom(tokens.ids());
    response.mutable_logprobs()->MergeFrom(tokens.logprobs());
    response.mutable_text()->append(tokens.text());
    if (!tokens.text().empty()) on_text_(tokens.text());
  }

  const absl::FunctionRef<void(const std::string&)> on_text_;
  const absl::Time start_;
  TurnResult result_;
  bool finished_ = false;
  bool committed_ = false;
};

}  // namespace

void TurnFlags::AddTo(FlagSet* flags) {
  flags->Int32("max-tokens", &max_tokens, "N",
               "generate at most N tokens; 0 only reads (default 256)");
  flags->Float("temperature", &temperature, "T", "0 is greedy (default 0.8)");
  flags->Switch("greedy", &greedy, "the same as --temperature 0");
  flags->Int32("top-k", &top_k, "K", "draw from the K most probable tokens");
  flags->Float("top-p", &top_p, "P",
               "draw from the most probable tokens that make up P");
  flags->Float("min-p", &min_p, "P",
               "leave out tokens less than P times as probable as the first");
  flags->Uint64("seed", &seed, "N", "draw the same again (default: any)");
  flags->Float("repetition-penalty", &repetition_penalty, "X",
               "over the last 1,024 tokens; 1 is off");
  flags->Float("presence-penalty", &presence_penalty, "X", "0 is off");
  flags->Float("frequency-penalty", &frequency_penalty, "X", "0 is off");
  flags->Biases("logit-bias", &logit_bias, "ID=X",
                "add X to the logit of a token; repeatable");
  flags->Strings("stop", &stop, "TEXT",
                 "end before TEXT is generated; repeatable");
  flags->Ids("stop-ids", &stop_ids, "IDS", "end at one of these tokens");
  flags->Switch("ignore-eos", &ignore_eos, "do not end at end-of-text");
  flags->Int32("logprobs", &logprobs, "N",
               "log-probabilities of the tokens, and of the N best for each");
  flags->Choice("on-cancel", &on_cancel, {"rollback", "commit"},
                "what a cancelled turn leaves in its session\n"
                "(default rollback: nothing)");
}

absl::Status TurnFlags::Fill(v1::CompleteRequest* request) const {
  if (greedy && temperature.value_or(0) != 0) {
    return UsageError("--greedy and --temperature do not go together");
  }
  v1::Sampling& sampling = *request->mutable_sampling();
  sampling.set_temperature(greedy ? 0 : temperature.value_or(kTemperature));
  if (max_tokens.has_value()) sampling.set_max_tokens(*max_tokens);
  if (top_k.has_value()) sampling.set_top_k(*top_k);
  if (top_p.has_value()) sampling.set_top_p(*top_p);
  if (min_p.has_value()) sampling.set_min_p(*min_p);
  if (seed.has_value()) sampling.set_seed(*seed);
  if (repetition_penalty.has_value()) {
    sampling.set_repetition_penalty(*repetition_penalty);
  }
  if (presence_penalty.has_value()) {
    sampling.set_presence_penalty(*presence_penalty);
  }
  if (frequency_penalty.has_value()) {
    sampling.set_frequency_penalty(*frequency_penalty);
  }
  for (const auto& [id, bias] : logit_bias) {
    (*sampling.mutable_logit_bias())[id] = bias;
  }
  request->mutable_stop()->mutable_strings()->Assign(stop.begin(), stop.end());
  request->mutable_stop()->mutable_token_ids()->Assign(stop_ids.begin(),
                                                       stop_ids.end());
  request->mutable_stop()->set_ignore_eos(ignore_eos);
  if (logprobs.has_value()) request->set_top_logprobs(*logprobs);
  request->set_on_cancel(on_cancel == "commit" ? v1::ON_CANCEL_COMMIT_PARTIAL
                                               : v1::ON_CANCEL_ROLLBACK);
  return absl::OkStatus();
}

absl::StatusOr<TurnResult> StreamTurn(
    Client& client, const v1::CompleteRequest& request,
    const CallOptions& options,
    absl::FunctionRef<void(const std::string& text)> on_text,
    std::optional<uint64_t>* revision) {
  Gatherer gatherer(on_text);
  const absl::Status status = client.StreamComplete(
      request, options, [&](const v1::CompleteEvent& event) {
        if (event.has_accepted() && revision != nullptr) {
          *revision = event.accepted().revision();
        }
        gatherer.Take(event);
      });
  if (!status.ok()) return status;
  return gatherer.Result();
}

absl::StatusOr<TurnResult> UnaryTurn(Client& client,
                                     const v1::CompleteRequest& request,
                                     const CallOptions& options) {
  const absl::Time start = absl::Now();
  absl::StatusOr<v1::CompleteResponse> response =
      client.Complete(request, options);
  if (!response.ok()) return response.status();
  return TurnResult{.response = *std::move(response),
                    .elapsed = absl::Now() - start};
}

std::string CancelledTurnOutcome(
    uint64_t revision, absl::FunctionRef<absl::StatusOr<v1::Session>()> get) {
  constexpr absl::Duration kInterval = absl::Milliseconds(20);
  constexpr int kMaxCalls = 100;
  for (int i = 0; i < kMaxCalls; ++i) {
    const absl::StatusOr<v1::Session> session = get();
    // A new session is gone with its first turn.
    const bool is_gone = absl::IsNotFound(session.status()) && revision == 0;
    if (is_gone || (session.ok() && session->tier() != v1::TIER_RUNNING &&
                    session->revision() == revision)) {
      return absl::StrCat("the session is as it was, at revision ", revision);
    }
    if (!session.ok()) return "";
    if (session->tier() != v1::TIER_RUNNING) {
      return absl::StrCat("what was generated is committed as revision ",
                          session->revision());
    }
    absl::SleepFor(kInterval);
  }
  return "";
}

std::optional<double> TokensPerSecond(const v1::CompleteResponse& response) {
  const double seconds = response.timing().decode_seconds();
  if (response.token_ids_size() < 2 || seconds <= 0) return std::nullopt;
  return (response.token_ids_size() - 1) / seconds;
}

std::string TurnFacts(const TurnResult& result) {
  const v1::CompleteResponse& response = result.response;
  const int64_t count = response.token_ids_size();
  std::string facts =
      absl::StrCat(HumanCount(count), count == 1 ? " token" : " tokens");
  if (const std::optional<double> rate = TokensPerSecond(response)) {
    absl::StrAppend(&facts, ", ", HumanRate(*rate), " tokens/s");
  }
  if (result.time_to_first_token.has_value()) {
    absl::StrAppend(&facts, ", first after ",
                    HumanDuration(*result.time_to_first_token));
  }
  if (!response.matched_stop().empty()) {
    absl::StrAppend(&facts, ", stopped before \"", response.matched_stop(),
                    "\"");
  } else if (response.finish_reason() == v1::FINISH_REASON_STOP) {
    absl::StrAppend(&facts, ", ended by itself");
  }
  return facts;
}

std::string SessionFacts(const v1::CompleteResponse& response) {
  if (response.session_id().empty()) return "";
  return absl::StrCat(
      "session ", response.session_id(), ": revision ", response.revision(),
      ", ", HumanCount(response.usage().session_tokens()), " tokens, digest ",
      DigestPrefix(response.state_digest()));
}

std::string PositionLine(const v1::Position& position) {
  std::string line = absl::StrFormat("%7d", position.token_id());
  if (position.has_logprob()) {
    absl::StrAppendFormat(&line, "  %8.4f", position.logprob());
  } else {
    absl::StrAppendFormat(&line, "  %8s", "-");
  }
  for (const v1::Candidate& candidate : position.top_logprobs()) {
    absl::StrAppendFormat(&line, "  %7d %8.4f", candidate.token_id(),
                          candidate.logprob());
  }
  return line;
}

Json TurnToJson(const TurnResult& result) {
  const v1::CompleteResponse& response = result.response;
  const v1::Usage& usage = response.usage();
  const v1::Timing& timing = response.timing();
  Json json = {{"turn_id", response.turn_id()},
               {"session_id", response.session_id()},
               {"revision", response.revision()},
               {"text", response.text()},
               {"token_ids", response.token_ids()},
               {"finish_reason", FinishReasonName(response.finish_reason())},
               {"matched_stop", response.matched_stop()},
               {"seed", response.seed()},
               {"usage",
                {{"input_tokens", usage.input_tokens()},
                 {"reused_tokens", usage.reused_tokens()},
                 {"output_tokens", usage.output_tokens()},
                 {"session_tokens", usage.session_tokens()}}},
               {"timing",
                {{"queue_seconds", timing.queue_seconds()},
                 {"prefill_seconds", timing.prefill_seconds()},
                 {"decode_seconds", timing.decode_seconds()}}},
               {"state_digest", Hex(response.state_digest())}};
  json["elapsed_seconds"] = absl::ToDoubleSeconds(result.elapsed);
  if (result.time_to_first_token.has_value()) {
    json["time_to_first_token_seconds"] =
        absl::ToDoubleSeconds(*result.time_to_first_token);
  }
  if (const std::optional<double> rate = TokensPerSecond(response)) {
    json["tokens_per_second"] = *rate;
  }
  if (!response.logprobs().empty()) {
    Json& logprobs = json["logprobs"] = Json::array();
    for (const v1::Position& position : response.logprobs()) {
      logprobs.push_back(PositionToJson(position));
    }
  }
  return json;
}

}  // namespace ttt
