// What becomes of a turn whose client leaves, is late, or does not read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::SizeIs;

// More than any of these turns needs.
constexpr absl::Duration kLong = absl::Minutes(1);

class CancelTest : public testing::Test {
 protected:
  // A session of three tokens; what it is.
  v1::Session MakeSession(TestServer* server) {
    server->Complete(
        "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 0 } session_id: "
        "'s' "
        "create_session: true");
    return server->GetSession("s");
  }
  // Cancels an endless turn on the session after its first tokens, and waits
  // until the server is done with it.
  void CancelTurn(const std::string& more) {
    StreamCall stream(&server_, EndlessRequest("s", more));
    stream.ReadTokens(3);
    stream.Cancel();
    EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
    ASSERT_TRUE(server_.server().WaitUntilIdle(kLong));
  }

  TestServer server_;
};

TEST_F(CancelTest, ACancelledTurnLeavesTheSessionAsItWas) {
  const v1::Session before = MakeSession(&server_);
  CancelTurn("");
  const v1::Session after = server_.GetSession("s");
  EXPECT_EQ(after.revision(), before.revision());
  EXPECT_EQ(after.tokens(), before.tokens());
  EXPECT_EQ(after.state_digest(), before.state_digest());
  EXPECT_EQ(after.tier(), v1::TIER_DEVICE);
}

TEST_F(CancelTest, ACancelledFirstTurnLeavesNoSession) {
  CancelTurn("");
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id("s");
  v1::Session session;
  EXPECT_EQ(
      server_.sessions().GetSession(&context, request, &session).error_code(),
      grpc::StatusCode::NOT_FOUND);
}

TEST_F(CancelTest, CommitPartialKeepsWhatWasGenerated) {
  const v1::Session before = MakeSession(&server_);
  CancelTurn("on_cancel: ON_CANCEL_COMMIT_PARTIAL");
  const v1::Session after = server_.GetSession("s");
  EXPECT_EQ(after.revision(), before.revision() + 1);
  EXPECT_GE(after.tokens(), before.tokens() + 3 + 3);
  EXPECT_NE(after.state_digest(), before.state_digest());
}

TEST_F(CancelTest, ADeadlineRollsTheTurnBack) {
  const v1::Session before = MakeSession(&server_);
  StreamCall stream(&server_, EndlessRequest("s"),
                    std::chrono::milliseconds(200));
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(server_.server().WaitUntilIdle(kLong));
  EXPECT_EQ(server_.GetSession("s").state_digest(), before.state_digest());
}

TEST_F(CancelTest, ADeadlineCommitsInPartWhereAsked) {
  const v1::Session before = MakeSession(&server_);
  StreamCall stream(&server_,
                    EndlessRequest("s", "on_cancel: ON_CANCEL_COMMIT_PARTIAL"),
                    std::chrono::milliseconds(500));
  stream.Finish();
  ASSERT_TRUE(server_.server().WaitUntilIdle(kLong));
  EXPECT_EQ(server_.GetSession("s").revision(), before.revision() + 1);
}

TEST_F(CancelTest, ACancelledUnaryCallGivesItsSessionBack) {
  const v1::Session before = MakeSession(&server_);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(200));
  v1::CompleteResponse response;
  EXPECT_EQ(server_.inference()
                .Complete(&context,
                          FromText<v1::CompleteRequest>(EndlessRequest("s")),
                          &response)
                .error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(server_.server().WaitUntilIdle(kLong));
  EXPECT_EQ(server_.GetSession("s").state_digest(), before.state_digest());
  server_.Complete("sampling { max_tokens: 1 } session_id: 's'");
}

TEST_F(CancelTest, AReaderWhoPausesMissesNothing) {
  StreamCall stream(
      &server_,
      "token_ids { ids: [5] } top_logprobs: 20 stop { ignore_eos: true } "
      "sampling { max_tokens: 3000 }");
  stream.ReadTokens(1);
  // Turns of others go on while nobody reads this one.
  for (int i = 0; i < 5; ++i) {
    server_.Complete(
        "token_ids { ids: [5] } stop { ignore_eos: true } "
        "sampling { max_tokens: 100 }");
  }
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_THAT(stream.ids(), SizeIs(3000));
}

TEST_F(CancelTest, AReaderWhoNeverReadsLosesTheTurnAndTheSessionIsFree) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_stall = absl::Milliseconds(200);
  }});
  const v1::Session before = MakeSession(&server);
  StreamCall stream(&server, EndlessRequest("s", "top_logprobs: 20"));
  stream.ReadTokens(1);
  const v1::Session after = server.SessionAtRest("s");
  ASSERT_EQ(after.tier(), v1::TIER_DEVICE);
  EXPECT_EQ(after.state_digest(), before.state_digest());
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "SLOW_CONSUMER");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("turn_id"),
            stream.accepted().turn_id());
}

TEST_F(CancelTest, AnAnswerThatNobodyTakesIsCut) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_unread = absl::Milliseconds(100);
  }});
  StreamCall stream(&server, EndlessRequest("s", "top_logprobs: 20"));
  stream.ReadTokens(1);
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace ttt
