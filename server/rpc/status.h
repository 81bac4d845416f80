// The only way out for errors: absl::Status to gRPC, with google.rpc details.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ttt {

// What ErrorInfo.metadata says of the turn that failed.
struct ErrorMetadata {
  std::string turn_id;               // empty: there was no turn
  std::optional<uint64_t> revision;  // of the session, as far as it is known
  std::optional<bool> committed;
};

// INVALID_ARGUMENT (INVALID_FIELD) with a google.rpc.BadRequest. `field` is the
// path in the message, `problem` holds the value and the rule.
absl::Status InvalidField(absl::string_view field, absl::string_view problem);
// UNIMPLEMENTED (NOT_IMPLEMENTED) with a google.rpc.BadRequest.
absl::Status UnimplementedField(absl::string_view field,
                                absl::string_view problem);
// UNIMPLEMENTED (NOT_IMPLEMENTED) of a whole RPC.
absl::Status UnimplementedMethod(absl::string_view method);

// The name of the code that gRPC will see: never UNKNOWN.
std::string CodeName(const absl::Status& status);

// When to try again: the status' hint, or a default for RESOURCE_EXHAUSTED and
// UNAVAILABLE; no value for the others.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

// ErrorInfo with the status' reason, or the code's name where it has none;
// RetryInfo and BadRequest where they apply. UNKNOWN becomes INTERNAL.
grpc::Status ToGrpcStatus(const absl::Status& status,
                          const ErrorMetadata& metadata = {});

}  // namespace ttt
