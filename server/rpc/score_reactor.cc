#include "server/rpc/score_reactor.h"

#include "server/rpc/messages.h"

namespace ttt {

ScoreReactor::ScoreReactor(const TurnCallContext& shared,
                           grpc::CallbackServerContext* context,
                           const grpc::ByteBuffer* request,
                           grpc::ByteBuffer* response)
    : response_bytes_(response),
      call_("Score", shared, context, TurnCall::Reads::kAtTheEnd,
            [this] { Next(); }) {
  call_.StartScore(*request, [this](const absl::Status& status) {
    if (!status.ok()) Finish(call_.End(status));
  });
}

void ScoreReactor::OnCancel() { call_.Cancel(); }

void ScoreReactor::Next() {
  while (std::optional<TokenStream::Chunk> chunk = call_.Take()) {
    if (chunk->end.has_value()) return End(*chunk->end);
  }
}

void ScoreReactor::End(const TurnEnd& end) {
  if (end.status.ok() && !call_.is_cancelled()) {
    v1::ScoreResponse response;
    ToMessage(end, &response);
    *response_bytes_ = Serialize(response);
  }
  Finish(
      call_.End(end.status, static_cast<int64_t>(response_bytes_->Length())));
}

}  // namespace ttt
