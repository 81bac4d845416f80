// What the client makes of a server's answers: whatever they hold, a line on a
// terminal steers nothing, and JSON can be written.
#include <grpcpp/support/status.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "client/call_error.h"
#include "client/json.h"
#include "client/text.h"
#include "server/base/check.h"
#include "tests/fuzz/fuzz_cases.pb.h"
#include "tests/fuzz/fuzz_targets.h"

namespace ttt {
namespace {

void CheckJson(const Json& json) {
  const std::string text =
      json.dump(-1, ' ', false, Json::error_handler_t::replace);
  TTT_CHECK(!absl::StrContains(text, '\n'));
  TTT_CHECK(Json::accept(text));
}

void CheckTerminal(absl::string_view text) {
  const std::string safe = ForTerminal(text);
  for (const char c : safe) {
    const uint8_t byte = static_cast<uint8_t>(c);
    TTT_CHECK((byte >= 0x20 && byte != 0x7f) || c == '\n' || c == '\t');
  }
  // A control character of two bytes begins so.
  for (size_t i = 0; i + 1 < safe.size(); ++i) {
    const bool is_control = safe[i] == '\xc2' &&
                            static_cast<uint8_t>(safe[i + 1]) >= 0x80 &&
                            static_cast<uint8_t>(safe[i + 1]) < 0xa0;
    // Bytes that are no UTF-8 are the terminal's affair.
    TTT_CHECK(!is_control || InvalidUtf8Position(text).has_value());
  }
  TTT_CHECK(ForTerminal(safe) == safe || InvalidUtf8Position(text).has_value());
}

void CheckError(const fuzz::ReplyCase& reply) {
  const int code = 1 + (reply.code() & 0xf);
  const std::string details = reply.has_details()
                                  ? reply.details().SerializeAsString()
                                  : reply.raw_details();
  const absl::Status status = FromGrpcStatus(grpc::Status(
      static_cast<grpc::StatusCode>(code), reply.message(), details));
  TTT_CHECK(status.raw_code() == code);
  const CallError error = DecodeError(status);
  const std::string line = DescribeError(error);
  TTT_CHECK(!line.empty());
  CheckTerminal(line);
  CheckJson(ErrorToJson(error, line, 1));
  TTT_CHECK(DecodeError(WithHint(status, " hint")).reason == error.reason);
}

}  // namespace

void FuzzClientReply(absl::string_view bytes) {
  fuzz::ReplyCase reply;
  if (!reply.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return;
  }
  if (reply.has_details() || !reply.raw_details().empty()) CheckError(reply);
  if (reply.has_session()) CheckJson(SessionToJson(reply.session()));
  if (reply.has_info()) CheckJson(ServerInfoToJson(reply.info()));
  if (reply.has_position()) CheckJson(PositionToJson(reply.position()));
  CheckTerminal(reply.text());
}

}  // namespace ttt
