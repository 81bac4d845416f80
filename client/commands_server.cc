// info, health
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
                            "is there"}) {}

  void AddFlags(FlagSet* flags) override {
    flags->String("service", &service_, "NAME",
                  "such as ttt.v1.Inference (default: all)");
  }

  int Run(Context& context, const std::vector<std::string>&) override {
    const absl::StatusOr<bool> serving =
        context.client.IsServing(service_, context.call_options());
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
  std::string service_;
};

}  // namespace

std::vector<std::unique_ptr<Command>> MakeServerCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<InfoCommand>());
  commands.push_back(std::make_unique<HealthCommand>());
  return commands;
}

}  // namespace ttt
