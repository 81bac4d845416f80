// chat
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "client/call_error.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/text.h"
#include "client/turn.h"

namespace ttt {
namespace {

constexpr char kCommands[] =
    "an empty line lets it go on; /new [NAME], /fork NAME, /info, /quit;\n"
    "Ctrl-C stops a turn, at the prompt the chat; //TEXT enters a line that "
    "begins with\none slash";

// A conversation in one session at a time. A session without a name is made by
// the first line, and deleted when it is left.
class Chat {
 public:
  Chat(Context& context, const TurnFlags& turn, std::string join)
      : context_(context),
        console_(context.console),
        turn_(turn),
        join_(std::move(join)),
        is_interactive_(console_.terminal().in_is_terminal) {}

  int Run(const std::string& name) {
    if (absl::Status status = Open(name); !status.ok()) {
      return Fail(context_, status);
    }
    Greet();
    const int exit_code = Loop();
    Leave();
    return exit_code;
  }

 private:
  // What a line came to; an exit code ends the chat.
  using Outcome = std::optional<int>;

  // Runs calls that Ctrl-C ends.
  template <typename Function>
  auto Guarded(Function function) {
    Canceller canceller;
    const InterruptWatch watch(console_.terminal().interrupt,
                               [&canceller] { canceller.Cancel(); });
    auto result = function(CallOptions{context_.flags.timeout, &canceller});
    was_interrupted_ = canceller.cancelled();
    return result;
  }

  absl::Status Open(const std::string& name) {
    const auto info = Guarded([this](const CallOptions& options) {
      return context_.client.GetServerInfo(options);
    });
    if (!info.ok()) return info.status();
    if (!info->model().has_tokenizer()) {
      return UsageError("the model has no tokenizer, so there is no chat");
    }
    model_ = info->model().name();
    return Enter(name);
  }

  // Goes over to a session, which may be one to come.
  absl::Status Enter(const std::string& name) {
    v1::Session session;
    if (!name.empty()) {
      const absl::StatusOr<v1::Session> found = Get(name);
      if (!found.ok() && !absl::IsNotFound(found.status())) {
        return found.status();
      }
      if (found.ok()) session = *found;
    }
    Leave();
    session_ = session;
    session_.set_session_id(name);
    is_named_ = !name.empty();
    return absl::OkStatus();
  }

  absl::StatusOr<v1::Session> Get(const std::string& name) {
    v1::GetSessionRequest request;
    request.set_session_id(name);
    return Guarded([&](const CallOptions& options) {
      return context_.client.GetSession(request, options);
    });
  }

  void Leave() {
    if (session_.session_id().empty()) return;
    if (!is_named_) {
      v1::DeleteSessionRequest request;
      request.set_session_id(session_.session_id());
      // The server would drop it too, later.
      (void)context_.client.DeleteSession(request, {absl::Seconds(2)});
    } else if (is_interactive_ && session_.revision() > 0) {
      console_.Facts(absl::StrCat("[session ", session_.session_id(),
                                  " stays: ttt chat --session ",
                                  session_.session_id(), "]"));
    }
    session_.Clear();
  }

  void Greet() {
    if (!is_interactive_) return;
    console_.Facts(
        absl::StrCat(model_,
                     " is a base model: it goes on with the text you "
                     "enter, each line a new paragraph."));
    console_.Facts(kCommands);
    TellTokens();
  }

  // Of a session that was there before the chat.
  void TellTokens() {
    if (!is_interactive_ || session_.tokens() == 0) return;
    console_.Facts(absl::StrCat("[session ", session_.session_id(), ", ",
                                HumanCount(session_.tokens()),
                                " tokens so far]"));
  }

  int Loop() {
    while (true) {
      if (is_interactive_) console_.Prompt("> ");
      std::string line;
      switch (console_.ReadLine(&line)) {
        case Console::Input::kEnd:
          if (is_interactive_) console_.Note("");
          return kExitOk;
        case Console::Input::kFailed:
          return Fail(context_, DataError("cannot read standard input"));
        case Console::Input::kInterrupted:
          console_.TakeInterrupt();
          if (is_interactive_) console_.Note("");
          return kExitInterrupted;
        case Console::Input::kLine:
          break;
      }
      const Outcome outcome = TakeLine(line);
      if (outcome.has_value()) return *outcome;
    }
  }

  Outcome TakeLine(const std::string& line) {
    if (absl::StartsWith(line, "//")) return Turn(line.substr(1));
    if (!absl::StartsWith(line, "/")) return Turn(line);
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(line, absl::MaxSplits(absl::ByAnyChar(" \t\r"), 1));
    const absl::string_view command = words.first;
    const std::string name(absl::StripAsciiWhitespace(words.second));
    if (command == "/quit" || command == "/exit") return kExitOk;
    if (command == "/new") return Settle(New(name));
    if (command == "/fork") return Settle(Fork(name));
    if (command == "/info") return Info();
    console_.Note(kCommands);
    if (command == "/help") return std::nullopt;
    const std::string unknown = absl::StrCat("no such command: ", command);
    if (!is_interactive_) return Settle(UsageError(unknown));
    console_.Note(unknown);
    return std::nullopt;
  }

  // Goes on after a failure only with somebody there to see it.
  Outcome Settle(const absl::Status& status) {
    if (status.ok()) return std::nullopt;
    if (was_interrupted_) {
      console_.TakeInterrupt();
      console_.Note("cancelled");
      if (!is_interactive_) return kExitInterrupted;
      return std::nullopt;
    }
    const int exit_code = Fail(context_, status);
    if (is_interactive_) return std::nullopt;
    return exit_code;
  }

  absl::Status New(const std::string& name) {
    if (absl::Status status = Enter(name); !status.ok()) return status;
    TellTokens();
    return absl::OkStatus();
  }

  absl::Status Fork(const std::string& name) {
    was_interrupted_ = false;
    if (name.empty()) return UsageError("/fork needs a NAME");
    if (session_.revision() == 0) return UsageError("nothing to fork yet");
    v1::ForkSessionRequest request;
    request.set_session_id(session_.session_id());
    request.set_new_session_id(name);
    const auto fork = Guarded([&](const CallOptions& options) {
      return context_.client.ForkSession(request, options);
    });
    if (!fork.ok()) return fork.status();
    Leave();
    session_ = *fork;
    is_named_ = true;
    console_.Facts(absl::StrCat("[now in session ", name, "]"));
    return absl::OkStatus();
  }

  Outcome Info() {
    if (session_.session_id().empty() || session_.revision() == 0) {
      console_.Note("no tokens yet");
      return std::nullopt;
    }
    const absl::StatusOr<v1::Session> session = Get(session_.session_id());
    if (!session.ok()) return Settle(session.status());
    console_.Note(absl::StripSuffix(SessionText(*session), "\n"));
    return std::nullopt;
  }

  // The session of a chat without a name; the server drops it a day after the
  // last turn, should this program not come to it.
  absl::Status MakeSession() {
    v1::CreateSessionRequest request;
    request.mutable_ttl()->set_seconds(24 * 3600);
    const auto session = Guarded([&](const CallOptions& options) {
      return context_.client.CreateSession(request, options);
    });
    if (session.ok()) session_ = *session;
    return session.status();
  }

  Outcome Turn(const std::string& line) {
    was_interrupted_ = false;
    if (absl::Status status = CheckUtf8(line, "the line"); !status.ok()) {
      return Settle(status);
    }
    if (line.empty() && session_.tokens() == 0) {
      if (is_interactive_) console_.Note("there is no text to go on with yet");
      return std::nullopt;
    }
    if (session_.session_id().empty()) {
      if (absl::Status status = MakeSession(); !status.ok()) {
        return Settle(status);
      }
    }
    v1::CompleteRequest request;
    if (absl::Status status = turn_.Fill(&request); !status.ok()) {
      return Settle(status);
    }
    request.set_session_id(session_.session_id());
    request.set_create_session(is_named_);
    if (!line.empty()) {
      request.set_text(session_.tokens() > 0 ? absl::StrCat(join_, line)
                                             : line);
    }
    return RunTurn(request);
  }

  Outcome RunTurn(const v1::CompleteRequest& request) {
    char last = '\n';
    const auto result = Guarded([&](const CallOptions& options) {
      return StreamTurn(context_.client, request, options,
                        [&](const std::string& text) {
                          if (context_.flags.json) return;
                          console_.Print(text);
                          last = text.back();
                          if (console_.output_errno() != 0) {
                            options.canceller->Cancel();
                          }
                        });
    });
    // The terminal shows a ^C at the end of the line.
    const bool shows_ctrl_c = was_interrupted_ && is_interactive_;
    if (last != '\n' || (shows_ctrl_c && !context_.flags.json)) {
      console_.Print("\n");
    }
    if (console_.output_errno() != 0) return kExitFailed;
    if (!result.ok()) {
      return was_interrupted_ ? Cancelled() : Settle(result.status());
    }
    if (was_interrupted_) console_.TakeInterrupt();  // It came too late.
    const v1::CompleteResponse& response = result->response;
    session_.set_revision(response.revision());
    session_.set_tokens(response.usage().session_tokens());
    const absl::StatusOr<v1::Session> session = Get(session_.session_id());
    if (session.ok()) session_ = *session;
    Report(*result);
    return std::nullopt;
  }

  void Report(const TurnResult& result) {
    if (context_.flags.json) {
      Json json = TurnToJson(result);
      json["state_bytes"] = session_.state_bytes();
      return PrintJson(console_, json);
    }
    std::string facts = absl::StrCat("[", TurnFacts(result), "; ",
                                     SessionFacts(result.response));
    if (session_.state_bytes() > 0) {
      absl::StrAppend(&facts, ", state ", HumanBytes(session_.state_bytes()));
    }
    console_.Facts(absl::StrCat(facts, "]"));
  }

  // After Ctrl-C: says what became of the session, once the server has ended
  // the turn.
  Outcome Cancelled() {
    console_.TakeInterrupt();
    const std::string outcome =
        CancelledTurnOutcome(session_.revision(), [this] {
          absl::StatusOr<v1::Session> session = Get(session_.session_id());
          if (session.ok()) session_ = *session;
          return session;
        });
    console_.Note(outcome.empty() ? "cancelled"
                                  : absl::StrCat("cancelled; ", outcome));
    if (is_interactive_) return std::nullopt;
    return kExitInterrupted;
  }

  Context& context_;
  Console& console_;
  const TurnFlags& turn_;
  const std::string join_;
  const bool is_interactive_;
  std::string model_;
  v1::Session session_;  // an empty id: none yet
  bool is_named_ = false;
  bool was_interrupted_ = false;  // the last guarded calls
};

class ChatCommand : public Command {
 public:
  ChatCommand()
      : Command(
            {.name = "chat",
             .summary = "a conversation, line by line, in one session",
             .details = absl::StrCat(
                 "A base model goes on with the text: what you enter is "
                 "added to the session, and\nit writes on. At the prompt, ",
                 kCommands,
                 ".\nWithout --session the session is deleted on leaving. "
                 "When standard input is not a\nterminal, the first failure "
                 "ends the chat. With --json each turn is one line."),
             .handles_interrupt = true}) {}

  void AddFlags(FlagSet* flags) override {
    flags->Name("session", &session_, "NAME",
                "go on with this session; it is made if not there");
    flags->String("join", &join_, "TEXT",
                  "put between the session's text and a line\n"
                  "(default: an empty line, so that a paragraph begins)");
    turn_.AddTo(flags);
  }

  int Run(Context& context, const std::vector<std::string>&) override {
    v1::CompleteRequest check;
    if (absl::Status status = turn_.Fill(&check); !status.ok()) {
      return Fail(context, status);
    }
    return Chat(context, turn_, join_).Run(session_);
  }

 private:
  TurnFlags turn_;
  std::string session_;
  std::string join_ = "\n\n";
};

}  // namespace

std::unique_ptr<Command> MakeChatCommand() {
  return std::make_unique<ChatCommand>();
}

}  // namespace ttt
