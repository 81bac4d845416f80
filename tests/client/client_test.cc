// The client library against a whole server.
#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/call_error.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  static v1::CompleteRequest Turn(const std::string& session, int max_tokens) {
    return FromText<v1::CompleteRequest>(
        "session_id: '" + session + "' text: 'abc' stop { ignore_eos: true } " +
        "sampling { max_tokens: " + std::to_string(max_tokens) + " }");
  }

  void Create(const std::string& id) {
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    ASSERT_TRUE(client_.CreateSession(request, {}).ok());
  }

  absl::StatusOr<v1::Session> Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return client_.GetSession(request, {});
  }

  TestServer server_;
  Client client_{{.server = server_.address()}};
};

TEST_F(ClientTest, StreamGivesWhatCompleteGives) {
  Create("a");
  Create("b");
  const auto whole = client_.Complete(Turn("a", 6), {});
  ASSERT_TRUE(whole.ok()) << whole.status();
  std::string text;
  std::vector<int32_t> ids;
  std::string digest;
  const absl::Status status = client_.StreamComplete(
      Turn("b", 6), {}, [&](const v1::CompleteEvent& event) {
        text += event.tokens().text();
        ids.insert(ids.end(), event.tokens().ids().begin(),
                   event.tokens().ids().end());
        digest = event.committed().state_digest();
      });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(text, whole->text());
  EXPECT_THAT(ids, ::testing::ElementsAreArray(whole->token_ids()));
  EXPECT_EQ(digest, whole->state_digest());
}

TEST_F(ClientTest, CancelledStreamLeavesTheSessionAsItWas) {
  Create("a");
  Canceller canceller;
  const absl::Status status = client_.StreamComplete(
      FromText<v1::CompleteRequest>(EndlessRequest("a")),
      {.canceller = &canceller},
      [&](const v1::CompleteEvent&) { canceller.Cancel(); });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(Get("a")->revision(), 0);
}

TEST_F(ClientTest, ScoreIsOfEachTokenThatWasGiven) {
  v1::ScoreRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(5);
  request.mutable_token_ids()->mutable_ids()->Add(6);
  const auto score = client_.Score(request, {});
  ASSERT_TRUE(score.ok()) << score.status();
  EXPECT_EQ(score->positions_size(), 2);
}

TEST_F(ClientTest, AnswerBeyondGrpcsDefaultLimitIsTaken) {
  v1::ScoreRequest request;
  for (int i = 0; i < 20'000; ++i) {
    request.mutable_token_ids()->add_ids(5 + i % 4000);
  }
  request.set_top_logprobs(20);
  const auto score = client_.Score(request, {});
  ASSERT_TRUE(score.ok()) << score.status();
  EXPECT_GT(score->ByteSizeLong(), size_t{4} << 20);
}

TEST_F(ClientTest, SessionsAreForkedListedAndDeleted) {
  Create("a");
  ASSERT_TRUE(client_.Complete(Turn("a", 1), {}).ok());
  v1::ForkSessionRequest fork;
  fork.set_session_id("a");
  fork.set_new_session_id("b");
  EXPECT_EQ(client_.ForkSession(fork, {})->revision(), 1);

  v1::ListSessionsRequest list;
  list.set_page_size(1);
  std::vector<std::string> ids;
  do {
    const auto page = client_.ListSessions(list, {});
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Session& session : page->sessions()) {
      ids.push_back(session.session_id());
    }
    list.set_page_token(page->next_page_token());
  } while (!list.page_token().empty());
  EXPECT_THAT(ids, ElementsAre("a", "b"));

  v1::DeleteSessionRequest remove;
  remove.set_session_id("a");
  EXPECT_TRUE(client_.DeleteSession(remove, {}).ok());
  EXPECT_TRUE(absl::IsNotFound(Get("a").status()));
}

TEST_F(ClientTest, TokenizerGoesThereAndBack) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text("abc");
  const auto tokens = client_.Tokenize(tokenize, {});
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = tokens->ids();
  EXPECT_THAT(client_.Detokenize(detokenize, {})->text(), HasSubstr("abc"));
}

TEST_F(ClientTest, DrainedServerRefusesWithAReasonAndAHint) {
  EXPECT_EQ(client_.GetServerInfo({})->state(), "serving");
  EXPECT_TRUE(*client_.IsServing("", {}));
  EXPECT_TRUE(client_.Drain({}).ok());
  EXPECT_FALSE(*client_.IsServing("", {}));

  const auto refused = client_.Complete(Turn("", 1), {});
  const CallError error = DecodeError(refused.status());
  EXPECT_EQ(error.code, absl::StatusCode::kUnavailable);
  EXPECT_EQ(error.reason, "DRAINING");
  EXPECT_GT(error.retry_after, absl::ZeroDuration());
  EXPECT_TRUE(WasRefused(error));
}

TEST_F(ClientTest, CallThatHadBegunWasNotRefused) {
  Create("a");
  const auto late =
      client_.Complete(FromText<v1::CompleteRequest>(EndlessRequest("a")),
                       {.timeout = absl::Milliseconds(50)});
  const CallError error = DecodeError(late.status());
  EXPECT_EQ(error.code, absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(WasRefused(error));
}

}  // namespace
}  // namespace ttt
