#include "server/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::Eq;
using ::testing::Optional;

TEST(ErrorTest, CarriesCodeMessageAndReason) {
  const absl::Status status =
      Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND", "no session x");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, "no session x"));
  EXPECT_EQ(ErrorReason(status), "SESSION_NOT_FOUND");
}

TEST(ErrorTest, HasNoRetryHintUnlessGiven) {
  EXPECT_EQ(RetryAfter(Error(absl::StatusCode::kNotFound, "X", "")),
            std::nullopt);
}

TEST(ErrorTest, StatusFromElsewhereHasNoReason) {
  EXPECT_EQ(ErrorReason(absl::InternalError("from elsewhere")), "");
  EXPECT_EQ(ErrorReason(absl::OkStatus()), "");
}

TEST(ErrorTest, RetryHintIsGivenBack) {
  const absl::Status status = RetryableError(absl::StatusCode::kAborted, "BUSY",
                                             "", absl::Milliseconds(250));
  EXPECT_EQ(ErrorReason(status), "BUSY");
  EXPECT_THAT(RetryAfter(status), Optional(Eq(absl::Milliseconds(250))));
}

TEST(ErrorTest, RetryHintBelowAMillisecondIsRoundedUp) {
  const absl::Status status = RetryableError(absl::StatusCode::kAborted, "BUSY",
                                             "", absl::Microseconds(10));
  EXPECT_THAT(RetryAfter(status), Optional(Eq(absl::Milliseconds(1))));
}

TEST(QuoteValueTest, ShortTextIsWhole) {
  EXPECT_EQ(QuoteValue("session-1"), "\"session-1\"");
  EXPECT_EQ(QuoteValue(""), "\"\"");
}

TEST(QuoteValueTest, BytesThatDoNotPrintAreEscaped) {
  EXPECT_EQ(QuoteValue(absl::string_view("a\n\0\"", 4)), "\"a\\n\\000\\\"\"");
  EXPECT_EQ(QuoteValue("\xff"), "\"\\377\"");
}

TEST(QuoteValueTest, LongTextIsCutAt128Bytes) {
  EXPECT_EQ(QuoteValue(std::string(128, 'a')),
            "\"" + std::string(128, 'a') + "\"");
  EXPECT_EQ(QuoteValue(std::string(129, 'a')),
            "\"" + std::string(128, 'a') + "\"...");
}

TEST(QuoteValueTest, EscapesCountTowardsTheCut) {
  EXPECT_EQ(QuoteValue(std::string(100, '\n')).size(), 128 + strlen("\"\"..."));
}

}  // namespace
}  // namespace ttt
