// RPCs that run no turn and have one answer.
#pragma once

#include <atomic>
#include <utility>

#include "server/admission/admission.h"
#include "server/rpc/active_calls.h"
#include "server/rpc/rpc_call.h"

namespace ttt {

// One call of such an RPC. An active call until its answer has left, so that a
// drain waits for it and a client that does not read is cut. Deletes itself in
// OnDone.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // As RpcCall; `calls` must outlive the call.
  UnaryCall(absl::string_view method, const RpcParts& parts, ActiveCalls* calls,
            grpc::CallbackServerContext* context)
      : calls_(calls),
        call_(method, parts, context),
        active_(nullptr, [context] { context->TryCancel(); }) {
    calls_->Add(&active_);
  }

  // The call's place, until its answer has left.
  void Keep(Ticket ticket) { ticket_ = std::move(ticket); }
  // After the call has waited; see RpcCall.
  absl::Status CheckWanted() const {
    return call_.CheckWanted(is_cancelled_, calls_->is_ending());
  }
  // Of a call that is about to be read; see RpcCall.
  absl::Status CheckWait(absl::Duration max_wait) const {
    return call_.CheckWait(max_wait);
  }
  // Once, last: the call may be gone when it returns.
  void End(const absl::Status& status, int64_t answer_bytes = 0) {
    active_.WriteBegins(call_.parts().clock->Now(), answer_bytes);
    Finish(call_.End(status));
  }

  void OnCancel() override { is_cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  ~UnaryCall() override {
    ticket_ = Ticket();  // Whoever finds the server idle finds it empty.
    calls_->Remove(&active_);
  }

  ActiveCalls* const calls_;
  RpcCall call_;
  ActiveCall active_;
  Ticket ticket_;
  std::atomic<bool> is_cancelled_ = false;
};

// Parses, calls `handler(request, &response)`, and serializes what it made.
template <typename RequestMessage, typename ResponseMessage, typename Handler>
absl::Status AnswerMessage(const grpc::ByteBuffer& request_bytes,
                           grpc::ByteBuffer* response_bytes, Handler handler) {
  RequestMessage request;
  ResponseMessage response;
  absl::Status status = Parse(request_bytes, &request);
  if (status.ok()) status = handler(request, &response);
  if (status.ok()) *response_bytes = Serialize(response);
  return status;
}

// An RPC that is answered where it stands: `handler(request, &response)`
// returns an absl::Status and waits for nothing.
template <typename RequestMessage, typename ResponseMessage, typename Handler>
grpc::ServerUnaryReactor* Answer(absl::string_view method,
                                 const RpcParts& parts, ActiveCalls* calls,
                                 grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request_bytes,
                                 grpc::ByteBuffer* response_bytes,
                                 Handler handler) {
  auto* const call = new UnaryCall(method, parts, calls, context);
  const absl::Status status = AnswerMessage<RequestMessage, ResponseMessage>(
      *request_bytes, response_bytes, handler);
  call->End(status, static_cast<int64_t>(response_bytes->Length()));
  return call;
}

}  // namespace ttt
