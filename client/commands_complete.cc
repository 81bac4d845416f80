// complete
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/call_error.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/text.h"
#include "client/turn.h"

namespace ttt {
namespace {

constexpr absl::Duration kOutcomeTimeout = absl::Seconds(2);

class CompleteCommand : public Command {
 public:
  CompleteCommand()
      : Command({.name = "complete",
                 .arguments = "[PROMPT|-]",
                 .summary = "continue a text, alone or as a session's turn",
                 .details =
                     "Standard output has the text as it comes, then a line "
                     "a token with --logprobs;\n"
                     "with --json it has one object and nothing else. Standard "
                     "error has what went\n"
                     "wrong, and facts about the turn (tokens, rate, revision, "
                     "digest) if it is a\n"
                     "terminal or with --verbose.\n"
                     "'-' reads the prompt from standard input, less one "
                     "newline at its end.\n"
                     "Without a prompt a session goes on where it stands.",
                 .max_arguments = 1}) {}

  void AddFlags(FlagSet* flags) override {
    flags->Name("session", &session_, "NAME", "read and extend this session");
    flags->Switch("create", &create_, "make the session if it is not there");
    flags->Uint64("expected-revision", &expected_revision_, "N",
                  "fail unless the session is at revision N");
    flags->Ids("token-ids", &token_ids_, "IDS", "1,2,3 instead of a prompt");
    flags->Switch("stream", &stream_,
                  "print the text as it comes (default; --no-stream)");
    turn_.AddTo(flags);
  }

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::CompleteRequest request;
    if (absl::Status status = Fill(context, args, &request); !status.ok()) {
      return Fail(context, status);
    }
    const bool print_deltas = stream_ && !context.flags.json;
    const auto on_text = [&](const std::string& text) {
      if (print_deltas) PrintText(context, text);
    };
    const absl::StatusOr<TurnResult> result =
        stream_ ? StreamTurn(context.client, request, context.call_options(),
                             on_text, &base_revision_)
                : UnaryTurn(context.client, request, context.call_options());
    if (print_deltas || !result.ok()) EndLine(context);
    if (!result.ok()) return Failed(context, result.status());
    if (context.flags.json) {
      PrintJson(context.console, TurnToJson(*result));
      return kExitOk;
    }
    if (!print_deltas) {
      PrintText(context, result->response.text());
      EndLine(context);
    }
    PrintLogprobs(context, result->response);
    if (context.console.terminal().err_is_terminal || context.flags.verbose) {
      PrintFacts(context, *result);
    }
    return kExitOk;
  }

 private:
  absl::Status Fill(Context& context, const std::vector<std::string>& args,
                    v1::CompleteRequest* request) {
    if (!args.empty() && !token_ids_.empty()) {
      return UsageError("a PROMPT and --token-ids do not go together");
    }
    if (session_.empty() && (create_ || expected_revision_.has_value())) {
      return UsageError(absl::StrCat(
          create_ ? "--create" : "--expected-revision", " needs --session"));
    }
    if (args.empty() && token_ids_.empty() && session_.empty()) {
      return UsageError(
          "give a PROMPT, '-' to read it from standard input, --token-ids, or "
          "--session to go on");
    }
    request->set_session_id(session_);
    request->set_create_session(create_);
    if (expected_revision_.has_value()) {
      request->set_expected_revision(*expected_revision_);
    }
    if (!token_ids_.empty()) {
      request->mutable_token_ids()->mutable_ids()->Assign(token_ids_.begin(),
                                                          token_ids_.end());
    } else if (!args.empty()) {
      absl::StatusOr<std::string> text = ReadText(context, args[0]);
      if (!text.ok()) return text.status();
      request->set_text(*std::move(text));
    }
    return turn_.Fill(request);
  }

  // Once standard output is closed nobody waits for the rest of the turn.
  void PrintText(Context& context, const std::string& text) {
    if (text.empty()) return;
    context.console.Print(text);
    last_ = text.back();
    if (context.console.output_errno() != 0) context.canceller.Cancel();
  }

  void EndLine(Context& context) {
    if (last_.value_or('\n') != '\n') context.console.Print("\n");
    last_.reset();
  }

  int Failed(Context& context, const absl::Status& status) {
    const bool hint = absl::IsNotFound(status) && !session_.empty();
    const int exit_code =
        Fail(context, hint ? WithHint(status, "; --create makes it") : status);
    if (exit_code == kExitInterrupted) TellOutcome(context);
    return exit_code;
  }

  // After Ctrl-C, which has cancelled all of the context's calls.
  void TellOutcome(Context& context) {
    if (session_.empty() || !base_revision_.has_value() ||
        context.console.output_errno() != 0) {
      return;
    }
    v1::GetSessionRequest request;
    request.set_session_id(session_);
    const std::string outcome = CancelledTurnOutcome(*base_revision_, [&] {
      return context.client.GetSession(request, {kOutcomeTimeout});
    });
    if (!outcome.empty()) context.console.Note(absl::StrCat("ttt: ", outcome));
  }

  void PrintLogprobs(Context& context, const v1::CompleteResponse& response) {
    for (const v1::Position& position : response.logprobs()) {
      context.console.Print(absl::StrCat(PositionLine(position), "\n"));
    }
  }

  void PrintFacts(Context& context, const TurnResult& result) {
    std::string facts = TurnFacts(result);
    const std::string session = SessionFacts(result.response);
    if (!session.empty()) absl::StrAppend(&facts, "; ", session);
    if (context.flags.verbose) {
      absl::StrAppend(&facts, "; seed ", result.response.seed());
    }
    context.console.Facts(absl::StrCat("[", facts, "]"));
  }

  TurnFlags turn_;
  std::string session_;
  std::optional<uint64_t> expected_revision_;
  std::optional<uint64_t> base_revision_;  // before the turn, once accepted
  std::vector<int32_t> token_ids_;
  bool create_ = false;
  bool stream_ = true;
  std::optional<char> last_;  // printed, if a line is open
};

}  // namespace

std::unique_ptr<Command> MakeCompleteCommand() {
  return std::make_unique<CompleteCommand>();
}

}  // namespace ttt
