#include "server/rpc/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "server/base/error.h"

namespace ttt {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// The detail of that type, or its default.
template <typename Detail>
Detail Find(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  Detail found;
  for (const auto& any : details.details()) {
    if (any.UnpackTo(&found)) return found;
  }
  return Detail();
}

TEST(StatusTest, OkHasNoDetails) {
  const grpc::Status status = ToGrpcStatus(absl::OkStatus());
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.error_details(), "");
}

TEST(StatusTest, EachCodeKeepsItsNumber) {
  for (int code = 1; code <= 16; ++code) {
    if (code == 2) continue;
    const grpc::Status status =
        ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "m"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "m");
  }
}

TEST(StatusTest, UnknownIsNeverSent) {
  const absl::Status unknown = absl::UnknownError("m");
  EXPECT_EQ(ToGrpcStatus(unknown).error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(ToGrpcStatus(unknown)).reason(),
            "INTERNAL");
  EXPECT_EQ(CodeName(unknown), "INTERNAL");
}

TEST(StatusTest, DetailsRepeatCodeAndMessage) {
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(
      ToGrpcStatus(absl::AbortedError("busy")).error_details()));
  EXPECT_EQ(details.code(), 10);
  EXPECT_EQ(details.message(), "busy");
}

TEST(StatusTest, ErrorInfoHasTheReasonAndTheDomain) {
  const auto info = Find<google::rpc::ErrorInfo>(
      ToGrpcStatus(Error(absl::StatusCode::kAborted, "SESSION_BUSY", "m")));
  EXPECT_EQ(info.reason(), "SESSION_BUSY");
  EXPECT_EQ(info.domain(), "tttd");
  EXPECT_EQ(info.metadata_size(), 0);
}

TEST(StatusTest, AStatusWithoutAReasonIsNamedByItsCode) {
  const auto info = Find<google::rpc::ErrorInfo>(
      ToGrpcStatus(absl::DeadlineExceededError("m")));
  EXPECT_EQ(info.reason(), "DEADLINE_EXCEEDED");
}

TEST(StatusTest, ErrorInfoSaysWhatBecameOfTheTurn) {
  const auto info = Find<google::rpc::ErrorInfo>(
      ToGrpcStatus(absl::CancelledError("m"), {"abc", 7, false}));
  EXPECT_THAT(
      info.metadata(),
      UnorderedElementsAre(Pair("turn_id", "abc"), Pair("revision", "7"),
                           Pair("committed", "false")));
}

TEST(StatusTest, AHintBecomesRetryInfo) {
  const auto info = Find<google::rpc::RetryInfo>(ToGrpcStatus(
      RetryableError(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "m",
                     absl::Milliseconds(1250))));
  EXPECT_EQ(info.retry_delay().seconds(), 1);
  EXPECT_EQ(info.retry_delay().nanos(), 250000000);
}

TEST(StatusTest, WhatMayBeTriedAgainAlwaysSaysWhen) {
  EXPECT_EQ(RetryDelay(absl::ResourceExhaustedError("m")), absl::Seconds(1));
  EXPECT_EQ(RetryDelay(absl::UnavailableError("m")), absl::Seconds(1));
  EXPECT_EQ(RetryDelay(absl::AbortedError("m")), std::nullopt);
  EXPECT_EQ(
      Find<google::rpc::RetryInfo>(ToGrpcStatus(absl::UnavailableError("m")))
          .retry_delay()
          .seconds(),
      1);
}

TEST(StatusTest, AFieldBecomesABadRequest) {
  const absl::Status invalid = InvalidField("sampling.top_p", "is 2");
  EXPECT_EQ(invalid.code(), absl::StatusCode::kInvalidArgument);
  const auto bad_request = Find<google::rpc::BadRequest>(ToGrpcStatus(invalid));
  ASSERT_EQ(bad_request.field_violations_size(), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(bad_request.field_violations(0).description(), "is 2");
  EXPECT_EQ(invalid.message(), "sampling.top_p: is 2");
}

TEST(StatusTest, AnUnimplementedFieldIsNamed) {
  const absl::Status status =
      UnimplementedField("idempotency_key", "is not here");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  const grpc::Status sent = ToGrpcStatus(status);
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(sent).reason(), "NOT_IMPLEMENTED");
  EXPECT_EQ(Find<google::rpc::BadRequest>(sent).field_violations(0).field(),
            "idempotency_key");
}

TEST(StatusTest, ALongMessageIsCutBetweenCharacters) {
  std::string message = "x";
  for (int i = 0; i < 2000; ++i) message += "\xC3\xA9";
  const std::string sent =
      ToGrpcStatus(absl::InternalError(message)).error_message();
  EXPECT_EQ(sent, message.substr(0, 1023) + "...");
}

}  // namespace
}  // namespace ttt
