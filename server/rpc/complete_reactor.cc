#include "server/rpc/complete_reactor.h"

#include "absl/strings/str_cat.h"
#include "server/rpc/messages.h"

namespace ttt {
CompleteReactor::CompleteReactor(const TurnCallContext& shared,
                                 grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response)
    : max_candidates_(shared.limits.max_answer_candidates),
      response_bytes_(response),
      call_("Complete", shared, context, TurnCall::Reads::kAtTheEnd,
            [this] { Next(); }) {
  call_.StartComplete(*request, [this](const absl::Status& status) {
    if (!status.ok()) Finish(call_.End(status));
  });
}

void CompleteReactor::OnCancel() { call_.Cancel(); }

void CompleteReactor::Next() {
  while (std::optional<TokenStream::Chunk> chunk = call_.Take()) {
    Gather(*chunk);
    if (chunk->end.has_value()) return End(*chunk->end);
  }
}

void CompleteReactor::Gather(const TokenStream::Chunk& chunk) {
  for (const TokenPosition& token : chunk.tokens) {
    num_candidates_ += 1 + static_cast<int64_t>(token.top.size());
  }
  if (num_candidates_ > max_candidates_ && !is_too_large_) {
    is_too_large_ = true;
    call_.Cancel();
  }
  if (is_too_large_) return;
  AppendTokens(chunk.tokens, call_.wants_logprobs(),
               response_.mutable_token_ids(), response_.mutable_logprobs());
  response_.mutable_text()->append(chunk.text);
}

void CompleteReactor::End(const TurnEnd& end) {
  if (is_too_large_) {
    return Finish(call_.End(
        Error(absl::StatusCode::kResourceExhausted, "ANSWER_TOO_LARGE",
              absl::StrCat("the answer has more than ", max_candidates_,
                           " tokens and candidates, use StreamComplete")),
        0, end.revision));
  }
  if (end.status.ok()) {
    response_.set_turn_id(call_.turn_id());
    response_.set_session_id(call_.session_id());
    response_.set_finish_reason(ToMessage(end.finish_reason));
    response_.set_matched_stop(end.matched_stop);
    response_.set_seed(call_.seed());
    ToMessage(end.usage, response_.mutable_usage());
    ToMessage(end.timing, response_.mutable_timing());
    if (end.revision.has_value()) {
      response_.set_revision(*end.revision);
      response_.set_state_digest(DigestBytes(end.digest));
    }
    *response_bytes_ = Serialize(response_);
  }
  Finish(
      call_.End(end.status, static_cast<int64_t>(response_bytes_->Length())));
}

}  // namespace ttt
