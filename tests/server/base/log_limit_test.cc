#include "server/base/log_limit.h"

#include <gtest/gtest.h>

namespace ttt {
namespace {

constexpr absl::Time kBegin = absl::UnixEpoch();

TEST(LogLimitTest, TheFirstLineIsLogged) {
  LogLimit limit(absl::Seconds(10));
  EXPECT_EQ(limit.Count(kBegin), 1);
}

TEST(LogLimitTest, LinesWithinTheIntervalAreCountedByTheNextOne) {
  LogLimit limit(absl::Seconds(10));
  limit.Count(kBegin);
  EXPECT_EQ(limit.Count(kBegin), std::nullopt);
  EXPECT_EQ(limit.Count(kBegin + absl::Seconds(9)), std::nullopt);
  EXPECT_EQ(limit.Count(kBegin + absl::Seconds(10)), 3);
  EXPECT_EQ(limit.Count(kBegin + absl::Seconds(19)), std::nullopt);
  EXPECT_EQ(limit.Count(kBegin + absl::Seconds(20)), 2);
}

}  // namespace
}  // namespace ttt
