// What all RPCs have in common: parsing, one answer, and the request metric.
#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/rpc/rpc_parts.h"
#include "server/rpc/status.h"

namespace ttt {

// The services take bytes and parse them here: gRPC itself answers a message
// that does not parse with UNIMPLEMENTED and without details, and counts it
// nowhere. INVALID_ARGUMENT (MALFORMED_REQUEST): not such a message, or one
// whose strings are not UTF-8.
template <typename Message>
absl::Status Parse(const grpc::ByteBuffer& bytes, Message* message) {
  grpc::ByteBuffer shared = bytes;
  if (grpc::SerializationTraits<Message>::Deserialize(&shared, message).ok()) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kInvalidArgument, "MALFORMED_REQUEST",
               absl::StrCat("not a ", Message::descriptor()->full_name(),
                            ", or a string in it is not UTF-8"));
}

template <typename Message>
grpc::ByteBuffer Serialize(const Message& message) {
  grpc::ByteBuffer bytes;
  bool owned = false;
  // Fails only above 2 GiB; the client then sees an empty message refused.
  (void)grpc::SerializationTraits<Message>::Serialize(message, &bytes, &owned);
  return bytes;
}

// One RPC from its arrival to its status.
class RpcCall {
 public:
  // `method` outlives the call. `parts` and `context` must.
  RpcCall(absl::string_view method, const RpcParts& parts,
          grpc::CallbackServerContext* context);

  // By the server's clock; infinite if the client gave none.
  absl::Time Deadline() const;
  // Of a call whose text is about to be read: RESOURCE_EXHAUSTED
  // (QUEUE_TIMEOUT) if it came longer ago than `max_wait`.
  absl::Status CheckWait(absl::Duration max_wait) const;
  // Of a call that has waited: why it need not be run any more. CANCELLED,
  // UNAVAILABLE (DRAINING) if the server is ending, DEADLINE_EXCEEDED.
  absl::Status CheckWanted(bool is_cancelled, bool is_ending) const;

  // Records the call and says how it ended. Once, before the reactor's Finish.
  grpc::Status End(const absl::Status& status,
                   const ErrorMetadata& metadata = {});

  const RpcParts& parts() const { return parts_; }
  absl::Time arrival() const { return arrival_; }

 private:
  const absl::string_view method_;
  const RpcParts& parts_;
  grpc::CallbackServerContext* const context_;
  const absl::Time arrival_;
};

// An RPC of which only the name is in this version.
inline grpc::ServerUnaryReactor* Refuse(absl::string_view method,
                                        const RpcParts& parts,
                                        grpc::CallbackServerContext* context) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(
      RpcCall(method, parts, context).End(UnimplementedMethod(method)));
  return reactor;
}

// The same for a streaming RPC; `Base` is its reactor's base class.
template <typename Base>
class RefusingReactor : public Base {
 public:
  RefusingReactor(absl::string_view method, const RpcParts& parts,
                  grpc::CallbackServerContext* context) {
    this->Finish(
        RpcCall(method, parts, context).End(UnimplementedMethod(method)));
  }
  void OnDone() override { delete this; }
};

}  // namespace ttt
