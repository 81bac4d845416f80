#include "server/rpc/messages.h"

namespace ttt {
namespace {

void ToMessage(absl::Time time, google::protobuf::Timestamp* message) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  message->set_seconds(seconds);
  message->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

}  // namespace

v1::FinishReason ToMessage(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void ToMessage(const TokenPosition& position, v1::Position* message) {
  message->set_token_id(position.token_id);
  if (position.logprob.has_value()) message->set_logprob(*position.logprob);
  message->mutable_top_logprobs()->Reserve(
      static_cast<int>(position.top.size()));
  for (const TokenLogprob& candidate : position.top) {
    v1::Candidate* const added = message->add_top_logprobs();
    added->set_token_id(candidate.token_id);
    added->set_logprob(candidate.logprob);
  }
}

void ToMessage(const TurnUsage& usage, v1::Usage* message) {
  message->set_input_tokens(usage.input_tokens);
  message->set_reused_tokens(usage.reused_tokens);
  message->set_output_tokens(usage.output_tokens);
  message->set_session_tokens(usage.session_tokens);
}

void ToMessage(const TurnTiming& timing, v1::Timing* message) {
  message->set_queue_seconds(absl::ToDoubleSeconds(timing.queue));
  message->set_prefill_seconds(absl::ToDoubleSeconds(timing.prefill));
  message->set_decode_seconds(absl::ToDoubleSeconds(timing.decode));
}

void ToMessage(const TurnEnd& end, v1::ScoreResponse* message) {
  message->mutable_positions()->Reserve(static_cast<int>(end.positions.size()));
  for (const TokenPosition& position : end.positions) {
    ToMessage(position, message->add_positions());
  }
  if (end.first.has_value()) ToMessage(*end.first, message->mutable_first());
  ToMessage(end.usage, message->mutable_usage());
}

void ToMessage(const SessionInfo& session, absl::string_view model_fingerprint,
               v1::Session* message) {
  message->set_session_id(session.id);
  message->set_revision(session.revision);
  message->set_tokens(session.tokens);
  message->set_model_fingerprint(std::string(model_fingerprint));
  message->set_tier(session.running ? v1::TIER_RUNNING : v1::TIER_DEVICE);
  ToMessage(session.create_time, message->mutable_create_time());
  ToMessage(session.last_used_time, message->mutable_last_used_time());
  if (session.expire_time() != absl::InfiniteFuture()) {
    ToMessage(session.expire_time(), message->mutable_expire_time());
  }
  message->set_state_bytes(session.state_bytes);
  if (session.digest.has_value()) {
    message->set_state_digest(DigestBytes(*session.digest));
  }
  message->set_parent_session_id(session.parent_id);
}

std::string DigestBytes(const StateDigest& digest) {
  return std::string(reinterpret_cast<const char*>(digest.data()),
                     digest.size());
}

}  // namespace ttt
