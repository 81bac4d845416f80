// Complete, StreamComplete and Score through real stubs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kSampled[] =
    "sampling { max_tokens: 40 temperature: 0.9 top_p: 0.9 seed: 7 } "
    "stop { ignore_eos: true } ";

class InferenceTest : public testing::Test {
 protected:
  grpc::Status Fail(const std::string& request) {
    v1::CompleteResponse response;
    return server_.Complete(FromText<v1::CompleteRequest>(request), &response);
  }
  v1::ScoreResponse Score(const std::string& request) {
    v1::ScoreResponse response;
    const grpc::Status status =
        server_.Score(FromText<v1::ScoreRequest>(request), &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  TestServer server_;
};

TEST_F(InferenceTest, CompleteAnswersWithTokensTextAndUsage) {
  const v1::CompleteResponse response = server_.Complete(
      absl::StrCat(kSampled, "text: 'The morning was cold' top_logprobs: 3"));
  EXPECT_THAT(response.turn_id(), SizeIs(32));
  EXPECT_EQ(response.session_id(), "");
  EXPECT_EQ(response.revision(), 0);
  EXPECT_EQ(response.state_digest(), "");
  EXPECT_THAT(response.token_ids(), SizeIs(40));
  EXPECT_NE(response.text(), "");
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.seed(), 7);
  EXPECT_GT(response.usage().input_tokens(), 1);
  EXPECT_EQ(response.usage().output_tokens(), 40);
  EXPECT_EQ(response.usage().session_tokens(), 0);
  EXPECT_GT(response.timing().decode_seconds(), 0.0);
  ASSERT_THAT(response.logprobs(), SizeIs(40));
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(response.logprobs(i).token_id(), response.token_ids(i));
    EXPECT_LE(response.logprobs(i).logprob(), 0.0f);
    ASSERT_THAT(response.logprobs(i).top_logprobs(), SizeIs(3));
    EXPECT_GE(response.logprobs(i).top_logprobs(0).logprob(),
              response.logprobs(i).top_logprobs(1).logprob());
  }
}

TEST_F(InferenceTest, LogprobsComeOnlyWhenAskedFor) {
  const std::string request =
      "token_ids { ids: [5] } sampling { max_tokens: 3 } ";
  EXPECT_THAT(server_.Complete(request).logprobs(), IsEmpty());
  const v1::CompleteResponse response =
      server_.Complete(absl::StrCat(request, "top_logprobs: 0"));
  ASSERT_THAT(response.logprobs(), SizeIs(3));
  EXPECT_THAT(response.logprobs(0).top_logprobs(), IsEmpty());
}

TEST_F(InferenceTest, AStreamBringsTheSameTokensAndText) {
  const std::string request = absl::StrCat(kSampled, "text: 'It was raining.'");
  StreamCall stream(&server_, request);
  ASSERT_TRUE(stream.Finish().ok());
  const v1::CompleteResponse response = server_.Complete(request);
  EXPECT_THAT(stream.ids(), ElementsAreArray(response.token_ids()));
  EXPECT_EQ(stream.text(), response.text());
}

TEST_F(InferenceTest, AStreamInASessionEndsWithCommitted) {
  StreamCall stream(&server_,
                    absl::StrCat(kSampled,
                                 "token_ids { ids: [5, 6, 7] } session_id: "
                                 "'s' create_session: true"));
  ASSERT_TRUE(stream.Finish().ok());
  EXPECT_THAT(
      stream.order(),
      ElementsAre(v1::CompleteEvent::kAccepted, v1::CompleteEvent::kTokens,
                  v1::CompleteEvent::kFinished, v1::CompleteEvent::kCommitted));
  EXPECT_THAT(stream.accepted().turn_id(), SizeIs(32));
  EXPECT_EQ(stream.accepted().session_id(), "s");
  EXPECT_EQ(stream.accepted().revision(), 0);
  EXPECT_EQ(stream.accepted().seed(), 7);
  EXPECT_EQ(stream.accepted().input_tokens(), 3);
  EXPECT_EQ(stream.finished()->usage().session_tokens(), 43);
  EXPECT_EQ(stream.committed()->revision(), 1);
  EXPECT_FALSE(stream.committed()->durable());
  EXPECT_EQ(stream.committed()->state_digest(),
            server_.GetSession("s").state_digest());
  EXPECT_THAT(stream.committed()->state_digest(), SizeIs(32));
}

TEST_F(InferenceTest, AStatelessStreamCommitsNothing) {
  StreamCall stream(&server_, absl::StrCat(kSampled, "token_ids { ids: [5] }"));
  ASSERT_TRUE(stream.Finish().ok());
  EXPECT_EQ(stream.order().back(), v1::CompleteEvent::kFinished);
  EXPECT_EQ(stream.committed(), std::nullopt);
}

TEST_F(InferenceTest, HowTheInputIsCutChangesNoBit) {
  server_.Complete(
      "token_ids { ids: [5, 6, 7, 8, 9] } sampling { max_tokens: 0 } "
      "session_id: 'a' "
      "create_session: true");
  server_.Complete(
      "token_ids { ids: [5, 6] } sampling { max_tokens: 0 } session_id: 'b' "
      "create_session: true");
  const v1::CompleteResponse last = server_.Complete(
      "token_ids { ids: [7, 8, 9] } sampling { max_tokens: 0 } session_id: 'b' "
      "expected_revision: 1");
  EXPECT_EQ(last.revision(), 2);
  EXPECT_EQ(last.usage().session_tokens(), 5);
  EXPECT_EQ(last.state_digest(), server_.GetSession("a").state_digest());
}

TEST_F(InferenceTest, AnEmptyInputGoesOnInASession) {
  const std::string whole = absl::StrCat(
      "sampling { max_tokens: 20 } stop { ignore_eos: true } token_ids { ids: "
      "[5] } ");
  const v1::CompleteResponse at_once = server_.Complete(whole);
  v1::CompleteResponse first = server_.Complete(
      "token_ids { ids: [5] } sampling { max_tokens: 12 } stop { ignore_eos: "
      "true } "
      "session_id: 's' create_session: true");
  const v1::CompleteResponse second = server_.Complete(
      "sampling { max_tokens: 8 } stop { ignore_eos: true } session_id: 's'");
  first.mutable_token_ids()->MergeFrom(second.token_ids());
  EXPECT_THAT(first.token_ids(), ElementsAreArray(at_once.token_ids()));
}

TEST_F(InferenceTest, ATurnThatNeitherReadsNorWritesCommitsTheSameState) {
  server_.Complete(
      "token_ids { ids: [5] } sampling { max_tokens: 0 } session_id: 's' "
      "create_session: true");
  const std::string before = server_.GetSession("s").state_digest();
  const v1::CompleteResponse response =
      server_.Complete("sampling { max_tokens: 0 } session_id: 's'");
  EXPECT_EQ(response.state_digest(), before);
  EXPECT_THAT(response.token_ids(), IsEmpty());
}

TEST_F(InferenceTest, TextAtTheStartHasABeginOfTextAndLaterTextHasNone) {
  v1::TokenizeRequest request;
  request.set_text("The morning");
  request.set_at_start(true);
  grpc::ClientContext context;
  v1::TokenizeResponse at_start;
  ASSERT_TRUE(server_.tokenizer().Tokenize(&context, request, &at_start).ok());
  request.set_at_start(false);
  grpc::ClientContext second_context;
  v1::TokenizeResponse later;
  ASSERT_TRUE(
      server_.tokenizer().Tokenize(&second_context, request, &later).ok());
  const std::string turn =
      "text: 'The morning' session_id: 's' create_session: true "
      "sampling { max_tokens: 0 }";
  EXPECT_EQ(server_.Complete(turn).usage().input_tokens(), at_start.ids_size());
  EXPECT_EQ(server_.Complete(turn).usage().input_tokens(), later.ids_size());
  EXPECT_EQ(at_start.ids(0), 1);
  EXPECT_NE(later.ids(0), 1);
}

TEST_F(InferenceTest, StopStringsEndTheTextAndTheStateKeepsTheirTokens) {
  const std::string request = absl::StrCat(
      "text: 'It was' sampling { max_tokens: 200 temperature: 1 seed: 3 } ");
  const std::string free =
      server_.Complete(absl::StrCat(request, "stop { ignore_eos: true }"))
          .text();
  ASSERT_GT(free.size(), 20);
  size_t at = 10;
  while ((free[at] & 0xC0) == 0x80) ++at;
  size_t end = at + 3;
  while (end < free.size() && (free[end] & 0xC0) == 0x80) ++end;
  const std::string stop = free.substr(at, end - at);
  v1::CompleteRequest with_stop = FromText<v1::CompleteRequest>(request);
  with_stop.mutable_stop()->set_ignore_eos(true);
  with_stop.mutable_stop()->add_strings(stop);
  v1::CompleteResponse response;
  ASSERT_TRUE(server_.Complete(with_stop, &response).ok());
  EXPECT_EQ(response.text(), free.substr(0, free.find(stop)));
  EXPECT_EQ(response.matched_stop(), stop);
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.usage().output_tokens(), response.token_ids_size());
}

TEST_F(InferenceTest, AnUnsetSeedIsDrawnAndReturned) {
  const std::string request =
      "token_ids { ids: [5] } sampling { max_tokens: 30 temperature: 1 } "
      "stop { ignore_eos: true }";
  const v1::CompleteResponse drawn = server_.Complete(request);
  EXPECT_NE(drawn.seed(), server_.Complete(request).seed());
  v1::CompleteRequest again = FromText<v1::CompleteRequest>(request);
  again.mutable_sampling()->set_seed(drawn.seed());
  v1::CompleteResponse repeated;
  ASSERT_TRUE(server_.Complete(again, &repeated).ok());
  EXPECT_THAT(repeated.token_ids(), ElementsAreArray(drawn.token_ids()));
}

TEST_F(InferenceTest, ABusySessionIsAborted) {
  StreamCall running(&server_, EndlessRequest("s"));
  running.ReadTokens(1);
  const grpc::Status status = Fail("token_ids { ids: [5] } session_id: 's'");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "SESSION_BUSY");
  EXPECT_EQ(ErrorInfoOf(status).domain(), "tttd");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
}

TEST_F(InferenceTest, AnotherRevisionThanExpectedIsRefused) {
  server_.Complete(
      "token_ids { ids: [5] } sampling { max_tokens: 1 } session_id: 's' "
      "create_session: true");
  const grpc::Status status =
      Fail("token_ids { ids: [5] } session_id: 's' expected_revision: 0");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "REVISION_MISMATCH");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("revision"), "1");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
}

TEST_F(InferenceTest, AnAbsentSessionIsNotFoundUnlessItIsToBeMade) {
  EXPECT_EQ(Fail("token_ids { ids: [5] } session_id: 's'").error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Fail("session_id: 's' create_session: true").error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  // The refused turn has left no session behind.
  EXPECT_EQ(Fail("token_ids { ids: [5] } session_id: 's'").error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(InferenceTest, ABadFieldIsNamedInTheDetails) {
  const grpc::Status status =
      Fail("token_ids { ids: [5] } sampling { top_p: 2 }");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sampling.top_p: is 2"));
  EXPECT_TRUE(HasDetail<google::rpc::BadRequest>(status));
  EXPECT_EQ(ErrorInfoOf(status).reason(), "INVALID_FIELD");
}

TEST_F(InferenceTest, AStreamFailsAsTheUnaryCallDoes) {
  StreamCall stream(&server_, "token_ids { ids: [5] } sampling { top_p: 2 }");
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "INVALID_FIELD");
  EXPECT_THAT(stream.order(), IsEmpty());
}

TEST_F(InferenceTest, BytesThatAreNoMessageAreInvalidEverywhere) {
  for (const char* method :
       {"/ttt.v1.Inference/Complete", "/ttt.v1.Inference/StreamComplete",
        "/ttt.v1.Inference/Score", "/ttt.v1.Sessions/GetSession",
        "/ttt.v1.Tokenizer/Tokenize"}) {
    // Field 1 as a string of five bytes, of which two are there.
    std::string response;
    const grpc::Status status =
        server_.CallRaw(method, "\x0A\x05xx", &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << method;
    EXPECT_EQ(ErrorInfoOf(status).reason(), "MALFORMED_REQUEST");
  }
}

TEST_F(InferenceTest, TextThatIsNotUtf8IsInvalid) {
  std::string response;
  const grpc::Status status =
      server_.CallRaw("/ttt.v1.Inference/Complete", "\x22\x02\xC3(", &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(InferenceTest, WhatIsNotInThisVersionIsUnimplemented) {
  for (const char* field :
       {"idempotency_key: 'k'", "on_cancel: ON_CANCEL_CONTINUE",
        "durability: DURABILITY_DISK"}) {
    const grpc::Status status =
        Fail(absl::StrCat("token_ids { ids: 5 } ", field));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << field;
    EXPECT_EQ(ErrorInfoOf(status).reason(), "NOT_IMPLEMENTED");
  }
  for (const char* method :
       {"Inference/AttachTurn", "Inference/CancelTurn",
        "Sessions/RewindSession", "Sessions/ListTurns", "Sessions/GetTurn",
        "Sessions/ExportSession", "Sessions/ImportSession"}) {
    std::string response;
    const grpc::Status status =
        server_.CallRaw(absl::StrCat("/ttt.v1.", method), "", &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
    EXPECT_EQ(ErrorInfoOf(status).reason(), "NOT_IMPLEMENTED") << method;
  }
}

TEST_F(InferenceTest, ScoresEqualTheLogprobsOfTheTurnThatMadeTheTokens) {
  const v1::CompleteResponse turn = server_.Complete(
      absl::StrCat(kSampled, "token_ids { ids: [5, 6, 7] } top_logprobs: 0"));
  v1::ScoreRequest request;
  for (const int32_t id : {5, 6, 7}) request.mutable_token_ids()->add_ids(id);
  request.mutable_token_ids()->MergeFrom(
      FromText<v1::ScoreRequest>(
          absl::StrCat("token_ids { ids: [",
                       absl::StrJoin(turn.token_ids(), ","), "] }"))
          .token_ids());
  v1::ScoreResponse scores;
  ASSERT_TRUE(server_.Score(request, &scores).ok());
  ASSERT_EQ(scores.positions_size(), 43);
  EXPECT_FALSE(scores.has_first());
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(scores.positions(2 + i).logprob(), turn.logprobs(i).logprob())
        << i;
  }
  EXPECT_FALSE(scores.positions(42).has_logprob());
}

TEST_F(InferenceTest, ScoringASessionSeesItsStateAndLeavesItAlone) {
  server_.Complete(
      "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 0 } session_id: 's' "
      "create_session: true");
  const v1::Session before = server_.GetSession("s");
  const v1::ScoreResponse whole = Score("token_ids { ids: [5, 6, 7, 8, 9] }");
  const v1::ScoreResponse rest =
      Score("token_ids { ids: [8, 9] } session_id: 's' top_logprobs: 2");
  ASSERT_EQ(rest.positions_size(), 2);
  EXPECT_EQ(rest.positions(0).token_id(), 8);
  EXPECT_EQ(rest.first().logprob(), whole.positions(2).logprob());
  EXPECT_EQ(rest.positions(0).logprob(), whole.positions(3).logprob());
  EXPECT_THAT(rest.positions(1).top_logprobs(), SizeIs(2));
  EXPECT_EQ(server_.GetSession("s").state_digest(), before.state_digest());
  EXPECT_EQ(server_.GetSession("s").revision(), before.revision());
}

TEST_F(InferenceTest, ABusySessionCanBeScored) {
  server_.Complete(
      "token_ids { ids: [5] } sampling { max_tokens: 0 } session_id: 's' "
      "create_session: true");
  StreamCall running(&server_, EndlessRequest("s"));
  running.ReadTokens(1);
  EXPECT_EQ(Score("token_ids { ids: [8, 9] } session_id: 's'").positions_size(),
            2);
}

TEST_F(InferenceTest, NothingToScoreIsInvalid) {
  v1::ScoreResponse response;
  const grpc::Status status = server_.Score(v1::ScoreRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "EMPTY_INPUT");
}

TEST(InferenceLimitsTest, ALongInputOfTextIsRefused) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_input_tokens = 4;
  }});
  v1::CompleteResponse response;
  const grpc::Status status = server.Complete(
      FromText<v1::CompleteRequest>("text: 'one two three four five six'"),
      &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "TOO_MANY_INPUT_TOKENS");
}

void SmallAnswers(ServerOptions* options) {
  options->max_answer_candidates = 10;
}

TEST(InferenceLimitsTest, ATurnWhoseAnswerGrowsTooLargeIsRolledBack) {
  TestServer server({.adjust = SmallAnswers});
  server.Complete(
      "session_id: 's' create_session: true token_ids { ids: 5 } "
      "sampling { max_tokens: 0 }");
  v1::CompleteResponse response;
  const grpc::Status status = server.Complete(
      FromText<v1::CompleteRequest>(EndlessRequest("s")), &response);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "ANSWER_TOO_LARGE");
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
  EXPECT_EQ(server.GetSession("s").revision(), 1);
}

// Mostly the answer is gathered after the commit, and never is it told wrongly.
TEST(InferenceLimitsTest, ACommittedTurnWhoseAnswerIsTooLargeSaysSo) {
  TestServer server({.adjust = SmallAnswers});
  std::string committed = "false";
  for (int i = 0; i < 50 && committed == "false"; ++i) {
    const std::string session = absl::StrCat("s", i);
    v1::CompleteResponse response;
    const grpc::Status status = server.Complete(
        FromText<v1::CompleteRequest>(absl::StrCat(
            "session_id: '", session,
            "' create_session: true token_ids { ids: 5 } sampling { "
            "max_tokens: 20 } stop { ignore_eos: true }")),
        &response);
    const google::rpc::ErrorInfo error = ErrorInfoOf(status);
    EXPECT_EQ(error.reason(), "ANSWER_TOO_LARGE");
    committed = error.metadata().at("committed");
    if (committed == "false") continue;
    EXPECT_EQ(error.metadata().at("revision"), "1");
    EXPECT_EQ(server.GetSession(session).tokens(), 21);
  }
  EXPECT_EQ(committed, "true");
}

TEST(InferenceLimitsTest, WithoutATokenizerThereAreOnlyIds) {
  TestServer server({.with_tokenizer = false});
  v1::CompleteResponse response;
  const grpc::Status status =
      server.Complete(FromText<v1::CompleteRequest>("text: 'x'"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "NO_TOKENIZER");
  EXPECT_EQ(server
                .Complete("token_ids { ids: 5 } sampling { max_tokens: 2 } "
                          "stop { ignore_eos: true }")
                .text(),
            "");
  grpc::ClientContext context;
  v1::TokenizeResponse tokens;
  EXPECT_EQ(server.tokenizer().Tokenize(&context, {}, &tokens).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST(InferenceLimitsTest, AFullQueueRefusesAndSaysWhenToTryAgain) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_batch_rows = 1;
    options->max_queue = 0;
  }});
  StreamCall running(&server, EndlessRequest(""));
  running.ReadTokens(1);
  grpc::ClientContext context;
  v1::CompleteResponse response;
  const grpc::Status status = server.inference().Complete(
      &context, FromText<v1::CompleteRequest>("token_ids { ids: 5 }"),
      &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "QUEUE_FULL");
  EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(status));
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"),
            1);
}

TEST(InferenceLimitsTest, AMillionTokensFitOneMessage) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_batch_tokens = 64;
    options->max_input_tokens = 1000000;
  }});
  v1::CompleteRequest request;
  request.mutable_token_ids()->mutable_ids()->Resize(1000001,
                                                     kTinyVocabSize - 1);
  v1::CompleteResponse response;
  const grpc::Status status = server.Complete(request, &response);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "TOO_MANY_INPUT_TOKENS");
}

}  // namespace
}  // namespace ttt
