// info, health
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"
#include "client/text.h"

namespace ttt {
namespace {

std::string InfoText(const v1::ServerInfo& info) {
  const auto& model = info.model();
  const auto& limits = info.limits();
  const auto& load = info.load();
  const absl::Duration uptime = absl::Seconds(info.uptime().seconds()) +
                                absl::Nanoseconds(info.uptime().nanos());
  return absl::StrCat(
      "server    tttd ", info.version(), ", ", info.state(), ", up for ",
      HumanDuration(uptime), "\n", "device    ", info.device(), ", ",
      info.precision(), "\n", "model     ", model.name(), ": TTT-",
      model.ttt_layer_type(), ", ", HumanCount(model.parameters()),
      " parameters, ", model.num_layers(), " layers x ", model.num_heads(),
      " heads x ", model.head_dim(), "\n", "tokens    ",
      HumanCount(model.vocab_size()), " in the vocabulary, ",
      model.has_tokenizer() ? "with a tokenizer" : "no tokenizer: ids only",
      "\n", "sessions  ", HumanCount(load.sessions()), "; ",
      HumanCount(load.state_slots_used()), " of ",
      HumanCount(limits.state_slots()), " state slots used, ",
      HumanBytes(limits.state_bytes_per_session()), " each\n", "load      ",
      load.running_turns(), " turns running, ", load.queued_turns(), " of ",
      limits.max_queue(), " queued\n", "limits    ",
      HumanCount(limits.max_input_tokens()), " tokens a call; a step of ",
      limits.max_batch_rows(), " rows and ",
      HumanCount(limits.max_batch_tokens()), " tokens; ",
      limits.max_top_logprobs(), " candidates\n");
}

class InfoCommand : public Command {
 public:
  InfoCommand()
      : Command({.name = "info",
                 .summary = "what the server is, serves and allows"}) {}

  int Run(Context& context, const std::vector<std::string>&) override {
    const absl::StatusOr<v1::ServerInfo> info =
        context.client.GetServerInfo(context.call_options());
    if (!info.ok()) return Fail(context, info.status());
    if (context.flags.json) {
      PrintJson(context.console, ServerInfoToJson(*info));
      return kExitOk;
    }
    context.console.Print(InfoText(*info));
    if (context.flags.verbose) {
      context.console.Print(absl::StrCat(
          "model     fingerprint ", info->model_fingerprint(),
          "\nnumerics  fingerprint ", info->numerics_fingerprint(), "\n"));
    }
    return kExitOk;
  }
};

class HealthCommand : public Command {
 public:
  HealthCommand()
      : Command({.name = "health",
                 .summary = "exit 0 if the server serves, 1 if not, 69 if none "
                            "is there",
                 .details = "With --wait these are its answers once the time "
                            "is up; 0 comes at once."}) {}

  void AddFlags(FlagSet* flags) override {
    flags->String("service", &service_, "NAME",
                  "such as ttt.v1.Inference (default: all)");
    flags->Duration("wait", &wait_, "TIME",
                    "wait until the server serves, for at most TIME");
  }

  int Run(Context& context, const std::vector<std::string>&) override {
    const absl::StatusOr<bool> serving =
        wait_ > absl::ZeroDuration()
            ? AwaitServing(context)
            : context.client.IsServing(service_, context.call_options());
    if (!serving.ok()) return Fail(context, serving.status());
    if (context.flags.json) {
      PrintJson(context.console,
                {{"service", service_}, {"serving", *serving}});
    } else {
      context.console.Print(*serving ? "serving\n" : "not serving\n");
    }
    return *serving ? kExitOk : kExitFailed;
  }

 private:
  // The last answer, or that there was none.
  absl::StatusOr<bool> AwaitServing(Context& context) {
    constexpr absl::Duration kInterval = absl::Milliseconds(50);
    const absl::Time end = absl::Now() + wait_;
    absl::StatusOr<bool> last = NoServerError(
        absl::StrCat("no answer from the server at ", context.flags.server,
                     " within ", HumanDuration(wait_)));
    while (true) {
      // A client that has failed to connect waits ever longer to try again.
      Client client({.server = context.flags.server});
      CallOptions options = context.call_options();
      options.timeout = std::min(options.timeout, end - absl::Now());
      const absl::StatusOr<bool> serving = client.IsServing(service_, options);
      const bool is_late = absl::IsDeadlineExceeded(serving.status());
      const bool is_final =
          serving.ok() ? *serving
                       : !is_late && !absl::IsUnavailable(serving.status());
      if (is_final || context.canceller.cancelled()) return serving;
      if (!is_late) last = serving;
      if (absl::Now() + kInterval >= end) return last;
      absl::SleepFor(kInterval);
    }
  }

  std::string service_;
  absl::Duration wait_;  // zero: for nothing
};

}  // namespace

std::vector<std::unique_ptr<Command>> MakeServerCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<InfoCommand>());
  commands.push_back(std::make_unique<HealthCommand>());
  return commands;
}

}  // namespace ttt
