// Answers that nobody takes, and texts that the end of the server finds
// waiting.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

constexpr absl::Duration kLong = absl::Minutes(1);
// Its answer is far above what a client takes without reading, and it is far
// above a tiny text.
constexpr size_t kTextBytes = 200000;

std::string Text(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "the quick brown fox ";
  return text;
}

// Takes 64 KiB of an answer that is not read, and never learns to take more.
std::shared_ptr<grpc::Channel> NarrowChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

// A call whose answer is not read until Finish.
class UnreadCall {
 public:
  template <typename Request>
  UnreadCall(TestServer* server, const std::string& method,
             const Request& request)
      : stub_(NarrowChannel(server->address())) {
    const grpc::Slice slice(request.SerializeAsString());
    call_ = stub_.PrepareCall(&context_, method, &queue_);
    call_->StartCall(nullptr);
    Wait();
    call_->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(),
                     nullptr);
    Wait();
  }
  ~UnreadCall() {
    if (!is_finished_) {
      context_.TryCancel();
      Finish();
    }
    queue_.Shutdown();
  }

  grpc::Status Finish() {
    grpc::ByteBuffer response;
    grpc::Status status;
    is_finished_ = true;
    call_->Read(&response, nullptr);
    Wait();
    call_->Finish(&status, nullptr);
    Wait();
    return status;
  }

 private:
  void Wait() {
    void* tag = nullptr;
    bool ok = false;
    queue_.Next(&tag, &ok);
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool is_finished_ = false;
};

v1::TokenizeRequest TokenizeOf(size_t bytes) {
  v1::TokenizeRequest request;
  request.set_text(Text(bytes));
  return request;
}

constexpr char kTokenize[] = "/ttt.v1.Tokenizer/Tokenize";
constexpr char kDetokenize[] = "/ttt.v1.Tokenizer/Detokenize";

v1::DetokenizeRequest DetokenizeOf(int ids) {
  v1::DetokenizeRequest request;
  for (int i = 0; i < ids; ++i) request.add_ids(3000 + i % 100);
  return request;
}

// One call at a time.
void OneCall(ServerOptions* options) {
  options->max_batch_rows = 1;
  options->max_queue = 0;
  options->http_listen = "127.0.0.1:0";
}

// Until the server has made as many answers, which need not have left.
void WaitForAnswers(TestServer* server, const std::string& method, int count) {
  const std::string line = absl::StrCat(
      "ttt_requests_total{code=\"OK\",method"
      "=\"",
      method, "\"} ", count, "\n");
  std::string page;
  EXPECT_TRUE(Eventually(absl::Seconds(30),
                         [&] {
                           page = HttpGet(server->server().http_port().value(),
                                          "/metrics");
                           return absl::StrContains(page, line);
                         }))
      << "no " << line << "in\n"
      << page;
}

grpc::Status CompleteOnce(TestServer* server) {
  v1::CompleteResponse response;
  return server->Complete(
      FromText<v1::CompleteRequest>(
          "token_ids { ids: 5 } sampling { max_tokens: 1 }"),
      &response);
}

TEST(UnreadTest, AnAnswerOfTokenizeKeepsItsPlaceUntilItHasLeft) {
  TestServer server({.adjust = OneCall});
  UnreadCall unread(&server, kTokenize, TokenizeOf(kTextBytes));
  WaitForAnswers(&server, "Tokenize", 1);
  EXPECT_EQ(ErrorInfoOf(CompleteOnce(&server)).reason(), "QUEUE_FULL");
  EXPECT_FALSE(server.server().WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_TRUE(unread.Finish().ok());
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
  EXPECT_TRUE(CompleteOnce(&server).ok());
}

TEST(UnreadTest, AnAnswerOfDetokenizeKeepsItsPlaceUntilItHasLeft) {
  TestServer server({.adjust = OneCall});
  UnreadCall unread(&server, kDetokenize, DetokenizeOf(kTextBytes));
  WaitForAnswers(&server, "Detokenize", 1);
  EXPECT_EQ(ErrorInfoOf(CompleteOnce(&server)).reason(), "QUEUE_FULL");
  EXPECT_TRUE(unread.Finish().ok());
}

TEST(UnreadTest, AnAnswerOfTokenizeThatNobodyTakesIsCut) {
  TestServer server({.adjust = [](ServerOptions* options) {
    OneCall(options);
    options->max_unread = absl::Milliseconds(100);
  }});
  UnreadCall unread(&server, kTokenize, TokenizeOf(kTextBytes));
  WaitForAnswers(&server, "Tokenize", 1);
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
  EXPECT_EQ(unread.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(CompleteOnce(&server).ok());
}

// As inference.proto says: the end has no details, and the session tells.
TEST(UnreadTest, ACommittedTurnWhoseAnswerIsCutShowsInItsSession) {
  TestServer server({.adjust = [](ServerOptions* options) {
    OneCall(options);
    options->max_unread = absl::Milliseconds(100);
  }});
  UnreadCall unread(
      &server, "/ttt.v1.Inference/Complete",
      FromText<v1::CompleteRequest>(
          "token_ids { ids: 5 } sampling { max_tokens: 3000 } top_logprobs: 20 "
          "stop { ignore_eos: true } session_id: 's' create_session: true"));
  WaitForAnswers(&server, "Complete", 1);
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
  const grpc::Status status = unread.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "");
  EXPECT_EQ(server.GetSession("s").revision(), 1);
}

TEST(UnreadTest, AListOfSessionsThatNobodyTakesIsCut) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_unread = absl::Milliseconds(100);
    options->http_listen = "127.0.0.1:0";
  }});
  for (int i = 0; i < 1000; ++i) {
    v1::CreateSessionRequest request;
    request.set_session_id(absl::StrCat(std::string(100, 's'), i));
    v1::Session session;
    grpc::ClientContext context;
    ASSERT_TRUE(
        server.sessions().CreateSession(&context, request, &session).ok());
  }
  ASSERT_TRUE(server.server().WaitUntilIdle(kLong));
  v1::ListSessionsRequest request;
  request.set_page_size(1000);
  UnreadCall unread(&server, "/ttt.v1.Sessions/ListSessions", request);
  WaitForAnswers(&server, "ListSessions", 1);
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
  EXPECT_EQ(unread.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// Stops a server to which eight texts were sent, which it reads one after the
// other, and counts those that it refused.
int TextsRefusedByAShutdown() {
  TestServer server;
  std::vector<std::unique_ptr<UnreadCall>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(
        std::make_unique<UnreadCall>(&server, kTokenize, TokenizeOf(1 << 20)));
  }
  while (server.server().WaitUntilIdle(absl::ZeroDuration())) {
  }
  std::vector<std::jthread> readers;
  std::vector<grpc::Status> statuses(calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    readers.emplace_back([&, i] { statuses[i] = calls[i]->Finish(); });
  }
  server.Stop();
  readers.clear();
  int refused = 0;
  for (const grpc::Status& status : statuses) {
    // gRPC itself ends a call that has not come whole.
    if (status.ok() || status.error_code() == grpc::StatusCode::CANCELLED) {
      continue;
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(ErrorInfoOf(status).reason(), "DRAINING");
    ++refused;
  }
  return refused;
}

TEST(UnreadTest, AShutdownDoesNotReadTheTextsThatWait) {
  int refused = 0;
  for (int i = 0; i < 20 && refused == 0; ++i) {
    refused = TextsRefusedByAShutdown();
  }
  EXPECT_GE(refused, 1);
}

// The text takes some ten times as long as its deadline.
TEST(UnreadTest, ALongTextIsNotReadToItsEndPastTheDeadline) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->http_listen = "127.0.0.1:0";
  }});
  absl::Time begin = absl::Now();
  v1::TokenizeResponse response;
  grpc::ClientContext whole;
  ASSERT_TRUE(
      server.tokenizer().Tokenize(&whole, TokenizeOf(1 << 20), &response).ok());
  const absl::Duration a_megabyte = absl::Now() - begin;
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() +
                    absl::ToChronoMilliseconds(a_megabyte));
  begin = absl::Now();
  EXPECT_EQ(server.tokenizer()
                .Tokenize(&late, TokenizeOf(12 << 20), &response)
                .error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(server.server().WaitUntilIdle(kLong));
  EXPECT_LT(absl::Now() - begin, 8 * a_megabyte);
}

}  // namespace
}  // namespace ttt
