#include "server/rpc/status.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "server/base/error.h"

namespace ttt {
namespace {

constexpr absl::string_view kFieldUrl = "tttd/field";
constexpr char kDomain[] = "tttd";
// Clients accept 8 KiB of trailers in all.
constexpr size_t kMaxMessageBytes = 1024;
constexpr absl::Duration kDefaultRetryDelay = absl::Seconds(1);

absl::StatusCode OutwardCode(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnknown
             ? absl::StatusCode::kInternal
             : status.code();
}

// The message as UTF-8 that was cut between characters.
std::string OutwardMessage(const absl::Status& status) {
  absl::string_view message = status.message();
  if (message.size() <= kMaxMessageBytes) return std::string(message);
  size_t end = kMaxMessageBytes;
  while (end > 0 && (message[end] & 0xC0) == 0x80) --end;
  return absl::StrCat(message.substr(0, end), "...");
}

google::rpc::ErrorInfo MakeErrorInfo(const absl::Status& status,
                                     const ErrorMetadata& metadata) {
  google::rpc::ErrorInfo info;
  const std::string reason = ErrorReason(status);
  info.set_reason(reason.empty() ? CodeName(status) : reason);
  info.set_domain(kDomain);
  auto& values = *info.mutable_metadata();
  if (!metadata.turn_id.empty()) values["turn_id"] = metadata.turn_id;
  if (metadata.revision.has_value()) {
    values["revision"] = absl::StrCat(*metadata.revision);
  }
  if (metadata.committed.has_value()) {
    values["committed"] = *metadata.committed ? "true" : "false";
  }
  return info;
}

google::rpc::RetryInfo MakeRetryInfo(absl::Duration delay) {
  google::rpc::RetryInfo info;
  absl::Duration rest;
  info.mutable_retry_delay()->set_seconds(
      absl::IDivDuration(delay, absl::Seconds(1), &rest));
  info.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return info;
}

absl::Status FieldError(absl::StatusCode code, absl::string_view reason,
                        absl::string_view field, absl::string_view problem) {
  absl::Status status = Error(code, reason, absl::StrCat(field, ": ", problem));
  status.SetPayload(kFieldUrl, absl::Cord(field));
  return status;
}

}  // namespace

absl::Status InvalidField(absl::string_view field, absl::string_view problem) {
  return FieldError(absl::StatusCode::kInvalidArgument, "INVALID_FIELD", field,
                    problem);
}

absl::Status UnimplementedField(absl::string_view field,
                                absl::string_view problem) {
  return FieldError(absl::StatusCode::kUnimplemented, "NOT_IMPLEMENTED", field,
                    problem);
}

absl::Status UnimplementedMethod(absl::string_view method) {
  return Error(absl::StatusCode::kUnimplemented, "NOT_IMPLEMENTED",
               absl::StrCat(method, " is not in this version"));
}

std::string CodeName(const absl::Status& status) {
  return absl::StatusCodeToString(OutwardCode(status));
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  if (const auto hint = RetryAfter(status); hint.has_value()) return hint;
  if (ErrorReason(status) == "ANSWER_TOO_LARGE") return std::nullopt;
  if (status.code() == absl::StatusCode::kResourceExhausted ||
      status.code() == absl::StatusCode::kUnavailable) {
    return kDefaultRetryDelay;
  }
  return std::nullopt;
}

grpc::Status ToGrpcStatus(const absl::Status& status,
                          const ErrorMetadata& metadata) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(OutwardCode(status));
  const std::string message = OutwardMessage(status);
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(code));
  details.set_message(message);
  details.add_details()->PackFrom(MakeErrorInfo(status, metadata));
  if (const auto delay = RetryDelay(status); delay.has_value()) {
    details.add_details()->PackFrom(MakeRetryInfo(*delay));
  }
  if (const auto field = status.GetPayload(kFieldUrl); field.has_value()) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(std::string(*field));
    // The field is said already.
    absl::string_view description = message;
    absl::ConsumePrefix(&description, absl::StrCat(std::string(*field), ": "));
    violation->set_description(std::string(description));
    details.add_details()->PackFrom(bad_request);
  }
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace ttt
