#include "client/command.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/call_error.h"
#include "client/json.h"
#include "client/text.h"

namespace ttt {
namespace {

// Marks errors of our own; the payload is the exit code.
constexpr char kExitCodeUrl[] = "ttt/exit-code";

absl::Status LocalError(absl::StatusCode code, int exit_code,
                        absl::string_view message) {
  absl::Status status(code, message);
  status.SetPayload(kExitCodeUrl, absl::Cord(absl::StrCat(exit_code)));
  return status;
}

bool IsLocal(const absl::Status& status) {
  return status.GetPayload(kExitCodeUrl).has_value();
}

int ExitCode(const Context& context, const absl::Status& status) {
  if (context.canceller.cancelled()) return kExitInterrupted;
  if (const auto payload = status.GetPayload(kExitCodeUrl); payload) {
    return std::stoi(std::string(*payload));
  }
  return absl::IsUnavailable(status) ? kExitUnavailable : kExitFailed;
}

// gRPC's words for a connection that is not there hold addresses and retries;
// the cause stands last.
std::string ConnectionMessage(const std::string& server,
                              absl::string_view message) {
  const bool never_there = absl::StrContains(message, "onnect to") ||
                           absl::StrContains(message, "DNS") ||
                           absl::StrContains(message, "all backends");
  // What answered there is a server of HTTP 1, such as the daemon's own.
  const absl::string_view hint =
      absl::StrContains(message, "parsing HTTP/2") ||
              absl::StrContains(message, "http1.x")
          ? "; is this the HTTP port? gRPC is on 50051 by default"
          : "";
  const size_t colon = message.rfind(": ");
  if (never_there && colon != absl::string_view::npos) {
    message = message.substr(colon + 2);
  }
  return absl::StrCat(never_there ? "cannot reach the server at "
                                  : "lost the connection to the server at ",
                      server, ": ", message, hint);
}

std::string Describe(const Context& context, const absl::Status& status,
                     const CallError& error) {
  if (context.canceller.cancelled()) return "interrupted";
  if (IsLocal(status)) return error.message;
  if (!error.reason.empty()) return DescribeError(error);
  CallError clearer = error;
  if (error.code == absl::StatusCode::kUnavailable) {
    clearer.message = ConnectionMessage(context.flags.server, error.message);
  } else if (error.code == absl::StatusCode::kDeadlineExceeded) {
    clearer.message =
        absl::StrCat("not done within ", HumanDuration(context.flags.timeout));
  }
  return DescribeError(clearer);
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  return LocalError(absl::StatusCode::kInvalidArgument, kExitUsage, message);
}

absl::Status DataError(absl::string_view message) {
  return LocalError(absl::StatusCode::kInvalidArgument, kExitData, message);
}

absl::Status NoServerError(absl::string_view message) {
  return LocalError(absl::StatusCode::kUnavailable, kExitUnavailable, message);
}

int Fail(Context& context, const absl::Status& status) {
  const CallError error = DecodeError(status);
  const int exit_code = ExitCode(context, status);
  // The call was cancelled because nobody reads what it prints.
  if (context.console.output_errno() == EPIPE) return exit_code;
  const std::string line = Describe(context, status, error);
  context.console.Note(absl::StrCat("ttt: ", line));
  if (context.flags.json) {
    PrintJson(context.console, ErrorToJson(error, line, exit_code));
  }
  return exit_code;
}

int FailUsage(Console& console, absl::string_view message) {
  console.Note(absl::StrCat("ttt: ", message));
  return kExitUsage;
}

absl::Status CheckUtf8(absl::string_view text, absl::string_view what) {
  const std::optional<size_t> place = InvalidUtf8Position(text);
  if (!place.has_value()) return absl::OkStatus();
  return DataError(absl::StrCat(what, " is not UTF-8 at byte ", *place));
}

absl::StatusOr<std::string> ReadFile(Context& context,
                                     const std::string& path) {
  const bool is_input = path == "-";
  const std::string name = is_input ? "standard input" : path;
  const int fd = is_input ? context.console.terminal().in
                          : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return DataError(
        absl::StrCat("cannot read ", name, ": ", std::strerror(errno)));
  }
  if (is_input && context.console.terminal().in_is_terminal) {
    context.console.Facts("[reading standard input; Ctrl-D ends it]");
  }
  std::string bytes;
  const Console::Input input = context.console.ReadAll(fd, &bytes);
  const int read_errno = errno;
  if (!is_input) close(fd);
  switch (input) {
    case Console::Input::kInterrupted:
      context.canceller.Cancel();
      return absl::CancelledError("interrupted");
    case Console::Input::kFailed:
      return DataError(
          absl::StrCat("cannot read ", name, ": ", std::strerror(read_errno)));
    default:
      return bytes;
  }
}

absl::StatusOr<std::string> ReadText(Context& context,
                                     const std::string& argument) {
  if (argument != "-") return argument;
  absl::StatusOr<std::string> text = ReadFile(context, argument);
  if (!text.ok()) return text;
  if (absl::Status status = CheckUtf8(*text, "standard input"); !status.ok()) {
    return status;
  }
  return std::string(absl::StripSuffix(*text, "\n"));
}

}  // namespace ttt
