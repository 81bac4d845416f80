// Sessions and the tokenizer through real stubs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class SessionsTest : public testing::Test {
 protected:
  grpc::Status Create(const std::string& id, v1::Session* session,
                      int64_t ttl_seconds = 0) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    if (ttl_seconds != 0) request.mutable_ttl()->set_seconds(ttl_seconds);
    return server_.sessions().CreateSession(&context, request, session);
  }
  grpc::Status Get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::Session session;
    return server_.sessions().GetSession(&context, request, &session);
  }
  grpc::Status Delete(const std::string& id) {
    grpc::ClientContext context;
    v1::DeleteSessionRequest request;
    request.set_session_id(id);
    v1::DeleteSessionResponse response;
    return server_.sessions().DeleteSession(&context, request, &response);
  }
  grpc::Status Fork(const std::string& id, const std::string& new_id,
                    v1::Session* session,
                    std::optional<uint64_t> expected_revision = std::nullopt) {
    grpc::ClientContext context;
    v1::ForkSessionRequest request;
    request.set_session_id(id);
    request.set_new_session_id(new_id);
    if (expected_revision.has_value()) {
      request.set_expected_revision(*expected_revision);
    }
    return server_.sessions().ForkSession(&context, request, session);
  }
  grpc::Status List(int32_t page_size, const std::string& page_token,
                    v1::ListSessionsResponse* response) {
    grpc::ClientContext context;
    v1::ListSessionsRequest request;
    request.set_page_size(page_size);
    request.set_page_token(page_token);
    return server_.sessions().ListSessions(&context, request, response);
  }
  // A turn of three tokens.
  void Append(const std::string& id) {
    server_.Complete(absl::StrCat(
        "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 0 } session_id: '",
        id, "'"));
  }

  TestServer server_;
};

TEST_F(SessionsTest, ANewSessionIsEmpty) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session).ok());
  EXPECT_EQ(session.session_id(), "s");
  EXPECT_EQ(session.revision(), 0);
  EXPECT_EQ(session.tokens(), 0);
  EXPECT_EQ(session.tier(), v1::TIER_DEVICE);
  EXPECT_EQ(session.state_bytes(), 0);
  EXPECT_EQ(session.state_digest(), "");
  EXPECT_FALSE(session.has_expire_time());
  EXPECT_GT(session.create_time().seconds(), 0);
  EXPECT_THAT(session.model_fingerprint(), SizeIs(32));
}

TEST_F(SessionsTest, AnIdIsMadeWhereNoneIsGiven) {
  v1::Session session;
  ASSERT_TRUE(Create("", &session).ok());
  EXPECT_THAT(session.session_id(), SizeIs(32));
  EXPECT_TRUE(Get(session.session_id()).ok());
}

TEST_F(SessionsTest, ATurnShowsInTheSession) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session).ok());
  Append("s");
  session = server_.GetSession("s");
  EXPECT_EQ(session.revision(), 1);
  EXPECT_EQ(session.tokens(), 3);
  EXPECT_GT(session.state_bytes(), 0);
  EXPECT_THAT(session.state_digest(), SizeIs(32));
}

TEST_F(SessionsTest, ARunningSessionSaysSo) {
  StreamCall running(&server_, EndlessRequest("s"));
  running.ReadTokens(1);
  EXPECT_EQ(server_.GetSession("s").tier(), v1::TIER_RUNNING);
}

TEST_F(SessionsTest, AnIdIsTakenOnce) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session).ok());
  const grpc::Status status = Create("s", &session);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "SESSION_EXISTS");
}

TEST_F(SessionsTest, BadIdsAndTtlsAreInvalid) {
  v1::Session session;
  EXPECT_EQ(Create("a/b", &session).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Create("s", &session, -1).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Get("").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Delete("a b").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(SessionsTest, ATtlSetsTheTimeOfExpiry) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session, 3600).ok());
  EXPECT_EQ(session.expire_time().seconds(),
            session.last_used_time().seconds() + 3600);
}

TEST_F(SessionsTest, ARefusedTurnIsNoUseOfItsSession) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session, 3600).ok());
  v1::CompleteResponse response;
  const grpc::Status status = server_.Complete(
      FromText<v1::CompleteRequest>("session_id: 's'"), &response);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "EMPTY_INPUT");
  const v1::Session after = server_.GetSession("s");
  EXPECT_EQ(after.last_used_time().nanos(), session.last_used_time().nanos());
  EXPECT_EQ(after.last_used_time().seconds(),
            session.last_used_time().seconds());
}

TEST_F(SessionsTest, ADrainMakesNoSessionsAndLeavesTheOthersInReach) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session).ok());
  server_.server().StartDrain();
  const grpc::Status created = Create("t", &session);
  EXPECT_EQ(created.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(created).reason(), "DRAINING");
  EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(created));
  const grpc::Status forked = Fork("s", "u", &session);
  EXPECT_EQ(forked.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(forked).reason(), "DRAINING");
  EXPECT_TRUE(Get("s").ok());
  EXPECT_TRUE(Delete("s").ok());
}

TEST_F(SessionsTest, ADeletedSessionIsGone) {
  v1::Session session;
  ASSERT_TRUE(Create("s", &session).ok());
  ASSERT_TRUE(Delete("s").ok());
  EXPECT_EQ(Get("s").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorInfoOf(Delete("s")).reason(), "SESSION_NOT_FOUND");
}

TEST_F(SessionsTest, ABusySessionIsNotDeleted) {
  StreamCall running(&server_, EndlessRequest("s"));
  running.ReadTokens(1);
  const grpc::Status status = Delete("s");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "SESSION_BUSY");
}

TEST_F(SessionsTest, AForkHasItsParentsStateAndGoesItsOwnWay) {
  v1::Session parent;
  ASSERT_TRUE(Create("p", &parent).ok());
  Append("p");
  parent = server_.GetSession("p");
  v1::Session fork;
  ASSERT_TRUE(Fork("p", "f", &fork, 1).ok());
  EXPECT_EQ(fork.parent_session_id(), "p");
  EXPECT_EQ(fork.revision(), 1);
  EXPECT_EQ(fork.state_digest(), parent.state_digest());
  Append("f");
  EXPECT_EQ(server_.GetSession("f").revision(), 2);
  EXPECT_EQ(server_.GetSession("p").state_digest(), parent.state_digest());
  Append("p");
  EXPECT_EQ(server_.GetSession("p").state_digest(),
            server_.GetSession("f").state_digest());
}

TEST_F(SessionsTest, AForkOfAnotherRevisionIsRefused) {
  v1::Session session;
  ASSERT_TRUE(Create("p", &session).ok());
  const grpc::Status status = Fork("p", "f", &session, 3);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "REVISION_MISMATCH");
}

TEST_F(SessionsTest, SessionsAreListedInPages) {
  v1::Session session;
  for (const char* id : {"c", "a", "e", "b", "d"}) {
    ASSERT_TRUE(Create(id, &session).ok());
  }
  std::vector<std::string> ids;
  v1::ListSessionsResponse page;
  std::vector<int> sizes;
  do {
    const std::string token = page.next_page_token();
    page.Clear();
    ASSERT_TRUE(List(2, token, &page).ok());
    sizes.push_back(page.sessions_size());
    for (const v1::Session& listed : page.sessions())
      ids.push_back(listed.session_id());
  } while (!page.next_page_token().empty());
  EXPECT_THAT(ids, ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_THAT(sizes, ElementsAre(2, 2, 1));
}

TEST_F(SessionsTest, AFullLastPageNamesNoNext) {
  v1::Session session;
  ASSERT_TRUE(Create("a", &session).ok());
  v1::ListSessionsResponse page;
  ASSERT_TRUE(List(1, "", &page).ok());
  EXPECT_EQ(page.next_page_token(), "");
}

TEST_F(SessionsTest, BadPagesAreInvalid) {
  v1::ListSessionsResponse page;
  EXPECT_EQ(List(1001, "", &page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(List(-1, "", &page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(List(1, "a/b", &page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(SessionsLimitsTest, AFullPoolRefusesTheTurnAndSaysWhenToTryAgain) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->device_state_bytes = 120000;  // two states
  }});
  v1::CompleteResponse response;
  grpc::Status status;
  int sessions = 0;
  for (; sessions < 100 && status.ok(); ++sessions) {
    status = server.Complete(FromText<v1::CompleteRequest>(absl::StrCat(
                                 "token_ids { ids: 5 } sampling { max_tokens: "
                                 "0 } create_session: true "
                                 "session_id: 's",
                                 sessions, "'")),
                             &response);
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "STATE_POOL_FULL");
  EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(status));
}

class TokenizerTest : public testing::Test {
 protected:
  TestServer server_;
};

TEST_F(TokenizerTest, TextComesBackFromItsIds) {
  v1::TokenizeRequest request;
  request.set_text("It was a cold morning.");
  request.set_at_start(true);
  grpc::ClientContext context;
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(server_.tokenizer().Tokenize(&context, request, &tokens).ok());
  EXPECT_EQ(tokens.ids_size(), tokens.pieces_size());
  EXPECT_EQ(tokens.ids(0), 1);
  v1::DetokenizeRequest back;
  *back.mutable_ids() = tokens.ids();
  grpc::ClientContext back_context;
  v1::DetokenizeResponse text;
  ASSERT_TRUE(server_.tokenizer().Detokenize(&back_context, back, &text).ok());
  EXPECT_EQ(text.text(), request.text());
}

TEST_F(TokenizerTest, AnIdOutsideTheVocabularyIsInvalid) {
  v1::DetokenizeRequest request;
  request.add_ids(kTinyVocabSize);
  grpc::ClientContext context;
  v1::DetokenizeResponse text;
  const grpc::Status status =
      server_.tokenizer().Detokenize(&context, request, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace ttt
