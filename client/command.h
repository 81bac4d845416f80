// What all commands of ttt have in common.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/args.h"
#include "client/client.h"
#include "client/console.h"

namespace ttt {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 64;
constexpr int kExitData = 65;
constexpr int kExitUnavailable = 69;
constexpr int kExitInterrupted = 130;
constexpr int kExitOutputClosed = 141;  // as a shell reports SIGPIPE

// Flags of every command.
struct CommonFlags {
  std::string server = "127.0.0.1:50051";
  bool json = false;
  bool verbose = false;
  bool help = false;
  absl::Duration timeout = absl::InfiniteDuration();  // of each call
};

// What a command works with. `canceller` ends its calls on Ctrl-C.
struct Context {
  Console& console;
  Client& client;
  Canceller& canceller;
  const CommonFlags& flags;

  CallOptions call_options() const { return {flags.timeout, &canceller}; }
};

// One command of the program; used once. Run gives the exit code.
class Command {
 public:
  struct Description {
    std::string name;       // `complete`, `sessions get`
    std::string arguments;  // `[PROMPT|-]`
    std::string summary;    // one line
    std::string details;    // lines, for the command's help
    size_t min_arguments = 0;
    size_t max_arguments = 0;
    // The command sees to Ctrl-C itself; otherwise that cancels its calls.
    bool handles_interrupt = false;
  };

  explicit Command(Description description)
      : description_(std::move(description)) {}
  virtual ~Command() = default;

  const Description& description() const { return description_; }
  virtual void AddFlags(FlagSet*) {}
  virtual int Run(Context& context, const std::vector<std::string>& args) = 0;

 private:
  const Description description_;
};

// Errors of the user, of files, of waiting for a server: not those of a call.
absl::Status UsageError(absl::string_view message);
absl::Status DataError(absl::string_view message);
absl::Status NoServerError(absl::string_view message);

// Reports a failure, on standard error and with --json as an object on standard
// output, and gives the exit code.
int Fail(Context& context, const absl::Status& status);
// The same for what happens before there is a context.
int FailUsage(Console& console, absl::string_view message);

// The text of an argument: itself, or all of standard input for `-`, without
// one newline at its end. Refuses what is not UTF-8.
absl::StatusOr<std::string> ReadText(Context& context,
                                     const std::string& argument);
// The bytes of a file, or of standard input for `-`.
absl::StatusOr<std::string> ReadFile(Context& context, const std::string& path);
absl::Status CheckUtf8(absl::string_view text, absl::string_view what);

}  // namespace ttt
