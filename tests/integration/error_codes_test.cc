// Each RPC gives each code that its comment lists. The comments are read from
// the protos, so a code that one of them gains or loses fails here. Two are
// left out: INTERNAL, of a device that fails (engine_test), and CANCELLED, of a
// client that has left or was cut and reads no details (cancel_test,
// unread_test).
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using Codes = std::set<std::string>;

constexpr char kInference[] = "/ttt.v1.Inference/";

// As a comment writes them.
const std::map<std::string, grpc::StatusCode>& CodesByName() {
  static const auto* const codes = new std::map<std::string, grpc::StatusCode>{
      {"ABORTED", grpc::StatusCode::ABORTED},
      {"ALREADY_EXISTS", grpc::StatusCode::ALREADY_EXISTS},
      {"CANCELLED", grpc::StatusCode::CANCELLED},
      {"DATA_LOSS", grpc::StatusCode::DATA_LOSS},
      {"DEADLINE_EXCEEDED", grpc::StatusCode::DEADLINE_EXCEEDED},
      {"FAILED_PRECONDITION", grpc::StatusCode::FAILED_PRECONDITION},
      {"INTERNAL", grpc::StatusCode::INTERNAL},
      {"INVALID_ARGUMENT", grpc::StatusCode::INVALID_ARGUMENT},
      {"NOT_FOUND", grpc::StatusCode::NOT_FOUND},
      {"OUT_OF_RANGE", grpc::StatusCode::OUT_OF_RANGE},
      {"PERMISSION_DENIED", grpc::StatusCode::PERMISSION_DENIED},
      {"RESOURCE_EXHAUSTED", grpc::StatusCode::RESOURCE_EXHAUSTED},
      {"UNAUTHENTICATED", grpc::StatusCode::UNAUTHENTICATED},
      {"UNAVAILABLE", grpc::StatusCode::UNAVAILABLE},
      {"UNIMPLEMENTED", grpc::StatusCode::UNIMPLEMENTED},
      {"UNKNOWN", grpc::StatusCode::UNKNOWN}};
  return *codes;
}

// The codes among the words of `text`.
Codes CodesIn(const std::string& text) {
  Codes codes;
  const std::vector<std::string> words =
      absl::StrSplit(text, absl::ByAnyChar(" .,:;()"));
  for (const std::string& word : words) {
    if (CodesByName().count(word) > 0) codes.insert(word);
  }
  return codes;
}

// What the comments of the protos say, by the path of the RPC.
class Comments {
 public:
  // Those of inference.proto come first, as others say "as Complete".
  Comments() {
    for (const char* file : {"inference", "sessions", "tokenizer", "admin"}) {
      Read(absl::StrCat(TTT_SOURCE_DIR "/proto/ttt/v1/", file, ".proto"));
    }
  }
  const std::map<std::string, Codes>& codes() const { return codes_; }

 private:
  void Read(const std::string& path) {
    std::ifstream file(path);
    std::string service;
    Codes of_all;  // RPCs of the service
    Codes below;   // of the RPCs without a comment
    std::string comment;
    for (std::string line; std::getline(file, line);) {
      absl::string_view rest = absl::StripAsciiWhitespace(line);
      if (absl::ConsumePrefix(&rest, "//")) {
        absl::StrAppend(&comment, rest);
        continue;
      }
      if (absl::ConsumePrefix(&rest, "service ")) {
        service = std::string(rest.substr(0, rest.find(' ')));
        of_all = After("Errors of both:", comment);
      } else if (absl::ConsumePrefix(&rest, "rpc ")) {
        Codes codes = comment.empty() ? below : After("Errors", comment);
        if (absl::StrContains(comment, "as all below")) below = codes;
        codes.insert(of_all.begin(), of_all.end());
        codes_[absl::StrCat("/ttt.v1.", service, "/",
                            rest.substr(0, rest.find('(')))] = codes;
      }
      comment.clear();
    }
  }

  // The codes that the comment names after `begin`, less those after "never".
  Codes After(const std::string& begin, const std::string& comment) const {
    const size_t at = comment.find(begin);
    if (at == std::string::npos) return {};
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(comment.substr(at), absl::MaxSplits(" never ", 1));
    Codes codes = CodesIn(parts.first);
    const auto complete = codes_.find(absl::StrCat(kInference, "Complete"));
    if (absl::StrContains(parts.first, "as Complete,")) {
      codes.insert(complete->second.begin(), complete->second.end());
    }
    for (const std::string& code : CodesIn(parts.second)) codes.erase(code);
    return codes;
  }

  std::map<std::string, Codes> codes_;
};

// What a server is like when it is called.
enum class State {
  kServing,  // with a session "old", and a turn that runs in "busy"
  kWithoutTokenizer,
  kFull,         // of calls and of sessions: a turn runs in its one session "s"
  kWithoutRoom,  // for the state of another session than "s-0", "s-1"...
  kStarting,
  kDraining,
};

struct Case {
  std::string method;
  State state;
  std::string request;  // as bytes
  std::string code;
  std::string reason;  // empty: gRPC's own, without details
};

std::string Complete(const std::string& text) {
  return FromText<v1::CompleteRequest>(text).SerializeAsString();
}
std::string Score(const std::string& text) {
  return FromText<v1::ScoreRequest>(text).SerializeAsString();
}
// Of any request whose first field is a session's name.
std::string Named(const std::string& id) {
  v1::GetSessionRequest request;
  request.set_session_id(id);
  return request.SerializeAsString();
}
std::string Fork(const std::string& id, const std::string& new_id,
                 std::optional<uint64_t> expected_revision = std::nullopt) {
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  request.set_new_session_id(new_id);
  if (expected_revision) request.set_expected_revision(*expected_revision);
  return request.SerializeAsString();
}
std::string Tokenize(size_t bytes) {
  v1::TokenizeRequest request;
  request.set_text(std::string(bytes, 'a'));
  return request.SerializeAsString();
}
std::string Detokenize(int32_t id, int count) {
  v1::DetokenizeRequest request;
  for (int i = 0; i < count; ++i) request.add_ids(id);
  return request.SerializeAsString();
}
std::string PageAfter(const std::string& token) {
  v1::ListSessionsRequest request;
  request.set_page_token(token);
  return request.SerializeAsString();
}
// More than can be read before a deadline of 100 ms.
std::string LongScore() {
  v1::ScoreRequest request;
  for (int i = 0; i < 1 << 20; ++i) request.mutable_token_ids()->add_ids(5);
  return request.SerializeAsString();
}

void AddTurns(const std::string& method, std::vector<Case>* cases) {
  const std::string five = Complete("token_ids { ids: 5 }");
  cases->insert(
      cases->end(),
      {{method, State::kServing, Complete(""), "INVALID_ARGUMENT",
        "EMPTY_INPUT"},
       {method, State::kServing,
        Complete("session_id: 'no' token_ids { ids: 5 }"), "NOT_FOUND",
        "SESSION_NOT_FOUND"},
       {method, State::kServing,
        Complete("session_id: 'busy' token_ids { ids: 5 }"), "ABORTED",
        "SESSION_BUSY"},
       {method, State::kServing,
        Complete("session_id: 'old' expected_revision: 0 "
                 "token_ids { ids: 5 }"),
        "FAILED_PRECONDITION", "REVISION_MISMATCH"},
       {method, State::kWithoutTokenizer, Complete("text: 'a'"),
        "FAILED_PRECONDITION", "NO_TOKENIZER"},
       {method, State::kServing, Complete("on_cancel: ON_CANCEL_CONTINUE"),
        "UNIMPLEMENTED", "NOT_IMPLEMENTED"},
       {method, State::kServing, Complete(EndlessRequest("")),
        "DEADLINE_EXCEEDED", ""},
       {method, State::kFull, five, "RESOURCE_EXHAUSTED", "QUEUE_FULL"},
       {method, State::kWithoutRoom,
        Complete("session_id: 'new' create_session: true "
                 "token_ids { ids: 5 }"),
        "RESOURCE_EXHAUSTED", "STATE_POOL_FULL"},
       {method, State::kStarting, five, "UNAVAILABLE", "STARTING"},
       {method, State::kDraining, five, "UNAVAILABLE", "DRAINING"}});
}

void AddScores(std::vector<Case>* cases) {
  const std::string score = absl::StrCat(kInference, "Score");
  const std::string five = Score("token_ids { ids: 5 }");
  cases->insert(
      cases->end(),
      {{score, State::kServing, Score(""), "INVALID_ARGUMENT", "EMPTY_INPUT"},
       {score, State::kServing, Score("session_id: 'no' token_ids { ids: 5 }"),
        "NOT_FOUND", "SESSION_NOT_FOUND"},
       {score, State::kWithoutTokenizer, Score("text: 'a'"),
        "FAILED_PRECONDITION", "NO_TOKENIZER"},
       {score, State::kServing, LongScore(), "DEADLINE_EXCEEDED", ""},
       {score, State::kFull, five, "RESOURCE_EXHAUSTED", "QUEUE_FULL"},
       {score, State::kStarting, five, "UNAVAILABLE", "STARTING"},
       {score, State::kDraining, five, "UNAVAILABLE", "DRAINING"}});
}

void AddSessions(std::vector<Case>* cases) {
  const std::string sessions = "/ttt.v1.Sessions/";
  const std::string create = sessions + "CreateSession";
  const std::string get = sessions + "GetSession";
  const std::string list = sessions + "ListSessions";
  const std::string remove = sessions + "DeleteSession";
  const std::string fork = sessions + "ForkSession";
  cases->insert(
      cases->end(),
      {{create, State::kServing, Named("/"), "INVALID_ARGUMENT",
        "INVALID_FIELD"},
       {create, State::kServing, Named("old"), "ALREADY_EXISTS",
        "SESSION_EXISTS"},
       {create, State::kFull, "", "RESOURCE_EXHAUSTED", "TOO_MANY_SESSIONS"},
       {create, State::kStarting, "", "UNAVAILABLE", "STARTING"},
       {create, State::kDraining, "", "UNAVAILABLE", "DRAINING"},
       {get, State::kServing, Named("/"), "INVALID_ARGUMENT", "INVALID_FIELD"},
       {get, State::kServing, Named("no"), "NOT_FOUND", "SESSION_NOT_FOUND"},
       {list, State::kServing, PageAfter("/"), "INVALID_ARGUMENT",
        "INVALID_FIELD"},
       {remove, State::kServing, Named("/"), "INVALID_ARGUMENT",
        "INVALID_FIELD"},
       {remove, State::kServing, Named("no"), "NOT_FOUND", "SESSION_NOT_FOUND"},
       {remove, State::kServing, Named("busy"), "ABORTED", "SESSION_BUSY"},
       {fork, State::kServing, Fork("/", ""), "INVALID_ARGUMENT",
        "INVALID_FIELD"},
       {fork, State::kServing, Fork("no", ""), "NOT_FOUND",
        "SESSION_NOT_FOUND"},
       {fork, State::kServing, Fork("old", "busy"), "ALREADY_EXISTS",
        "SESSION_EXISTS"},
       {fork, State::kServing, Fork("old", "", 7), "FAILED_PRECONDITION",
        "REVISION_MISMATCH"},
       {fork, State::kFull, Fork("s", ""), "RESOURCE_EXHAUSTED",
        "TOO_MANY_SESSIONS"},
       {fork, State::kWithoutRoom, Fork("s-0", ""), "RESOURCE_EXHAUSTED",
        "STATE_POOL_FULL"},
       {fork, State::kStarting, Fork("s", ""), "UNAVAILABLE", "STARTING"},
       {fork, State::kDraining, Fork("s", ""), "UNAVAILABLE", "DRAINING"}});
  for (const char* method : {"RewindSession", "ListTurns", "GetTurn",
                             "ExportSession", "ImportSession"}) {
    cases->push_back({sessions + method, State::kServing, "", "UNIMPLEMENTED",
                      "NOT_IMPLEMENTED"});
  }
}

void AddTokenizer(std::vector<Case>* cases) {
  const std::string tokenize = "/ttt.v1.Tokenizer/Tokenize";
  const std::string detokenize = "/ttt.v1.Tokenizer/Detokenize";
  cases->insert(cases->end(), {{tokenize, State::kServing, "\xff",
                                "INVALID_ARGUMENT", "MALFORMED_REQUEST"},
                               {detokenize, State::kServing, Detokenize(-1, 1),
                                "INVALID_ARGUMENT", "INVALID_FIELD"}});
  // Those of at most 4 KiB are answered in any state.
  for (const auto& [method, request] :
       {std::pair(tokenize, Tokenize(5000)),
        std::pair(detokenize, Detokenize(300, 5000))}) {
    cases->insert(
        cases->end(),
        {{method, State::kWithoutTokenizer, request, "FAILED_PRECONDITION",
          "NO_TOKENIZER"},
         {method, State::kFull, request, "RESOURCE_EXHAUSTED", "QUEUE_FULL"},
         {method, State::kStarting, request, "UNAVAILABLE", "STARTING"},
         {method, State::kDraining, request, "UNAVAILABLE", "DRAINING"}});
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  AddTurns(absl::StrCat(kInference, "Complete"), &cases);
  AddTurns(absl::StrCat(kInference, "StreamComplete"), &cases);
  AddScores(&cases);
  for (const char* method : {"AttachTurn", "CancelTurn"}) {
    cases.push_back({absl::StrCat(kInference, method), State::kServing, "",
                     "UNIMPLEMENTED", "NOT_IMPLEMENTED"});
  }
  AddSessions(&cases);
  AddTokenizer(&cases);
  return cases;
}

void MakeSession(TestServer* server, const std::string& id) {
  server->Complete(absl::StrCat("session_id: '", id,
                                "' create_session: true token_ids { ids: 5 } "
                                "sampling { max_tokens: 0 }"));
  ASSERT_TRUE(server->server().WaitUntilIdle(absl::Minutes(1)));
}

// A server in a state, for as long as it lives.
class ServerIn {
 public:
  explicit ServerIn(State state)
      : server_(
            {.adjust =
                 [state](ServerOptions* options) { Adjust(state, options); },
             .with_tokenizer = state != State::kWithoutTokenizer,
             .set_serving = state != State::kStarting}) {
    switch (state) {
      case State::kServing:
        MakeSession(&server_, "old");
        Run("busy");
        break;
      case State::kFull:
        MakeSession(&server_, "s");
        Run("s");
        break;
      case State::kWithoutRoom:
        FillWithSessions();
        break;
      case State::kDraining:
        server_.server().StartDrain();
        break;
      default:
        break;
    }
  }
  TestServer* operator->() { return &server_; }

 private:
  static void Adjust(State state, ServerOptions* options) {
    if (state == State::kFull) {
      options->max_batch_rows = 1;
      options->max_queue = 0;
      options->max_sessions = 1;
    } else if (state == State::kWithoutRoom) {
      options->device_state_bytes = 120000;
    }
  }
  void Run(const std::string& session) {
    running_.emplace(&server_, EndlessRequest(session));
    running_->ReadTokens(1);
    EXPECT_FALSE(running_->ids().empty());
  }
  void FillWithSessions() {
    grpc::Status status;
    for (int i = 0; i < 100 && status.ok(); ++i) {
      v1::CompleteResponse response;
      status = server_.Complete(
          FromText<v1::CompleteRequest>(absl::StrCat(
              "create_session: true session_id: 's-", i,
              "' token_ids { ids: 5 } sampling { max_tokens: 0 }")),
          &response);
    }
    EXPECT_EQ(ErrorInfoOf(status).reason(), "STATE_POOL_FULL");
  }

  TestServer server_;
  std::optional<StreamCall> running_;
};

TEST(ErrorCodesTest, TheCasesAreTheCodesOfTheComments) {
  std::map<std::string, Codes> provoked;
  for (const Case& each : Cases()) provoked[each.method].insert(each.code);
  const std::map<std::string, Codes> listed = Comments().codes();
  EXPECT_EQ(listed.size(), 19);
  for (auto [method, codes] : listed) {
    for (const char* left_out : {"INTERNAL", "CANCELLED"})
      codes.erase(left_out);
    EXPECT_EQ(provoked[method], codes) << method;
  }
  EXPECT_EQ(provoked.size(), listed.size());  // A method that is not there.
}

class ProvokedTest : public testing::TestWithParam<State> {};

TEST_P(ProvokedTest, EachCaseGivesItsCode) {
  ServerIn server(GetParam());
  for (const Case& each : Cases()) {
    if (each.state != GetParam()) continue;
    std::optional<std::chrono::milliseconds> deadline;
    if (each.code == "DEADLINE_EXCEEDED") deadline.emplace(100);
    std::string response;
    const grpc::Status status =
        server->CallRaw(each.method, each.request, &response, deadline);
    EXPECT_EQ(status.error_code(), CodesByName().at(each.code))
        << each.method << ": " << status.error_message();
    if (each.reason.empty()) continue;
    EXPECT_EQ(ErrorInfoOf(status).reason(), each.reason) << each.method;
    EXPECT_EQ(ErrorInfoOf(status).domain(), "tttd") << each.method;
  }
}

INSTANTIATE_TEST_SUITE_P(States, ProvokedTest,
                         testing::Values(State::kServing,
                                         State::kWithoutTokenizer, State::kFull,
                                         State::kWithoutRoom, State::kStarting,
                                         State::kDraining));

}  // namespace
}  // namespace ttt
