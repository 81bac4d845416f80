#include "server/base/error.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ttt {
namespace {

constexpr absl::string_view kReasonUrl = "tttd/reason";
constexpr absl::string_view kRetryUrl = "tttd/retry-after-ms";
constexpr size_t kMostQuoted = 128;

}  // namespace

absl::Status Error(absl::StatusCode code, absl::string_view reason,
                   absl::string_view message) {
  absl::Status status(code, message);
  status.SetPayload(kReasonUrl, absl::Cord(reason));
  return status;
}

absl::Status RetryableError(absl::StatusCode code, absl::string_view reason,
                            absl::string_view message,
                            absl::Duration retry_after) {
  absl::Status status = Error(code, reason, message);
  const int64_t milliseconds =
      absl::ToInt64Milliseconds(absl::Ceil(retry_after, absl::Milliseconds(1)));
  status.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(milliseconds)));
  return status;
}

absl::Status WithReason(absl::string_view reason, const absl::Status& status) {
  return Error(status.code(), reason, status.message());
}

std::string QuoteValue(absl::string_view value) {
  std::string text = absl::CEscape(value.substr(0, kMostQuoted));
  if (value.size() <= kMostQuoted && text.size() <= kMostQuoted) {
    return absl::StrCat("\"", text, "\"");
  }
  text.resize(std::min(text.size(), kMostQuoted));
  return absl::StrCat("\"", text, "\"...");
}

std::string ErrorReason(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  return payload.has_value() ? std::string(*payload) : std::string();
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  int64_t milliseconds = 0;
  if (!payload.has_value() ||
      !absl::SimpleAtoi(std::string(*payload), &milliseconds)) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

}  // namespace ttt
