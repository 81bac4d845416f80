#include "server/base/random_id.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace ttt {
namespace {

TEST(RandomIdTest, Is32HexadecimalDigits) {
  EXPECT_THAT(RandomId(), ::testing::MatchesRegex("[0-9a-f]{32}"));
}

TEST(RandomIdTest, DoesNotRepeat) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(RandomId());
  EXPECT_EQ(ids.size(), 1000);
}

TEST(RandomIdTest, EveryDigitVaries) {
  std::vector<std::set<char>> seen(32);
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomId();
    for (size_t digit = 0; digit < id.size(); ++digit)
      seen[digit].insert(id[digit]);
  }
  for (const std::set<char>& digits : seen) EXPECT_EQ(digits.size(), 16);
}

}  // namespace
}  // namespace ttt
