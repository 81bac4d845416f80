// Finds, parses and runs one command.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/commands.h"
#include "client/server_address.h"
#include "client/text.h"

namespace ttt {
namespace {

using Commands = std::vector<std::unique_ptr<Command>>;

void Append(Commands more, Commands* commands) {
  for (std::unique_ptr<Command>& command : more) {
    commands->push_back(std::move(command));
  }
}

Commands MakeCommands() {
  Commands commands;
  commands.push_back(MakeCompleteCommand());
  commands.push_back(MakeChatCommand());
  commands.push_back(MakeScoreCommand());
  Append(MakeSessionCommands(), &commands);
  Append(MakeTransferCommands(), &commands);
  Append(MakeTokenizerCommands(), &commands);
  Append(MakeServerCommands(), &commands);
  commands.push_back(MakeBenchCommand());
  return commands;
}

void AddCommonFlags(CommonFlags* common, FlagSet* flags) {
  flags->String("server", &common->server, "ADDR",
                "HOST:PORT of the daemon, or unix:PATH (default "
                "127.0.0.1:50051)");
  flags->Switch("json", &common->json,
                "one JSON object on standard output instead of text");
  flags->Duration("timeout", &common->timeout, "TIME",
                  "give up a call after TIME: 30, 200ms, 10m");
  flags->Switch("verbose", &common->verbose, "say more on standard error");
  flags->Switch("help", &common->help, "explain the command");
}

std::string ProgramHelp(const Commands& commands) {
  std::string text =
      "usage: ttt [--server ADDR] [--json] COMMAND [ARGUMENTS] [--flags]\n\n"
      "The client of tttd, which serves Test-Time Training models.\n\n";
  for (const std::unique_ptr<Command>& command : commands) {
    std::string name = command->description().name;
    name.resize(std::max<size_t>(name.size(), 18), ' ');
    absl::StrAppend(&text, "  ", name, " ", command->description().summary,
                    "\n");
  }
  CommonFlags common;
  FlagSet flags;
  AddCommonFlags(&common, &flags);
  absl::StrAppend(
      &text, "\nFlags of every command:\n", flags.Help(),
      "\n'ttt COMMAND --help' or 'ttt help COMMAND' tells the rest, 'ttt "
      "--version' the\nversion.\n\n"
      "Exit codes: 0 done; 1 the call failed, or health: not serving;\n"
      "64 wrong usage; 65 unreadable data; 69 no server, or one that is "
      "starting or\ndraining: try again later; 130 ended by Ctrl-C.\n");
  return text;
}

std::string CommandHelp(Command& command) {
  const Command::Description& description = command.description();
  FlagSet own, every;
  CommonFlags common;
  command.AddFlags(&own);
  AddCommonFlags(&common, &every);
  std::string text = absl::StrCat(
      "usage: ttt ", description.name, description.arguments.empty() ? "" : " ",
      description.arguments, " [--flags]\n\n", description.summary, "\n");
  if (!description.details.empty()) {
    absl::StrAppend(&text, "\n", description.details, "\n");
  }
  const std::string flags = own.Help();
  if (!flags.empty()) absl::StrAppend(&text, "\nFlags:\n", flags);
  absl::StrAppend(&text, "\nFlags of every command:\n", every.Help());
  return text;
}

// The commands below a word, such as those of `sessions`.
std::string GroupHelp(const Commands& commands, const std::string& group) {
  std::string text;
  for (const std::unique_ptr<Command>& command : commands) {
    const Command::Description& description = command->description();
    if (!absl::StartsWith(description.name, group + " ")) continue;
    absl::StrAppend(&text, "  ttt ", description.name, " ",
                    description.arguments, "\n      ", description.summary,
                    "\n");
  }
  return text;
}

// Takes the command's words out of `words`; null and untouched if none fits.
Command* FindCommand(const Commands& commands,
                     std::vector<std::string>* words) {
  for (size_t count = std::min<size_t>(2, words->size()); count > 0; --count) {
    const std::string name =
        count == 2 ? absl::StrCat((*words)[0], " ", (*words)[1]) : (*words)[0];
    for (const std::unique_ptr<Command>& command : commands) {
      if (command->description().name != name) continue;
      words->erase(words->begin(), words->begin() + count);
      return command.get();
    }
  }
  return nullptr;
}

int Help(Console& console, const Commands& commands,
         std::vector<std::string> words) {
  if (words.empty()) {
    console.Print(ProgramHelp(commands));
    return kExitOk;
  }
  const std::string name = words[0];
  if (Command* command = FindCommand(commands, &words)) {
    console.Print(CommandHelp(*command));
    return kExitOk;
  }
  const std::string group = GroupHelp(commands, name);
  if (group.empty()) {
    return FailUsage(
        console, absl::StrCat("unknown command '", name, "'; see 'ttt help'"));
  }
  console.Print(group);
  return kExitOk;
}

int UnknownCommand(Console& console, const Commands& commands,
                   const std::vector<std::string>& words) {
  std::vector<absl::string_view> below;
  for (const std::unique_ptr<Command>& command : commands) {
    absl::string_view name = command->description().name;
    if (absl::ConsumePrefix(&name, words[0] + " ")) below.push_back(name);
  }
  if (below.empty()) {
    return FailUsage(console, absl::StrCat("unknown command '", words[0],
                                           "'; see 'ttt help'"));
  }
  return FailUsage(
      console, absl::StrCat(words.size() == 1
                                ? absl::StrCat("'", words[0], "' needs")
                                : absl::StrCat("unknown command '", words[0],
                                               " ", words[1], "', not"),
                            " one of ", absl::StrJoin(below, ", "),
                            "; see 'ttt help ", words[0], "'"));
}

// What is wrong with the number of arguments, if anything.
std::string CheckCount(const Command::Description& description,
                       const std::vector<std::string>& args) {
  if (args.size() < description.min_arguments) {
    return absl::StrCat("'", description.name, "' needs ",
                        description.arguments);
  }
  if (args.size() > description.max_arguments) {
    return absl::StrCat(
        "'", description.name, "' does not take '",
        args[description.max_arguments],
        description.max_arguments > 0 ? "'; quote a text" : "'");
  }
  return "";
}

int RunCommand(Console& console, Command& command,
               const std::vector<std::string>& args,
               const CommonFlags& common) {
  Client client({.server = common.server});
  Canceller canceller;
  Context context{console, client, canceller, common};
  if (command.description().handles_interrupt) {
    return command.Run(context, args);
  }
  const InterruptWatch watch(console.terminal().interrupt,
                             [&canceller] { canceller.Cancel(); });
  return command.Run(context, args);
}

// A reader that has gone is no failure to tell of.
int CheckOutput(Console& console, int exit_code) {
  if (console.output_errno() == 0) return exit_code;
  if (console.output_errno() == EPIPE) return kExitOutputClosed;
  console.Note(absl::StrCat("ttt: cannot write to standard output: ",
                            std::strerror(console.output_errno())));
  return kExitFailed;
}

// The flags that stand before the command: `--server ADDR`, `--json`.
size_t CommandPosition(const std::vector<std::string>& args) {
  const auto takes_value = [](const std::string& arg) {
    return arg == "--server" || arg == "--timeout";
  };
  size_t i = 0;
  while (i < args.size() && absl::StartsWith(args[i], "-")) {
    i += takes_value(args[i]) ? 2 : 1;
  }
  return std::min(i, args.size());
}

}  // namespace

int RunTtt(const Terminal& terminal, const std::vector<std::string>& args) {
  Console console(terminal);
  const Commands commands = MakeCommands();
  for (const std::string& arg : args) {
    if (InvalidUtf8Position(arg).has_value()) {
      return FailUsage(console, absl::StrCat("an argument is not UTF-8: '",
                                             ForTerminal(arg), "'"));
    }
  }
  if (args == std::vector<std::string>{"version"} ||
      args == std::vector<std::string>{"--version"}) {
    console.Print("ttt " TTT_VERSION "\n");
    return CheckOutput(console, kExitOk);
  }
  const size_t position = CommandPosition(args);
  std::vector<std::string> words(args.begin() + position, args.end());
  std::vector<std::string> early(args.begin(), args.begin() + position);
  CommonFlags common;
  FlagSet common_flags;
  AddCommonFlags(&common, &common_flags);
  if (const auto parsed = common_flags.Parse(early); !parsed.ok()) {
    return FailUsage(console, parsed.status().message());
  }
  if (common.help || (!words.empty() && words[0] == "help")) {
    if (!words.empty() && words[0] == "help") words.erase(words.begin());
    return CheckOutput(console, Help(console, commands, words));
  }
  if (words.empty()) {
    return FailUsage(console, "no command; see 'ttt help'");
  }
  Command* const command = FindCommand(commands, &words);
  if (command == nullptr) {
    // Of the commands below a word: `ttt sessions --help`.
    const bool wants_help = absl::c_linear_search(words, "--help");
    return wants_help
               ? CheckOutput(console, Help(console, commands, {words[0]}))
               : UnknownCommand(console, commands, words);
  }

  FlagSet flags;
  command->AddFlags(&flags);
  AddCommonFlags(&common, &flags);
  const std::string& name = command->description().name;
  const absl::StatusOr<std::vector<std::string>> positional =
      flags.Parse(words);
  if (!positional.ok()) {
    return FailUsage(console, absl::StrCat(positional.status().message(),
                                           "; see 'ttt help ", name, "'"));
  }
  if (common.help) {
    console.Print(CommandHelp(*command));
    return CheckOutput(console, kExitOk);
  }
  const absl::Status address = CheckServerAddress(common.server);
  if (!address.ok()) {
    return FailUsage(console, absl::StrCat("--server: ", address.message()));
  }
  const std::string problem = CheckCount(command->description(), *positional);
  if (!problem.empty()) {
    return FailUsage(console,
                     absl::StrCat(problem, "; see 'ttt help ", name, "'"));
  }
  return CheckOutput(console,
                     RunCommand(console, *command, *positional, common));
}

}  // namespace ttt
