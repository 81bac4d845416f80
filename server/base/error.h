// Errors with a reason that programs can read.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ttt {

// A status with a reason in capitals, such as SESSION_BUSY, which becomes
// google.rpc.ErrorInfo.reason.
absl::Status Error(absl::StatusCode code, absl::string_view reason,
                   absl::string_view message);

// Such a status with a hint when to try again, in whole milliseconds, rounded
// up.
absl::Status RetryableError(absl::StatusCode code, absl::string_view reason,
                            absl::string_view message,
                            absl::Duration retry_after);

// `status` with that reason.
absl::Status WithReason(absl::string_view reason, const absl::Status& status);

// A value from outside as it may stand in a message: in quotes, not printable
// bytes escaped, at most 128 bytes of it.
std::string QuoteValue(absl::string_view value);

// Empty if the status has none.
std::string ErrorReason(const absl::Status& status);
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

}  // namespace ttt
