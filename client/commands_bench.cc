// bench
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/load.h"
#include "client/bench/options.h"
#include "client/bench/report.h"
#include "client/bench/workload.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"
#include "client/text.h"

namespace ttt {
namespace {

// Of the calls before the load; --timeout is for those of the load.
constexpr absl::Duration kSetupTimeout = absl::Seconds(10);
// What is tokenized to learn how long a token is.
constexpr size_t kProbeBytes = 64 << 10;

class BenchCommand : public Command {
 public:
  BenchCommand()
      : Command({.name = "bench",
                 .summary = "put load on the server and measure it",
                 .details = bench::kJsonHelp}) {}

  void AddFlags(FlagSet* flags) override { flags_.AddTo(flags); }

  int Run(Context& context, const std::vector<std::string>&) override {
    const absl::StatusOr<bench::Options> options =
        flags_.Check(context.flags.server, context.flags.timeout);
    if (!options.ok()) return Fail(context, options.status());
    std::string text;
    absl::Status status = ReadTextFile(context, *options, &text);
    if (!status.ok()) return Fail(context, status);
    const CallOptions setup = {kSetupTimeout, &context.canceller};
    const absl::StatusOr<v1::ServerInfo> info =
        context.client.GetServerInfo(setup);
    if (!info.ok()) return Fail(context, info.status());
    status = bench::CheckAgainst(*info, *options);
    if (!status.ok()) return Fail(context, status);
    double bytes_per_token = 0;
    if (!text.empty()) {
      status = MeasureTokens(context, setup, text, &bytes_per_token);
      if (!status.ok()) return Fail(context, status);
    }
    const bench::Workload workload(*options, info->model(), std::move(text),
                                   bytes_per_token);
    return Report(context, *options, *info,
                  RunLoad(*options, workload, MakeHooks(context)));
  }

 private:
  static absl::Status ReadTextFile(Context& context,
                                   const bench::Options& options,
                                   std::string* text) {
    if (options.text_file.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> bytes = ReadFile(context, options.text_file);
    if (!bytes.ok()) return bytes.status();
    if (bytes->empty()) {
      return DataError(absl::StrCat(options.text_file, " is empty"));
    }
    *text = *std::move(bytes);
    return CheckUtf8(*text, options.text_file);
  }

  static absl::Status MeasureTokens(Context& context, const CallOptions& setup,
                                    const std::string& text,
                                    double* bytes_per_token) {
    size_t size = std::min(text.size(), kProbeBytes);
    while (size < text.size() && (text[size] & 0xC0) == 0x80) ++size;
    v1::TokenizeRequest request;
    request.set_text(text.substr(0, size));
    const absl::StatusOr<v1::TokenizeResponse> response =
        context.client.Tokenize(request, setup);
    if (!response.ok()) return response.status();
    *bytes_per_token = static_cast<double>(size) /
                       static_cast<double>(std::max(1, response->ids_size()));
    return absl::OkStatus();
  }

  bench::LoadHooks MakeHooks(Context& context) const {
    return {
        .is_interrupted = [&context] { return context.canceller.cancelled(); },
        .on_progress =
            [this, &context](const bench::Progress& progress) {
              PrintProgress(context, progress);
            }};
  }

  void PrintProgress(Context& context, const bench::Progress& progress) const {
    const std::string facts =
        absl::StrCat(progress.phase, ", ", progress.running, " sessions, ",
                     HumanCount(progress.ended), " requests ended, ",
                     HumanCount(progress.refused), " refused, ",
                     HumanRate(progress.tokens_per_second), " tokens/s");
    if (context.console.terminal().err_is_terminal) {
      context.console.Progress(progress.fraction, facts);
    } else if (flags_.progress()) {
      context.console.Note(
          absl::StrFormat("%5.1f s  %s", progress.seconds, facts));
    }
  }

  static int Report(Context& context, const bench::Options& options,
                    const v1::ServerInfo& info, const bench::Results& results) {
    context.console.ClearProgress();
    if (context.flags.json) {
      PrintJson(context.console, bench::ReportToJson(options, info, results));
    } else {
      context.console.Print(bench::ReportText(options, info, results));
    }
    if (results.interrupted) return kExitInterrupted;
    const bool nothing_worked = results.sent() > 0 &&
                                results.count(bench::Outcome::kOk) == 0 &&
                                results.count(bench::Outcome::kFailed) > 0;
    return nothing_worked ? kExitFailed : kExitOk;
  }

  bench::Flags flags_;
};

}  // namespace

std::unique_ptr<Command> MakeBenchCommand() {
  return std::make_unique<BenchCommand>();
}

}  // namespace ttt
