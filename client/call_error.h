// What a failed call says, decoded.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace ttt {

struct CallError {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string message;
  std::string reason;  // such as SESSION_BUSY; empty if the server gave none
  std::optional<absl::Duration> retry_after;
  std::map<std::string, std::string> metadata;  // turn_id, revision, committed
  std::vector<std::pair<std::string, std::string>>
      field_violations;  // field and description
};

// The status of a call. The server's google.rpc.Status goes along as a payload,
// for DecodeError.
absl::Status FromGrpcStatus(const grpc::Status& status);

// The same failure with more in its message.
absl::Status WithHint(const absl::Status& status, absl::string_view hint);

// `status` is not OK. Details that cannot be read are left out.
CallError DecodeError(const absl::Status& status);

// Whether the server refused the call at the door, for want of room or because
// it is starting or draining: nothing was done, and the same call may be made
// again after RetryWait.
bool WasRefused(const CallError& error);

// How long to wait after the refusal of attempt 1, 2, ...: the server's hint
// (zero, if it gave none), and on top of it a part of a time that doubles from
// 100 ms to 5 s. `jitter`, in [0, 1), is that part: drawn at random, it keeps
// callers apart that were refused at the same time.
absl::Duration RetryWait(int attempt, absl::Duration hint, double jitter);

// The parts of an error in one line, without a full stop: what happened, the
// reason in capitals, what became of the session, when to try again.
std::string DescribeError(const CallError& error);

}  // namespace ttt
