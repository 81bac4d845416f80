#include "tests/bench/statistics.h"

#include <gtest/gtest.h>

namespace ttt {
namespace {

TEST(StatisticsTest, MedianOfAnEvenNumberLiesBetweenTheMiddleTwo) {
  const Summary summary = Summarize({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(summary.median, 2.5);
  EXPECT_DOUBLE_EQ(summary.least, 1);
  EXPECT_DOUBLE_EQ(summary.greatest, 4);
}

TEST(StatisticsTest, OneOutlierMovesNeitherMedianNorSpread) {
  const Summary calm = Summarize({9, 10, 10, 10, 11});
  const Summary disturbed = Summarize({9, 10, 10, 10, 1000});
  EXPECT_DOUBLE_EQ(disturbed.median, calm.median);
  EXPECT_DOUBLE_EQ(disturbed.spread, calm.spread);
}

TEST(StatisticsTest, SpreadIsHalfTheQuartilesDistanceOverTheMedian) {
  EXPECT_DOUBLE_EQ(Summarize({1, 2, 3, 4, 5}).spread, 1.0 / 3);
}

TEST(StatisticsTest, OneValueIsItsOwnSummary) {
  const Summary summary = Summarize({7});
  EXPECT_DOUBLE_EQ(summary.median, 7);
  EXPECT_DOUBLE_EQ(summary.spread, 0);
}

}  // namespace
}  // namespace ttt
