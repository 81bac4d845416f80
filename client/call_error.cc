#include "client/call_error.h"

#include <grpcpp/support/status.h>

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/text.h"
#include "google/rpc/error_details.pb.h"

namespace ttt {
namespace {

constexpr char kPayloadUrl[] = "type.googleapis.com/google.rpc.Status";

void AddDetail(const google::protobuf::Any& detail, CallError* error) {
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  google::rpc::BadRequest bad_request;
  if (detail.Is<google::rpc::ErrorInfo>() && detail.UnpackTo(&info)) {
    error->reason = info.reason();
    error->metadata = {info.metadata().begin(), info.metadata().end()};
  } else if (detail.Is<google::rpc::RetryInfo>() && detail.UnpackTo(&retry)) {
    error->retry_after = absl::Seconds(retry.retry_delay().seconds()) +
                         absl::Nanoseconds(retry.retry_delay().nanos());
  } else if (detail.Is<google::rpc::BadRequest>() &&
             detail.UnpackTo(&bad_request)) {
    for (const auto& violation : bad_request.field_violations()) {
      error->field_violations.emplace_back(violation.field(),
                                           violation.description());
    }
  }
}

// What became of the turn, as far as the server said and it is not plain.
std::string Outcome(const CallError& error) {
  const auto committed = error.metadata.find("committed");
  if (committed == error.metadata.end()) return "";
  if (committed->second == "true") return "; what was done is committed";
  if (committed->second == "unknown") {
    return "; whether the turn was committed is unknown";
  }
  const bool had_begun = error.code == absl::StatusCode::kInternal ||
                         error.code == absl::StatusCode::kCancelled ||
                         error.code == absl::StatusCode::kDeadlineExceeded ||
                         error.code == absl::StatusCode::kUnavailable ||
                         error.reason == "SLOW_CONSUMER";
  // There is none without a session, and of a call refused at the door.
  const auto revision = error.metadata.find("revision");
  if (!had_begun || revision == error.metadata.end()) return "";
  return absl::StrCat("; the session is as it was, at revision ",
                      revision->second);
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
  if (!status.error_details().empty()) {
    result.SetPayload(kPayloadUrl, absl::Cord(status.error_details()));
  }
  return result;
}

absl::Status WithHint(const absl::Status& status, absl::string_view hint) {
  absl::Status result(status.code(), absl::StrCat(status.message(), hint));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    result.SetPayload(url, payload);
  });
  return result;
}

CallError DecodeError(const absl::Status& status) {
  CallError error;
  error.code = status.code();
  error.message = std::string(status.message());
  google::rpc::Status details;
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (payload.has_value() && details.ParseFromString(std::string(*payload))) {
    for (const auto& detail : details.details()) AddDetail(detail, &error);
  }
  return error;
}

bool WasRefused(const CallError& error) {
  constexpr absl::string_view kRefusals[] = {
      "QUEUE_FULL",      "QUEUE_TIMEOUT",     "DEADLINE_INFEASIBLE",
      "STATE_POOL_FULL", "TOO_MANY_SESSIONS", "SESSION_BUSY",
      "STARTING",        "DRAINING"};
  return absl::c_linear_search(kRefusals, error.reason);
}

absl::Duration RetryWait(int attempt, absl::Duration hint, double jitter) {
  constexpr absl::Duration kFirst = absl::Milliseconds(100);
  constexpr absl::Duration kMost = absl::Seconds(5);
  // 100 ms doubled six times is past the most.
  const absl::Duration most =
      std::min(kFirst * (1 << std::clamp(attempt - 1, 0, 6)), kMost);
  return hint + most * jitter;
}

std::string DescribeError(const CallError& error) {
  const std::string code = absl::StatusCodeToString(error.code);
  std::string line = error.message.empty() ? "the call failed" : error.message;
  while (absl::EndsWith(line, ".")) line.pop_back();
  absl::StrAppend(&line, " (", error.reason.empty() ? code : error.reason, ")",
                  Outcome(error));
  if (error.retry_after.has_value()) {
    absl::StrAppend(&line, "; try again in ",
                    HumanDuration(*error.retry_after));
  }
  return line;
}

}  // namespace ttt
