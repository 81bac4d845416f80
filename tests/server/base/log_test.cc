#include "server/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ttt {
namespace {

using ::testing::EndsWith;
using ::testing::MatchesRegex;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

std::string Logged(LogLevel level, absl::string_view message,
                   const LogFields& fields = {}) {
  CaptureStderr();
  Log(level, message, fields);
  return GetCapturedStderr();
}

TEST(LogTest, LineBeginsWithTimeAndLevel) {
  EXPECT_THAT(
      Logged(LogLevel::kInfo, "listening"),
      MatchesRegex(
          "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]"
          "{3}Z INFO listening\n"));
}

TEST(LogTest, LevelsHaveNames) {
  EXPECT_THAT(Logged(LogLevel::kWarning, "x"), EndsWith("Z WARN x\n"));
  EXPECT_THAT(Logged(LogLevel::kError, "x"), EndsWith("Z ERROR x\n"));
}

TEST(LogTest, FieldsFollowTheMessage) {
  EXPECT_THAT(
      Logged(LogLevel::kInfo, "turn ended", {{"turn", "a1"}, {"rows", "3"}}),
      EndsWith(" turn ended turn=a1 rows=3\n"));
}

TEST(LogTest, ValueThatIsNotOneWordIsQuoted) {
  EXPECT_THAT(Logged(LogLevel::kInfo, "m", {{"a", "two words"}}),
              EndsWith(" a=\"two words\"\n"));
  EXPECT_THAT(Logged(LogLevel::kInfo, "m", {{"a", ""}}), EndsWith(" a=\"\"\n"));
  EXPECT_THAT(Logged(LogLevel::kInfo, "m", {{"a", "say \"hi\""}}),
              EndsWith(" a=\"say \\\"hi\\\"\"\n"));
}

TEST(LogTest, NothingFromOutsideStartsALineOfItsOwn) {
  EXPECT_THAT(Logged(LogLevel::kInfo, "m", {{"a", "x\nFAKE"}}),
              EndsWith(" m a=\"x\\nFAKE\"\n"));
  EXPECT_THAT(Logged(LogLevel::kInfo, "failed: x\nFAKE"),
              EndsWith(" failed: x\\nFAKE\n"));
}

}  // namespace
}  // namespace ttt
