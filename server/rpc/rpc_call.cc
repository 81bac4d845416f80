#include "server/rpc/rpc_call.h"

#include <chrono>

#include "server/base/log.h"

namespace ttt {

RpcCall::RpcCall(absl::string_view method, const RpcParts& parts,
                 grpc::CallbackServerContext* context)
    : method_(method),
      parts_(parts),
      context_(context),
      arrival_(parts.clock->Now()) {}

absl::Time RpcCall::Deadline() const {
  const auto deadline = context_->deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  // By how much is left: the two clocks need not agree.
  return parts_.clock->Now() +
         absl::FromChrono(deadline - std::chrono::system_clock::now());
}

absl::Status RpcCall::CheckWait(absl::Duration max_wait) const {
  const absl::Duration wait = parts_.clock->Now() - arrival_;
  return wait > max_wait ? QueueTimeout(wait) : absl::OkStatus();
}

absl::Status RpcCall::CheckWanted(bool is_cancelled, bool is_ending) const {
  if (is_cancelled) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED_BY_CLIENT",
                 "the client cancelled the call");
  }
  if (is_ending) {
    return Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the server is shutting down");
  }
  if (parts_.clock->Now() >= Deadline()) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                 "the call's deadline has passed");
  }
  return absl::OkStatus();
}

grpc::Status RpcCall::End(const absl::Status& status,
                          const ErrorMetadata& metadata) {
  const std::string code = CodeName(status);
  parts_.metrics->RecordRequest(method_, code, parts_.clock->Now() - arrival_);
  if (const auto delay = RetryDelay(status); delay.has_value()) {
    context_->AddTrailingMetadata(
        "grpc-retry-pushback-ms",
        absl::StrCat(absl::ToInt64Milliseconds(*delay)));
  }
  if (status.code() == absl::StatusCode::kInternal ||
      status.code() == absl::StatusCode::kUnknown ||
      status.code() == absl::StatusCode::kDataLoss) {
    Log(LogLevel::kError, "call failed",
        {{"method", std::string(method_)},
         {"code", code},
         {"turn", metadata.turn_id},
         {"message", std::string(status.message())}});
  }
  return ToGrpcStatus(status, metadata);
}

}  // namespace ttt
