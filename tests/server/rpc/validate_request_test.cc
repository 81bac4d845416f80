#include "server/rpc/validate_request.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/rpc/status.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr RequestLimits kLimits = {.vocab_size = 100,
                                   .max_input_tokens = 8,
                                   .max_top_logprobs = 5,
                                   .has_tokenizer = true};

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message))
      << text;
  return message;
}

absl::StatusOr<Request> Complete(const std::string& text,
                                 const RequestLimits& limits = kLimits) {
  return ValidateComplete(FromText<v1::CompleteRequest>(text), limits);
}

std::string Repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string LogitBias(int entries) {
  v1::CompleteRequest message;
  for (int i = 0; i < entries; ++i) {
    (*message.mutable_sampling()->mutable_logit_bias())[i] = 1.0f;
  }
  return message.DebugString();
}

// One request and what becomes of it: `field` empty, it is accepted; otherwise
// the status names the field, and the value where it fits a message.
struct Case {
  std::string request;
  std::string field;
  std::string value;
};

class ValidateCompleteTest : public testing::TestWithParam<Case> {};

TEST_P(ValidateCompleteTest, HoldsTheFieldToItsRange) {
  RequestLimits limits = kLimits;
  limits.vocab_size = 2000;
  const absl::StatusOr<Request> request = Complete(GetParam().request, limits);
  if (GetParam().field.empty()) {
    EXPECT_THAT(request, IsOk());
    return;
  }
  EXPECT_THAT(request, StatusIs(absl::StatusCode::kInvalidArgument,
                                absl::StrCat(GetParam().field, ": ")));
  EXPECT_THAT(request,
              StatusIs(absl::StatusCode::kInvalidArgument, GetParam().value));
  EXPECT_EQ(ErrorReason(request.status()), "INVALID_FIELD");
}

INSTANTIATE_TEST_SUITE_P(
    Ids, ValidateCompleteTest,
    testing::Values(
        Case{absl::StrCat("request_id: '", Repeat("x", 128), "'"), "", ""},
        Case{absl::StrCat("request_id: '", Repeat("x", 129), "'"), "request_id",
             "129"},
        Case{"session_id: 'AZaz09._:-'", "", ""},
        Case{absl::StrCat("session_id: '", Repeat("x", 128), "'"), "", ""},
        Case{absl::StrCat("session_id: '", Repeat("x", 129), "'"), "session_id",
             "129"},
        Case{"session_id: 'a/b'", "session_id", "a/b"},
        Case{"session_id: 'a b'", "session_id", "a b"},
        Case{"session_id: 'a\\000b'", "session_id", ""},
        Case{"session_id: '\xC3\xA9'", "session_id", ""},
        Case{"session_id: 's' create_session: true", "", ""},
        Case{"create_session: true", "create_session", "true"},
        Case{"session_id: 's' expected_revision: 3", "", ""},
        Case{"expected_revision: 3", "expected_revision", "3"},
        Case{"expected_revision: 0", "expected_revision", "0"}));

INSTANTIATE_TEST_SUITE_P(
    Sampling, ValidateCompleteTest,
    testing::Values(
        Case{"sampling { max_tokens: 0 }", "", ""},
        Case{"sampling { max_tokens: 2147483647 }", "", ""},
        Case{"sampling { max_tokens: -1 }", "sampling.max_tokens", "-1"},
        Case{"sampling { temperature: 0 }", "", ""},
        Case{"sampling { temperature: 1e30 }", "", ""},
        Case{"sampling { temperature: -0.5 }", "sampling.temperature", "-0.5"},
        Case{"sampling { temperature: nan }", "sampling.temperature", "nan"},
        Case{"sampling { temperature: inf }", "sampling.temperature", "inf"},
        Case{"sampling { top_k: 0 }", "", ""},
        Case{"sampling { top_k: 2147483647 }", "", ""},
        Case{"sampling { top_k: -1 }", "sampling.top_k", "-1"},
        Case{"sampling { top_p: 1 }", "", ""},
        Case{"sampling { top_p: 1e-30 }", "", ""},
        Case{"sampling { top_p: 0 }", "sampling.top_p", "0"},
        Case{"sampling { top_p: 1.5 }", "sampling.top_p", "1.5"},
        Case{"sampling { top_p: nan }", "sampling.top_p", "nan"},
        Case{"sampling { min_p: 0 }", "", ""},
        Case{"sampling { min_p: 1 }", "", ""},
        Case{"sampling { min_p: -0.5 }", "sampling.min_p", "-0.5"},
        Case{"sampling { min_p: 1.5 }", "sampling.min_p", "1.5"},
        Case{"sampling { min_p: nan }", "sampling.min_p", "nan"},
        Case{"sampling { seed: 18446744073709551615 }", "", ""}));

INSTANTIATE_TEST_SUITE_P(
    Penalties, ValidateCompleteTest,
    testing::Values(Case{"sampling { repetition_penalty: 1e-30 }", "", ""},
                    Case{"sampling { repetition_penalty: 0 }",
                         "sampling.repetition_penalty", "0"},
                    Case{"sampling { repetition_penalty: -1 }",
                         "sampling.repetition_penalty", "-1"},
                    Case{"sampling { repetition_penalty: inf }",
                         "sampling.repetition_penalty", "inf"},
                    Case{"sampling { presence_penalty: -100 }", "", ""},
                    Case{"sampling { presence_penalty: 100 }", "", ""},
                    Case{"sampling { presence_penalty: 100.5 }",
                         "sampling.presence_penalty", "100.5"},
                    Case{"sampling { presence_penalty: nan }",
                         "sampling.presence_penalty", "nan"},
                    Case{"sampling { frequency_penalty: -100 }", "", ""},
                    Case{"sampling { frequency_penalty: 100 }", "", ""},
                    Case{"sampling { frequency_penalty: -100.5 }",
                         "sampling.frequency_penalty", "-100.5"},
                    Case{"sampling { frequency_penalty: nan }",
                         "sampling.frequency_penalty", "nan"}));

INSTANTIATE_TEST_SUITE_P(
    LogitBias, ValidateCompleteTest,
    testing::Values(Case{LogitBias(1024), "", ""},
                    Case{LogitBias(1025), "sampling.logit_bias", "1025"},
                    Case{"sampling { logit_bias { key: 1999 value: -100 } }",
                         "", ""},
                    Case{"sampling { logit_bias { key: 2000 value: 1 } }",
                         "sampling.logit_bias", "2000"},
                    Case{"sampling { logit_bias { key: -1 value: 1 } }",
                         "sampling.logit_bias", "-1"},
                    Case{"sampling { logit_bias { key: 3 value: 100.5 } }",
                         "sampling.logit_bias[3]", "100.5"},
                    Case{"sampling { logit_bias { key: 3 value: nan } }",
                         "sampling.logit_bias[3]", "nan"}));

INSTANTIATE_TEST_SUITE_P(
    StopAndOutput, ValidateCompleteTest,
    testing::Values(
        Case{absl::StrCat("stop { ", Repeat("strings: 'a' ", 16), "}"), "", ""},
        Case{absl::StrCat("stop { ", Repeat("strings: 'a' ", 17), "}"),
             "stop.strings", "17"},
        Case{absl::StrCat("stop { strings: '", Repeat("x", 256), "' }"), "",
             ""},
        Case{absl::StrCat("stop { strings: '", Repeat("x", 257), "' }"),
             "stop.strings[0]", "257"},
        Case{"stop { strings: 'a' strings: '' }", "stop.strings[1]", "0"},
        Case{absl::StrCat("stop { ", Repeat("token_ids: 1 ", 64), "}"), "", ""},
        Case{absl::StrCat("stop { ", Repeat("token_ids: 1 ", 65), "}"),
             "stop.token_ids", "65"},
        Case{"stop { token_ids: 1999 }", "", ""},
        Case{"stop { token_ids: 1 token_ids: 2000 }", "stop.token_ids[1]",
             "2000"},
        Case{"stop { token_ids: -1 }", "stop.token_ids[0]", "-1"},
        Case{"top_logprobs: 0", "", ""}, Case{"top_logprobs: 5", "", ""},
        Case{"top_logprobs: 6", "top_logprobs", "6"},
        Case{"top_logprobs: -1", "top_logprobs", "-1"},
        Case{"on_cancel: 2", "", ""}, Case{"on_cancel: 17", "on_cancel", "17"},
        Case{"durability: 1", "", ""},
        Case{"durability: 17", "durability", "17"}));

INSTANTIATE_TEST_SUITE_P(
    Input, ValidateCompleteTest,
    testing::Values(Case{"text: 'x'", "", ""}, Case{"token_ids {}", "", ""},
                    Case{"token_ids { ids: [0, 1999] }", "", ""},
                    Case{"token_ids { ids: [0, 2000] }", "token_ids.ids[1]",
                         "2000"},
                    Case{"token_ids { ids: [-1] }", "token_ids.ids[0]", "-1"}));

TEST(ValidateRequestTest, UnsetFieldsHaveTheirDefaults) {
  const Request request = Complete("").value();
  EXPECT_EQ(request.kind, RequestKind::kComplete);
  EXPECT_EQ(request.max_tokens, 256);
  EXPECT_EQ(request.sampling.temperature, 0.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.sampling.min_p, 0.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request.top_logprobs, std::nullopt);
  EXPECT_EQ(request.on_cancel, OnCancel::kRollback);
  EXPECT_FALSE(request.stop.ignore_eos);
}

TEST(ValidateRequestTest, SetFieldsArrive) {
  const Request request = Complete(R"(token_ids { ids: [5, 6] }
                  sampling { max_tokens: 9 temperature: 0.5 top_k: 3 top_p: 0.25
                             min_p: 0.125 seed: 11 repetition_penalty: 1.5
                             presence_penalty: 2 frequency_penalty: -3
                             logit_bias { key: 8 value: 1 }
                             logit_bias { key: 4 value: 2 } }
                  stop { strings: "a" strings: "b" token_ids: 7 ignore_eos: true }
                  top_logprobs: 2 on_cancel: ON_CANCEL_COMMIT_PARTIAL)")
                              .value();
  EXPECT_THAT(request.input_ids, ElementsAre(5, 6));
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_k, 3);
  EXPECT_EQ(request.sampling.top_p, 0.25f);
  EXPECT_EQ(request.sampling.min_p, 0.125f);
  EXPECT_EQ(request.sampling.seed, 11);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request.sampling.presence_penalty, 2.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, -3.0f);
  EXPECT_THAT(request.sampling.logit_bias,
              ElementsAre(Pair(4, 2.0f), Pair(8, 1.0f)));
  EXPECT_THAT(request.stop.strings, ElementsAre("a", "b"));
  EXPECT_THAT(request.stop.token_ids, ElementsAre(7));
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_EQ(request.top_logprobs, 2);
  EXPECT_EQ(request.on_cancel, OnCancel::kCommitPartial);
}

TEST(ValidateRequestTest, AbsentFeaturesAreUnimplementedByName) {
  for (const auto& [request, field] :
       std::vector<std::pair<std::string, std::string>>{
           {"idempotency_key: 'k'", "idempotency_key"},
           {"on_cancel: ON_CANCEL_CONTINUE", "on_cancel"},
           {"durability: DURABILITY_DISK", "durability"}}) {
    EXPECT_THAT(Complete(request),
                StatusIs(absl::StatusCode::kUnimplemented, field));
  }
}

TEST(ValidateRequestTest, InputHasALimit) {
  EXPECT_THAT(Complete("token_ids { ids: [1, 1, 1, 1, 1, 1, 1, 1] }"), IsOk());
  const auto request =
      Complete("token_ids { ids: [1, 1, 1, 1, 1, 1, 1, 1, 1] }");
  EXPECT_THAT(request,
              StatusIs(absl::StatusCode::kInvalidArgument, "9 tokens"));
  EXPECT_EQ(ErrorReason(request.status()), "TOO_MANY_INPUT_TOKENS");
}

TEST(ValidateRequestTest, TextWantsATokenizer) {
  RequestLimits limits = kLimits;
  limits.has_tokenizer = false;
  for (const char* text : {"text: 'x'", "stop { strings: 'x' }"}) {
    const auto request = Complete(text, limits);
    EXPECT_THAT(request, StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_EQ(ErrorReason(request.status()), "NO_TOKENIZER");
  }
  EXPECT_THAT(Complete("token_ids { ids: 1 } stop { token_ids: 1 }", limits),
              IsOk());
}

TEST(ValidateRequestTest, EmptyInputWantsTokensBeforeIt) {
  Request request;
  EXPECT_EQ(ErrorReason(CheckInput(request, 0)), "EMPTY_INPUT");
  EXPECT_THAT(CheckInput(request, 1), IsOk());
  request.input_ids = {1};
  EXPECT_THAT(CheckInput(request, 0), IsOk());
}

absl::StatusOr<Request> Score(const std::string& text) {
  return ValidateScore(FromText<v1::ScoreRequest>(text), kLimits);
}

TEST(ValidateScoreTest, IsHeldToTheSameLimits) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Score("token_ids { ids: 99 } top_logprobs: 5 session_id: 's'"),
              IsOk());
  EXPECT_THAT(Score("token_ids { ids: 100 }"),
              StatusIs(kInvalid, "token_ids.ids[0]"));
  EXPECT_THAT(Score("top_logprobs: 6"), StatusIs(kInvalid, "top_logprobs"));
  EXPECT_THAT(Score("top_logprobs: -1"), StatusIs(kInvalid, "top_logprobs"));
  EXPECT_THAT(Score("session_id: '/'"), StatusIs(kInvalid, "session_id"));
  EXPECT_THAT(Score(absl::StrCat("request_id: '", Repeat("x", 129), "'")),
              StatusIs(kInvalid, "request_id"));
}

TEST(ValidateScoreTest, WantsNoTokensAndItsCandidates) {
  const Request request = Score("token_ids { ids: 1 }").value();
  EXPECT_EQ(request.kind, RequestKind::kScore);
  EXPECT_EQ(request.max_tokens, 0);
  EXPECT_EQ(request.top_logprobs, 0);
}

absl::StatusOr<absl::Duration> Ttl(int64_t seconds, int32_t nanos) {
  google::protobuf::Duration ttl;
  ttl.set_seconds(seconds);
  ttl.set_nanos(nanos);
  return ValidateTtl(true, ttl);
}

TEST(ValidateTtlTest, IsAboveZeroOrUnset) {
  EXPECT_EQ(ValidateTtl(false, {}).value(), absl::InfiniteDuration());
  EXPECT_EQ(Ttl(1, 500000000).value(), absl::Milliseconds(1500));
  EXPECT_EQ(Ttl(0, 1).value(), absl::Nanoseconds(1));
  EXPECT_THAT(Ttl(31557600000, 0), IsOk());
  for (const auto& [seconds, nanos] : std::vector<std::pair<int64_t, int32_t>>{
           {0, 0},
           {-1, 0},
           {0, -1},
           {1, -1},
           {-1, 1},
           {1, 1000000000},
           {1, std::numeric_limits<int32_t>::min()},
           {31557600001, 0},
           {std::numeric_limits<int64_t>::min(), 0}}) {
    EXPECT_THAT(Ttl(seconds, nanos),
                StatusIs(absl::StatusCode::kInvalidArgument, "ttl"));
  }
}

TEST(ValidatePageSizeTest, IsAtMostAThousand) {
  EXPECT_EQ(ValidatePageSize(0).value(), 100);
  EXPECT_EQ(ValidatePageSize(1).value(), 1);
  EXPECT_EQ(ValidatePageSize(1000).value(), 1000);
  EXPECT_THAT(ValidatePageSize(1001),
              StatusIs(absl::StatusCode::kInvalidArgument, "1001"));
  EXPECT_THAT(ValidatePageSize(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, "-1"));
}

TEST(ValidateSessionIdTest, WantsAnId) {
  EXPECT_THAT(ValidateSessionId("session_id", "a"), IsOk());
  EXPECT_THAT(ValidateSessionId("session_id", ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "session_id"));
}

}  // namespace
}  // namespace ttt
