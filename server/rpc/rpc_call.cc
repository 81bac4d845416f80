#include "server/rpc/rpc_call.h"

#include "server/base/log.h"

namespace ttt {

RpcCall::RpcCall(absl::string_view method, const RpcParts& parts,
                 grpc::CallbackServerContext* context)
    : method_(method),
      parts_(parts),
      context_(context),
      arrival_(parts.clock->Now()) {}

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
