// tokenize, detokenize
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"

namespace ttt {
namespace {

class TokenizeCommand : public Command {
 public:
  TokenizeCommand()
      : Command({.name = "tokenize",
                 .arguments = "TEXT|-",
                 .summary = "the token ids of a text",
                 .details =
                     "Prints them as --token-ids and detokenize take them.\n"
                     "'-' reads the text from standard input, less one newline "
                     "at its end.",
                 .min_arguments = 1,
                 .max_arguments = 1}) {}

  void AddFlags(FlagSet* flags) override {
    flags->Switch("at-start", &at_start_,
                  "as at the start of a session, with begin-of-text\n"
                  "(default; --no-at-start: as in the middle)");
    flags->Switch("pieces", &pieces_, "one id a line, with its piece");
  }

  int Run(Context& context, const std::vector<std::string>& args) override {
    absl::StatusOr<std::string> text = ReadText(context, args[0]);
    if (!text.ok()) return Fail(context, text.status());
    v1::TokenizeRequest request;
    request.set_text(*std::move(text));
    request.set_at_start(at_start_);
    const absl::StatusOr<v1::TokenizeResponse> response =
        context.client.Tokenize(request, context.call_options());
    if (!response.ok()) return Fail(context, response.status());
    if (context.flags.json) {
      PrintJson(context.console, {{"token_ids", response->ids()},
                                  {"pieces", response->pieces()}});
    } else if (pieces_) {
      for (int i = 0; i < response->ids_size(); ++i) {
        context.console.Print(
            absl::StrCat(response->ids(i), "\t",
                         i < response->pieces_size()
                             ? absl::Utf8SafeCEscape(response->pieces(i))
                             : "",
                         "\n"));
      }
    } else {
      context.console.Print(
          absl::StrCat(absl::StrJoin(response->ids(), ","), "\n"));
    }
    return kExitOk;
  }

 private:
  bool at_start_ = true;
  bool pieces_ = false;
};

class DetokenizeCommand : public Command {
 public:
  DetokenizeCommand()
      : Command({.name = "detokenize",
                 .arguments = "IDS|-",
                 .summary = "the text of token ids",
                 .details = "IDS are 1,2,3 or 1 2 3; '-' reads them from "
                            "standard input.",
                 .min_arguments = 1,
                 .max_arguments = 1 << 20}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    const absl::StatusOr<std::string> text =
        args == std::vector<std::string>{"-"}
            ? ReadText(context, "-")
            : absl::StatusOr<std::string>(absl::StrJoin(args, " "));
    if (!text.ok()) return Fail(context, text.status());
    const absl::StatusOr<std::vector<int32_t>> ids = ParseIds(*text);
    if (!ids.ok()) return Fail(context, UsageError(ids.status().message()));
    v1::DetokenizeRequest request;
    request.mutable_ids()->Assign(ids->begin(), ids->end());
    const absl::StatusOr<v1::DetokenizeResponse> response =
        context.client.Detokenize(request, context.call_options());
    if (!response.ok()) return Fail(context, response.status());
    if (context.flags.json) {
      PrintJson(context.console, {{"text", response->text()}});
      return kExitOk;
    }
    context.console.Print(response->text());
    if (!absl::EndsWith(response->text(), "\n")) context.console.Print("\n");
    return kExitOk;
  }
};

}  // namespace

std::vector<std::unique_ptr<Command>> MakeTokenizerCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<TokenizeCommand>());
  commands.push_back(std::make_unique<DetokenizeCommand>());
  return commands;
}

}  // namespace ttt
