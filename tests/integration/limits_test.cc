// What one call may take of the server, and how long it may wait for it.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using grpc::StatusCode;

std::string Words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "the quick brown fox ";
  return text;
}

TestServerOptions MaxInputTokens(int64_t max) {
  return {.adjust = [max](ServerOptions* options) {
    options->max_input_tokens = max;
  }};
}

v1::CompleteRequest TextRequest(const std::string& text) {
  auto request = FromText<v1::CompleteRequest>(
      "session_id: 's' create_session: true sampling { max_tokens: 1 }");
  request.set_text(text);
  return request;
}

// The number before " tokens", which stands after "input: ".
int64_t TokensOf(const grpc::Status& status) {
  constexpr char kBefore[] = "input: ";
  const size_t at = status.error_message().find(kBefore);
  return at == std::string::npos
             ? -1
             : std::stoll(status.error_message().substr(at + 7));
}

TEST(LimitsTest, ATextOfTooManyTokensIsNotReadToItsEnd) {
  TestServer server(MaxInputTokens(100));
  v1::TokenizeRequest request;
  request.set_text(Words(100000));
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      server.tokenizer().Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "TOO_MANY_INPUT_TOKENS");
  EXPECT_TRUE(
      absl::StrContains(status.error_message(), "tokens and more, at most 100"))
      << status.error_message();
  EXPECT_GT(TokensOf(status), 100);
  EXPECT_LT(TokensOf(status), 50000);
}

TEST(LimitsTest, IdsOfTooManyTokensAreNotDecoded) {
  TestServer server(MaxInputTokens(100));
  v1::DetokenizeRequest request;
  for (int i = 0; i < 101; ++i) request.add_ids(5);
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      server.tokenizer().Detokenize(&context, request, &response);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "TOO_MANY_INPUT_TOKENS");
  EXPECT_EQ(TokensOf(status), 101);
}

// The session is free again, or gone, when the client hears of the error.
TEST(LimitsTest, ACallWhoseTextIsRefusedHoldsNothing) {
  TestServer server(MaxInputTokens(100));
  const v1::CompleteRequest too_long = TextRequest(Words(1000));
  v1::CompleteResponse response;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(ErrorInfoOf(server.Complete(too_long, &response)).reason(),
              "TOO_MANY_INPUT_TOKENS");
    const grpc::Status status =
        server.Complete(TextRequest("the fox"), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
}

TEST(LimitsTest, ATextThatHasWaitedTooLongIsNotRead) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_queue_wait = absl::Nanoseconds(1);
    options->max_input_tokens = 1;  // Who reads the text finds it too long.
  }});
  v1::CompleteResponse response;
  EXPECT_EQ(
      ErrorInfoOf(server.Complete(TextRequest("the fox"), &response)).reason(),
      "QUEUE_TIMEOUT");
}

// One long text must not be taken for a full queue.
TEST(LimitsTest, ALongTextLeavesFreeRowsToOthers) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_queue_tokens = 1000;
  }});
  StreamCall long_text(&server, absl::StrCat("text: '", Words(100000), "'"));
  for (int i = 0; i < 20; ++i) {
    server.Complete("token_ids { ids: 5 } sampling { max_tokens: 1 }");
  }
  long_text.Cancel();
}

TEST(LimitsTest, TheAnswerOfScoreCountsAmongTheBytes) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_queue_bytes = 10000;
  }});
  StreamCall running(&server, EndlessRequest(""));
  running.ReadTokens(1);
  auto request = FromText<v1::ScoreRequest>("top_logprobs: 5");
  for (int i = 0; i < 100; ++i) request.mutable_token_ids()->add_ids(5);
  v1::ScoreResponse response;
  EXPECT_EQ(ErrorInfoOf(server.Score(request, &response)).reason(),
            "QUEUE_FULL");
  request.set_top_logprobs(0);
  EXPECT_TRUE(server.Score(request, &response).ok());
}

}  // namespace
}  // namespace ttt
