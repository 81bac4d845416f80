#include "tests/fuzz/request_checks.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "server/base/error.h"
#include "server/model/utf8.h"
#include "server/rpc/status.h"
#include "tests/fuzz/golden_tokenizers.h"

namespace ttt {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// The detail of this type; false if there is none.
template <typename Detail>
bool FindDetail(const google::rpc::Status& details, Detail* found) {
  for (const auto& any : details.details()) {
    if (any.UnpackTo(found)) return true;
  }
  return false;
}

// Whether `path`, such as "stop.strings[3]", is a field of the message.
bool HasField(const Descriptor* message, absl::string_view path) {
  for (const absl::string_view part : absl::StrSplit(path, '.')) {
    if (message == nullptr) return false;
    const FieldDescriptor* const field =
        message->FindFieldByName(std::string(part.substr(0, part.find('['))));
    if (field == nullptr) return false;
    if (absl::StrContains(part, '[') && !field->is_repeated()) return false;
    message = field->message_type();
  }
  return true;
}

}  // namespace

void CheckRefusal(const absl::Status& status, const Descriptor* message) {
  TTT_CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) ||
            absl::IsFailedPrecondition(status));
  const grpc::Status outward = ToGrpcStatus(status);
  TTT_CHECK(static_cast<int>(outward.error_code()) == status.raw_code());
  const std::string text = outward.error_message();
  TTT_CHECK(!text.empty() && FindInvalidUtf8(text) == text.size());
  TTT_CHECK(text.find('\0') == std::string::npos);
  TTT_CHECK(outward.error_details().size() + text.size() < 8000);
  google::rpc::Status details;
  TTT_CHECK(details.ParseFromString(outward.error_details()));
  google::rpc::ErrorInfo info;
  TTT_CHECK(FindDetail(details, &info) && !info.reason().empty());
  TTT_CHECK(info.reason() == ErrorReason(status));
  google::rpc::BadRequest bad_request;
  if (!FindDetail(details, &bad_request)) return;
  TTT_CHECK(bad_request.field_violations_size() == 1);
  const auto& violation = bad_request.field_violations(0);
  TTT_CHECK(HasField(message, violation.field()));
  TTT_CHECK(absl::StartsWith(text, violation.field()));
}

bool IsPlainName(absl::string_view name) {
  if (name.empty() || name.size() > 128) return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains("._:-", c)) return false;
  }
  return true;
}

void CheckTtl(bool has_ttl, const google::protobuf::Duration& ttl,
              const Descriptor* message) {
  const auto duration = ValidateTtl(has_ttl, ttl);
  if (!duration.ok()) return CheckRefusal(duration.status(), message);
  TTT_CHECK(has_ttl || *duration == absl::InfiniteDuration());
  if (!has_ttl) return;
  TTT_CHECK(*duration > absl::ZeroDuration());
  TTT_CHECK(*duration <= absl::Hours(24 * 366000));
  TTT_CHECK(ttl.seconds() >= 0 && ttl.nanos() >= 0 && ttl.nanos() < 1000000000);
  TTT_CHECK(absl::ToInt64Seconds(*duration) == ttl.seconds());
}

void CheckSessionName(absl::string_view field, absl::string_view name,
                      const Descriptor* message) {
  const absl::Status status = ValidateSessionId(field, name);
  TTT_CHECK(status.ok() == IsPlainName(name));
  if (!status.ok()) CheckRefusal(status, message);
}

void CheckText(absl::string_view text, Request request,
               const Descriptor* message) {
  for (const int64_t session_tokens : {0, 5}) {
    if (text.empty()) break;
    Request read = request;
    absl::StatusOr<std::vector<int32_t>> ids =
        EncodeText(text, /*at_start=*/session_tokens == 0, GoldenBpe(),
                   FuzzLimits(true), [] { return absl::OkStatus(); });
    if (!ids.ok()) {
      CheckRefusal(ids.status(), message);
      continue;
    }
    read.input_ids = *std::move(ids);
    CheckIdsInRange(read.input_ids);
    TTT_CHECK(read.input_ids.size() <= kFuzzMaxInput);
    TTT_CHECK(!read.input_ids.empty());
    const absl::Status input = CheckInput(read, session_tokens);
    TTT_CHECK(input.ok() == (session_tokens > 0 || !read.input_ids.empty()));
    if (!input.ok()) CheckRefusal(input, message);
  }
}

}  // namespace ttt
