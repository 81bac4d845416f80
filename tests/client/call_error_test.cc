#include "client/call_error.h"

#include "tests/client/fake_server.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(CallErrorTest, DetailsOfAFailedCallAreDecoded) {
  const absl::Status status = FromGrpcStatus(DetailedStatus(
      grpc::StatusCode::ABORTED, "session \"a\" is in use by another call",
      "SESSION_BUSY", 50, {{"turn_id", "t7"}}));
  const CallError error = DecodeError(status);
  EXPECT_EQ(error.code, absl::StatusCode::kAborted);
  EXPECT_EQ(error.message, "session \"a\" is in use by another call");
  EXPECT_EQ(error.reason, "SESSION_BUSY");
  EXPECT_EQ(error.retry_after, absl::Milliseconds(50));
  EXPECT_THAT(error.metadata, ElementsAre(Pair("turn_id", "t7")));
}

TEST(CallErrorTest, ErrorIsOneLineWithReasonAndHint) {
  const absl::Status status = FromGrpcStatus(DetailedStatus(
      grpc::StatusCode::ABORTED, "session \"a\" is in use by another call",
      "SESSION_BUSY", 50, {{"committed", "false"}}));
  EXPECT_EQ(DescribeError(DecodeError(status)),
            "session \"a\" is in use by another call (SESSION_BUSY); try again "
            "in 50 ms");
}

TEST(CallErrorTest, ErrorWithoutDetailsShowsItsCode) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "rewind is not built."));
  const CallError error = DecodeError(status);
  EXPECT_EQ(error.reason, "");
  EXPECT_EQ(error.retry_after, std::nullopt);
  EXPECT_EQ(DescribeError(error), "rewind is not built (UNIMPLEMENTED)");
}

TEST(CallErrorTest, DetailsThatAreNoDetailsAreLeftOut) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::INTERNAL, "oops", "\xff\xff not a proto"));
  EXPECT_EQ(DescribeError(DecodeError(status)), "oops (INTERNAL)");
}

TEST(CallErrorTest, WhatBecameOfTheTurnIsToldWhenItIsNotPlain) {
  const auto describe = [](const std::string& committed) {
    return DescribeError(DecodeError(FromGrpcStatus(DetailedStatus(
        grpc::StatusCode::INTERNAL, "the step failed", "STEP_FAILED", 0,
        {{"committed", committed}, {"revision", "3"}}))));
  };
  EXPECT_EQ(describe("unknown"),
            "the step failed (STEP_FAILED); whether the turn was committed is "
            "unknown");
  EXPECT_EQ(describe("true"),
            "the step failed (STEP_FAILED); what was done is committed");
  EXPECT_EQ(describe("false"),
            "the step failed (STEP_FAILED); the session is as it was, at "
            "revision 3");
}

TEST(CallErrorTest, TurnCutByADrainIsToldFromACallRefusedByOne) {
  const auto describe = [](std::map<std::string, std::string> metadata) {
    metadata["committed"] = "false";
    return DescribeError(DecodeError(FromGrpcStatus(
        DetailedStatus(grpc::StatusCode::UNAVAILABLE, "the server is draining",
                       "DRAINING", 1000, metadata))));
  };
  EXPECT_EQ(describe({{"revision", "3"}}),
            "the server is draining (DRAINING); the session is as it was, at "
            "revision 3; try again in 1 s");
  EXPECT_EQ(describe({}),
            "the server is draining (DRAINING); try again in 1 s");
}

TEST(CallErrorTest, OkStaysOk) {
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(CallErrorTest, RefusalAtTheDoorIsToldFromACallThatHadBegun) {
  for (const std::string reason : {"QUEUE_FULL", "SESSION_BUSY", "DRAINING"}) {
    EXPECT_TRUE(WasRefused({.reason = reason})) << reason;
  }
  for (const std::string reason : {"", "SLOW_CONSUMER", "STEP_FAILED"}) {
    EXPECT_FALSE(WasRefused({.reason = reason})) << reason;
  }
}

TEST(CallErrorTest, HintIsTheLeastWaitAndADoublingTimeComesOnTop) {
  const absl::Duration hint = absl::Seconds(2);
  EXPECT_EQ(RetryWait(1, hint, 0), hint);
  EXPECT_EQ(RetryWait(100, hint, 0), hint);
  EXPECT_EQ(RetryWait(1, hint, 0.5), hint + absl::Milliseconds(50));
  EXPECT_EQ(RetryWait(2, hint, 0.5), hint + absl::Milliseconds(100));
  EXPECT_EQ(RetryWait(100, hint, 0.5), hint + absl::Milliseconds(2500));
}

}  // namespace
}  // namespace ttt
