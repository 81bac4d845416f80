#include "client/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ttt {
namespace {

TEST(TextTest, Utf8OfAllLengthsIsValid) {
  EXPECT_EQ(InvalidUtf8Position(""), std::nullopt);
  EXPECT_EQ(InvalidUtf8Position("a\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF"
                                "\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"),
            std::nullopt);
}

TEST(TextTest, InvalidUtf8IsFoundWhereItBegins) {
  for (const char* bad :
       {"ab\x80", "ab\xC1\xBF", "ab\xC3", "ab\xC3(", "ab\xE0\x9F\xBF",
        "ab\xED\xA0\x80", "ab\xE2\x82", "ab\xF0\x8F\xBF\xBF",
        "ab\xF4\x90\x80\x80", "ab\xF5\x80\x80\x80", "ab\xFF"}) {
    EXPECT_EQ(InvalidUtf8Position(bad), 2) << bad;
  }
}

TEST(TextTest, ControlCharactersDoNotReachATerminal) {
  EXPECT_EQ(ForTerminal("a\x1b[2Jb\r\n\tc\x7f"), "a?[2Jb?\n\tc?");
  EXPECT_EQ(ForTerminal("\xC2\x9B"
                        "31m \xC3\xA9"),
            "?31m \xC3\xA9");
}

TEST(TextTest, CountsAreGroupedByThousands) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1000), "1,000");
  EXPECT_EQ(HumanCount(1234567), "1,234,567");
  EXPECT_EQ(HumanCount(-1234), "-1,234");
  EXPECT_EQ(HumanCount(-123), "-123");
}

TEST(TextTest, BytesHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(2'620'000), "2.62 MB");
  EXPECT_EQ(HumanBytes(13'960'000'000), "14 GB");
  EXPECT_EQ(HumanBytes(999'999), "1 MB");
}

TEST(TextTest, DurationsHaveTheUnitThatFits) {
  EXPECT_EQ(HumanDuration(absl::Microseconds(420)), "0.42 ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(50)), "50 ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(999.8)), "1 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(12.34)), "12.3 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(125)), "2 min 5 s");
  EXPECT_EQ(HumanDuration(absl::Hours(2)), "2 h");
  EXPECT_EQ(HumanDuration(absl::Hours(24 * 14)), "14 days");
}

TEST(TextTest, RatesHaveThreeDigitsUntilTheyAreLarge) {
  EXPECT_EQ(HumanRate(7.314), "7.31");
  EXPECT_EQ(HumanRate(84.25), "84.2");
  EXPECT_EQ(HumanRate(1234.4), "1,234");
}

TEST(TextTest, DigestIsShownByItsFirstTwelveDigits) {
  EXPECT_EQ(DigestPrefix(std::string(32, '\xab')), "abababababab");
  EXPECT_EQ(DigestPrefix(""), "");
}

TEST(TextTest, ProgressLineNeverWrapsTheTerminal) {
  for (int columns = 1; columns < 200; ++columns) {
    EXPECT_LT(ProgressLine(0.5, "12,345 tokens/s", columns).size(),
              std::max(columns, 1))
        << columns;
  }
}

TEST(TextTest, ProgressBarFillsWithTheFraction) {
  EXPECT_EQ(ProgressLine(0.5, "x", 20), "[=====>    ]  50% x");
  EXPECT_EQ(ProgressLine(1, "x", 20), "[==========] 100% x");
  EXPECT_EQ(ProgressLine(0, "x", 20), "[>         ]   0% x");
  EXPECT_EQ(ProgressLine(7, "x", 20), "[==========] 100% x");
}

}  // namespace
}  // namespace ttt
