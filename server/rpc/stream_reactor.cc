#include "server/rpc/stream_reactor.h"

#include "server/rpc/messages.h"

namespace ttt {

StreamReactor::StreamReactor(const TurnCallContext& shared,
                             grpc::CallbackServerContext* context,
                             const grpc::ByteBuffer* request)
    : delivery_(shared.delivery),
      call_("StreamComplete", shared, context, TurnCall::Reads::kAtOnce,
            [this] { Resume(); }) {
  call_.StartComplete(*request, [this](const absl::Status& status) {
    if (status.ok()) {
      WriteAccepted();
    } else {
      Finish(call_.End(status));
    }
  });
}

void StreamReactor::WriteAccepted() {
  v1::CompleteEvent event;
  auto* const accepted = event.mutable_accepted();
  accepted->set_turn_id(call_.turn_id());
  accepted->set_session_id(call_.session_id());
  accepted->set_revision(call_.base_revision());
  accepted->set_seed(call_.seed());
  accepted->set_input_tokens(call_.input_tokens());
  in_flight_ = Serialize(event);
  call_.WriteBegins();
  StartWrite(&in_flight_);
}

void StreamReactor::OnWriteDone(bool ok) {
  call_.WriteEnds();
  if (!ok) call_.Cancel();
  delivery_->Post([this] { Resume(); });
}

void StreamReactor::OnCancel() { call_.Cancel(); }

void StreamReactor::Resume() {
  if (starts_left_ > 0 && --starts_left_ > 0) return;
  Next();
}

void StreamReactor::Next() {
  while (true) {
    if (call_.is_cancelled()) events_.clear();
    if (!events_.empty()) return WriteFirst();
    if (end_.has_value()) return Finish(call_.End(*end_));
    const std::optional<TokenStream::Chunk> chunk = call_.Take();
    if (!chunk.has_value()) return;  // The stream goes on from here.
    QueueEvents(*chunk);
  }
}

void StreamReactor::QueueEvents(const TokenStream::Chunk& chunk) {
  if (!chunk.tokens.empty() || !chunk.text.empty()) {
    auto* const tokens = events_.emplace_back().mutable_tokens();
    tokens->set_index(chunk.index);
    AppendTokens(chunk.tokens, call_.wants_logprobs(), tokens->mutable_ids(),
                 tokens->mutable_logprobs());
    tokens->set_text(chunk.text);
  }
  if (chunk.end.has_value()) QueueEnd(*chunk.end);
}

void StreamReactor::QueueEnd(const TurnEnd& end) {
  end_ = end.status;
  if (!end.status.ok()) return;
  auto* const finished = events_.emplace_back().mutable_finished();
  finished->set_finish_reason(ToMessage(end.finish_reason));
  finished->set_matched_stop(end.matched_stop);
  ToMessage(end.usage, finished->mutable_usage());
  ToMessage(end.timing, finished->mutable_timing());
  if (!end.revision.has_value()) return;
  auto* const committed = events_.emplace_back().mutable_committed();
  committed->set_revision(*end.revision);
  committed->set_state_digest(DigestBytes(end.digest));
  committed->set_durable(false);
}

void StreamReactor::WriteFirst() {
  in_flight_ = Serialize(events_.front());
  events_.pop_front();
  call_.WriteBegins();
  if (events_.empty() && end_.has_value()) {
    StartWriteAndFinish(&in_flight_, grpc::WriteOptions(), call_.End(*end_));
  } else {
    StartWrite(&in_flight_);  // OnWriteDone goes on from here.
  }
}

}  // namespace ttt
