// sessions create, get, list, delete, fork, rewind, turns
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"
#include "client/text.h"

namespace ttt {
namespace {

int Show(Context& context, const absl::StatusOr<v1::Session>& session) {
  if (!session.ok()) return Fail(context, session.status());
  if (context.flags.json) {
    PrintJson(context.console, SessionToJson(*session));
  } else {
    context.console.Print(SessionText(*session));
  }
  return kExitOk;
}

void SetTtl(absl::Duration ttl, google::protobuf::Duration* message) {
  message->set_seconds(absl::IDivDuration(ttl, absl::Seconds(1), &ttl));
  message->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(ttl)));
}

void AddTtlFlag(FlagSet* flags, absl::Duration* ttl) {
  flags->Duration("ttl", ttl, "TIME",
                  "delete it after TIME without a turn: 30, 10m, 24h\n"
                  "(default: never)");
}

class CreateCommand : public Command {
 public:
  CreateCommand()
      : Command({.name = "sessions create",
                 .arguments = "[NAME]",
                 .summary = "make an empty session",
                 .details = "Without a NAME the server makes one.",
                 .max_arguments = 1}) {}

  void AddFlags(FlagSet* flags) override { AddTtlFlag(flags, &ttl_); }

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::CreateSessionRequest request;
    if (!args.empty()) {
      if (args[0].empty()) {
        return Fail(context, UsageError("NAME is \"\"; none is as well"));
      }
      request.set_session_id(args[0]);
    }
    if (ttl_ > absl::ZeroDuration()) SetTtl(ttl_, request.mutable_ttl());
    return Show(context,
                context.client.CreateSession(request, context.call_options()));
  }

 private:
  absl::Duration ttl_;
};

class GetCommand : public Command {
 public:
  GetCommand()
      : Command({.name = "sessions get",
                 .arguments = "NAME",
                 .summary = "what a session holds",
                 .min_arguments = 1,
                 .max_arguments = 1}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::GetSessionRequest request;
    request.set_session_id(args[0]);
    return Show(context,
                context.client.GetSession(request, context.call_options()));
  }
};

class ListCommand : public Command {
 public:
  ListCommand()
      : Command({.name = "sessions list",
                 .summary = "all sessions, in order of their names"}) {}

  void AddFlags(FlagSet* flags) override {
    flags->Int32("limit", &limit_, "N", "at most N (default: all)", 1);
  }

  int Run(Context& context, const std::vector<std::string>&) override {
    v1::ListSessionsRequest request;
    std::vector<v1::Session> sessions;
    do {
      request.set_page_size(1000);
      if (limit_.has_value()) {
        request.set_page_size(
            std::min<int64_t>(1000, *limit_ - sessions.size()));
      }
      const absl::StatusOr<v1::ListSessionsResponse> page =
          context.client.ListSessions(request, context.call_options());
      if (!page.ok()) return Fail(context, page.status());
      sessions.insert(sessions.end(), page->sessions().begin(),
                      page->sessions().end());
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty() &&
             (!limit_.has_value() ||
              sessions.size() < static_cast<size_t>(*limit_)));
    Print(context, sessions);
    return kExitOk;
  }

 private:
  void Print(Context& context, const std::vector<v1::Session>& sessions) {
    if (context.flags.json) {
      Json list = Json::array();
      for (const v1::Session& session : sessions) {
        list.push_back(SessionToJson(session));
      }
      PrintJson(context.console, Json::object({{"sessions", list}}));
      return;
    }
    if (sessions.empty()) return context.console.Note("no sessions");
    size_t width = 7;
    for (const v1::Session& session : sessions) {
      width = std::max(width, session.session_id().size());
    }
    std::string text =
        absl::StrFormat("%-*s  %8s  %11s  %8s  %-7s  %s\n", width, "SESSION",
                        "REVISION", "TOKENS", "STATE", "TIER", "LAST USED");
    for (const v1::Session& session : sessions) {
      absl::StrAppendFormat(
          &text, "%-*s  %8d  %11s  %8s  %-7s  %s\n", width,
          session.session_id(), session.revision(),
          HumanCount(session.tokens()), HumanBytes(session.state_bytes()),
          TierName(session.tier()), TimeText(session.last_used_time()));
    }
    context.console.Print(text);
  }

  std::optional<int32_t> limit_;
};

class DeleteCommand : public Command {
 public:
  DeleteCommand()
      : Command({.name = "sessions delete",
                 .arguments = "NAME...",
                 .summary = "delete sessions; stops at the first failure",
                 .min_arguments = 1,
                 .max_arguments = 1 << 20}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    for (const std::string& name : args) {
      v1::DeleteSessionRequest request;
      request.set_session_id(name);
      const absl::Status status =
          context.client.DeleteSession(request, context.call_options());
      if (!status.ok()) return Fail(context, status);
      if (!context.flags.json) {
        context.console.Note(absl::StrCat("deleted ", name));
      }
    }
    if (context.flags.json) {
      PrintJson(context.console, Json::object({{"deleted", args}}));
    }
    return kExitOk;
  }
};

class ForkCommand : public Command {
 public:
  ForkCommand()
      : Command({.name = "sessions fork",
                 .arguments = "NAME [NEW]",
                 .summary = "a new session with the state of another",
                 .details = "Without NEW the server makes a name.",
                 .min_arguments = 1,
                 .max_arguments = 2}) {}

  void AddFlags(FlagSet* flags) override {
    AddTtlFlag(flags, &ttl_);
    flags->Uint64("expected-revision", &expected_revision_, "N",
                  "fail unless the session is at revision N");
  }

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::ForkSessionRequest request;
    request.set_session_id(args[0]);
    if (args.size() > 1) request.set_new_session_id(args[1]);
    if (ttl_ > absl::ZeroDuration()) SetTtl(ttl_, request.mutable_ttl());
    if (expected_revision_.has_value()) {
      request.set_expected_revision(*expected_revision_);
    }
    return Show(context,
                context.client.ForkSession(request, context.call_options()));
  }

 private:
  absl::Duration ttl_;
  std::optional<uint64_t> expected_revision_;
};

class RewindCommand : public Command {
 public:
  RewindCommand()
      : Command({.name = "sessions rewind",
                 .arguments = "NAME REVISION",
                 .summary = "take a session back to an earlier revision (not "
                            "in this version)",
                 .min_arguments = 2,
                 .max_arguments = 2}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::RewindSessionRequest request;
    request.set_session_id(args[0]);
    uint64_t revision = 0;
    if (!absl::SimpleAtoi(args[1], &revision)) {
      return Fail(context, UsageError(absl::StrCat("'", args[1],
                                                   "' is not a revision")));
    }
    request.set_revision(revision);
    return Show(context,
                context.client.RewindSession(request, context.call_options()));
  }
};

class TurnsCommand : public Command {
 public:
  TurnsCommand()
      : Command({.name = "sessions turns",
                 .arguments = "NAME",
                 .summary = "the turns of a session (not in this version)",
                 .min_arguments = 1,
                 .max_arguments = 1}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    v1::ListTurnsRequest request;
    request.set_session_id(args[0]);
    Json list = Json::array();
    std::string text;
    do {
      const absl::StatusOr<v1::ListTurnsResponse> page =
          context.client.ListTurns(request, context.call_options());
      if (!page.ok()) return Fail(context, page.status());
      for (const v1::Turn& turn : page->turns()) {
        list.push_back(
            {{"revision", turn.revision()}, {"turn_id", turn.turn_id()}});
        absl::StrAppendFormat(&text, "%8d  %s\n", turn.revision(),
                              turn.turn_id());
      }
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    if (context.flags.json) {
      PrintJson(context.console, Json::object({{"turns", list}}));
    } else {
      context.console.Print(text);
    }
    return kExitOk;
  }
};

}  // namespace

std::string SessionText(const v1::Session& session) {
  std::string text = absl::StrCat(
      "session   ", session.session_id(), "\n", "revision  ",
      session.revision(), "\n", "tokens    ", HumanCount(session.tokens()),
      "\n", "state     ", HumanBytes(session.state_bytes()), ", ",
      TierName(session.tier()), "\n");
  if (!session.state_digest().empty()) {
    absl::StrAppend(&text, "digest    ", Hex(session.state_digest()), "\n");
  }
  if (!session.parent_session_id().empty()) {
    absl::StrAppend(&text, "fork of   ", session.parent_session_id(), "\n");
  }
  if (session.has_create_time()) {
    absl::StrAppend(&text, "created   ", TimeText(session.create_time()), "\n");
  }
  if (session.has_last_used_time()) {
    absl::StrAppend(&text, "last used ", TimeText(session.last_used_time()),
                    "\n");
  }
  absl::StrAppend(
      &text, "expires   ",
      session.has_expire_time() ? TimeText(session.expire_time()) : "never",
      "\n");
  return text;
}

std::vector<std::unique_ptr<Command>> MakeSessionCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<CreateCommand>());
  commands.push_back(std::make_unique<GetCommand>());
  commands.push_back(std::make_unique<ListCommand>());
  commands.push_back(std::make_unique<DeleteCommand>());
  commands.push_back(std::make_unique<ForkCommand>());
  commands.push_back(std::make_unique<RewindCommand>());
  commands.push_back(std::make_unique<TurnsCommand>());
  return commands;
}

}  // namespace ttt
