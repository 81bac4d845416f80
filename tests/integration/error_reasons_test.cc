// Every reason that an error can have is provoked here, or named with the test
// that does. The list is held to the sources: a reason that the server's code
// gains or loses fails here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using grpc::StatusCode;

grpc::Status Complete(TestServer* server, const std::string& request) {
  v1::CompleteResponse response;
  return server->Complete(FromText<v1::CompleteRequest>(request), &response);
}

grpc::Status Complete(const std::string& request,
                      const TestServerOptions& options = {}) {
  TestServer server(options);
  return Complete(&server, request);
}

grpc::Status CreateTwice() {
  TestServer server;
  v1::CreateSessionRequest request;
  request.set_session_id("s");
  v1::Session session;
  grpc::ClientContext first;
  EXPECT_TRUE(server.sessions().CreateSession(&first, request, &session).ok());
  grpc::ClientContext second;
  return server.sessions().CreateSession(&second, request, &session);
}

grpc::Status CompleteInABusySession() {
  TestServer server;
  StreamCall running(&server, EndlessRequest("s"));
  running.ReadTokens(1);
  return Complete(&server, "session_id: 's' token_ids { ids: 5 }");
}

grpc::Status CompleteAtAnotherRevision() {
  TestServer server;
  server.Complete(
      "session_id: 's' create_session: true token_ids { ids: 5 } "
      "sampling { max_tokens: 1 }");
  return Complete(&server,
                  "session_id: 's' expected_revision: 7 token_ids { ids: 5 }");
}

grpc::Status CompleteWithAFullQueue() {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_batch_rows = 1;
    options->max_queue = 0;
  }});
  StreamCall running(&server, EndlessRequest(""));
  running.ReadTokens(1);
  return Complete(&server, "token_ids { ids: 5 }");
}

// A server with one row, which is taken, and whose calls wait no longer than
// `wait`.
TestServerOptions OneRow(absl::Duration wait) {
  return {.adjust = [wait](ServerOptions* options) {
    options->max_batch_rows = 1;
    options->max_queue_wait = wait;
  }};
}

grpc::Status CompleteBehindAnEndlessTurn() {
  TestServer server(OneRow(absl::Milliseconds(50)));
  StreamCall running(&server, EndlessRequest(""));
  running.ReadTokens(1);
  return Complete(&server, "token_ids { ids: 5 }");
}

grpc::Status CompleteWithAFullPool() {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->device_state_bytes = 120000;
  }});
  grpc::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    status = Complete(
        &server, absl::StrCat("create_session: true session_id: 's", i,
                              "' token_ids { ids: 5 } sampling { max_tokens: "
                              "0 }"));
  }
  return status;
}

// How long the wait is depends on the machine, so several deadlines are tried,
// behind new inputs each time: a server knows the wait once it has seen how
// fast it reads.
grpc::Status CompleteThatWouldWaitPastItsDeadline() {
  TestServer server(OneRow(absl::Hours(1)));
  std::string long_input = "token_ids { ";
  for (int i = 0; i < 200000; ++i) absl::StrAppend(&long_input, "ids: 5 ");
  absl::StrAppend(&long_input, "} sampling { max_tokens: 0 }");
  grpc::Status status;
  for (int round = 0; round < 20; ++round) {
    for (const int milliseconds : {10, 100, 1000}) {
      StreamCall running(&server, long_input);
      StreamCall waiting(&server, long_input);
      v1::CompleteEvent event;
      EXPECT_TRUE(running.Read(&event) && event.has_accepted());
      EXPECT_TRUE(waiting.Read(&event) && event.has_accepted());
      StreamCall late(&server, "token_ids { ids: 5 }",
                      std::chrono::milliseconds(milliseconds));
      status = late.Finish();
      if (status.error_code() == StatusCode::RESOURCE_EXHAUSTED) return status;
    }
  }
  return status;
}

grpc::Status CompleteBeyondOneMessage() {
  return Complete(EndlessRequest(""), {.adjust = [](ServerOptions* options) {
                    options->max_answer_candidates = 100;
                  }});
}

grpc::Status CreateBeyondTheMostSessions() {
  TestServer server(
      {.adjust = [](ServerOptions* options) { options->max_sessions = 1; }});
  grpc::Status status;
  for (int i = 0; i < 2; ++i) {
    v1::Session session;
    grpc::ClientContext context;
    status = server.sessions().CreateSession(&context, {}, &session);
    EXPECT_EQ(status.ok(), i == 0);
  }
  return status;
}

grpc::Status CompleteWhileDraining() {
  TestServer server;
  server.server().StartDrain();
  return Complete(&server, "token_ids { ids: 5 }");
}

grpc::Status StreamTooSlowly() {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_stall = absl::Milliseconds(200);
  }});
  server.Complete(
      "session_id: 's' create_session: true token_ids { ids: 5 } "
      "sampling { max_tokens: 1 }");
  StreamCall stream(&server, EndlessRequest("s", "top_logprobs: 20"));
  stream.ReadTokens(1);
  EXPECT_EQ(server.SessionAtRest("s").tier(), v1::TIER_DEVICE);
  return stream.Finish();
}

grpc::Status StreamPastItsDeadline() {
  TestServer server;
  StreamCall stream(&server, EndlessRequest(""),
                    std::chrono::milliseconds(200));
  return stream.Finish();
}

grpc::Status CompleteOfNoMessage() {
  TestServer server;
  std::string response;
  return server.CallRaw("/ttt.v1.Inference/Complete", "\xff", &response);
}

struct Reason {
  StatusCode code;
  std::string reason;
  std::function<grpc::Status()> provoke;
  // Where there is no such call: what tests it, or why it is never sent.
  std::string elsewhere;
};

std::vector<Reason> Reasons() {
  const std::string start = "the program ends before it serves: tttd_test";
  const std::string engine = "a device that fails: device_fault_test";
  return {
      {StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
       [] { return Complete("sampling { top_p: 2 }"); }, ""},
      {StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED",
       [] { return Complete("idempotency_key: 'k'"); }, ""},
      {StatusCode::INVALID_ARGUMENT, "MALFORMED_REQUEST", CompleteOfNoMessage,
       ""},
      {StatusCode::INVALID_ARGUMENT, "TOO_MANY_INPUT_TOKENS",
       [] {
         return Complete("token_ids { ids: [5, 5] }",
                         {.adjust = [](ServerOptions* options) {
                           options->max_input_tokens = 1;
                         }});
       },
       ""},
      {StatusCode::INVALID_ARGUMENT, "EMPTY_INPUT", [] { return Complete(""); },
       ""},
      {StatusCode::FAILED_PRECONDITION, "NO_TOKENIZER",
       [] { return Complete("text: 'a'", {.with_tokenizer = false}); }, ""},
      {StatusCode::FAILED_PRECONDITION, "REVISION_MISMATCH",
       CompleteAtAnotherRevision, ""},
      {StatusCode::NOT_FOUND, "SESSION_NOT_FOUND",
       [] { return Complete("session_id: 's' token_ids { ids: 5 }"); }, ""},
      {StatusCode::ALREADY_EXISTS, "SESSION_EXISTS", CreateTwice, ""},
      {StatusCode::ABORTED, "SESSION_BUSY", CompleteInABusySession, ""},
      {StatusCode::RESOURCE_EXHAUSTED, "QUEUE_FULL", CompleteWithAFullQueue,
       ""},
      {StatusCode::RESOURCE_EXHAUSTED, "QUEUE_TIMEOUT",
       CompleteBehindAnEndlessTurn, ""},
      {StatusCode::RESOURCE_EXHAUSTED, "DEADLINE_INFEASIBLE",
       CompleteThatWouldWaitPastItsDeadline, ""},
      {StatusCode::RESOURCE_EXHAUSTED, "STATE_POOL_FULL", CompleteWithAFullPool,
       ""},
      {StatusCode::RESOURCE_EXHAUSTED, "SLOW_CONSUMER", StreamTooSlowly, ""},
      {StatusCode::UNAVAILABLE, "STARTING",
       [] { return Complete("token_ids { ids: 5 }", {.set_serving = false}); },
       ""},
      {StatusCode::UNAVAILABLE, "DRAINING", CompleteWhileDraining, ""},
      {StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED",
       StreamPastItsDeadline, ""},
      {StatusCode::CANCELLED, "CANCELLED_BY_CLIENT", nullptr,
       "the client that would read it is gone: cancel_test"},
      {StatusCode::RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE",
       CompleteBeyondOneMessage, ""},
      {StatusCode::RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS",
       CreateBeyondTheMostSessions, ""},
      {StatusCode::INVALID_ARGUMENT, "BAD_SESSION_ID", nullptr,
       "the door refuses before the store does: session_store_test"},
      {StatusCode::INVALID_ARGUMENT, "BAD_TTL", nullptr,
       "the door refuses before the store does: session_store_test"},
      {StatusCode::INTERNAL, "STEP_FAILED", nullptr, engine},
      {StatusCode::INTERNAL, "COMMIT_FAILED", nullptr, engine},
      {StatusCode::INTERNAL, "NUMERIC_FAULT", nullptr, engine},
      {StatusCode::INVALID_ARGUMENT, "BAD_FLAG", nullptr, start},
      {StatusCode::INVALID_ARGUMENT, "BAD_MODEL", nullptr, start},
      {StatusCode::UNAVAILABLE, "PORT_UNAVAILABLE", nullptr, start}};
}

std::string ReadWhole(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> Known() {
  std::set<std::string> known;
  for (const Reason& reason : Reasons()) known.insert(reason.reason);
  return known;
}

std::vector<std::filesystem::path> Files(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

// What stands where an error is made: Error(absl::StatusCode::kX, "REASON", or
// DeviceError("REASON".
TEST(ErrorReasonsTest, TheListHoldsAllThatTheSourcesMakeAndNoMore) {
  const std::regex made(
      R"((?:DeviceError\(|Error\(\s*absl::StatusCode::k\w+,)\s*"([A-Z_]+)\")");
  std::set<std::string> sent;
  for (const auto& path : Files(TTT_SOURCE_DIR "/server")) {
    const std::string source = ReadWhole(path);
    for (std::sregex_iterator it(source.begin(), source.end(), made), end;
         it != end; ++it) {
      sent.insert((*it)[1]);
    }
  }
  EXPECT_EQ(sent, Known());
}

// Reasons are the words with an underscore that name no code and no value.
TEST(ErrorReasonsTest, WhatTheProtosPromiseIsInTheList) {
  const std::set<std::string> known = Known();
  const std::regex reason(
      R"(\b(SESSION_|REVISION_|NO_|QUEUE_|STATE_POOL_|DEADLINE_INF|ANSWER_|)"
      R"(SLOW_|TOO_MANY_)[A-Z_]+\b|\b(STARTING|DRAINING)\b)");
  int found = 0;
  for (const auto& path : Files(TTT_SOURCE_DIR "/proto/ttt/v1")) {
    const std::string text = ReadWhole(path);
    for (std::sregex_iterator it(text.begin(), text.end(), reason), end;
         it != end; ++it) {
      EXPECT_TRUE(known.count(it->str()) > 0) << path << ": " << it->str();
      ++found;
    }
  }
  EXPECT_GE(found, 10);
}

TEST(ErrorReasonsTest, EachIsProvokedOrSaysWhereItIs) {
  for (const Reason& reason : Reasons()) {
    if (!reason.provoke) {
      EXPECT_FALSE(reason.elsewhere.empty()) << reason.reason;
      continue;
    }
    const grpc::Status status = reason.provoke();
    EXPECT_EQ(status.error_code(), reason.code)
        << reason.reason << ": " << status.error_message();
    if (reason.code == StatusCode::DEADLINE_EXCEEDED) continue;  // gRPC's own
    EXPECT_EQ(ErrorInfoOf(status).reason(), reason.reason);
    EXPECT_EQ(ErrorInfoOf(status).domain(), "tttd");
    const bool retry = (reason.code == StatusCode::RESOURCE_EXHAUSTED ||
                        reason.code == StatusCode::UNAVAILABLE ||
                        reason.code == StatusCode::ABORTED) &&
                       reason.reason != "ANSWER_TOO_LARGE";  // It stays so.
    EXPECT_EQ(HasDetail<google::rpc::RetryInfo>(status), retry)
        << reason.reason;
  }
}

}  // namespace
}  // namespace ttt
