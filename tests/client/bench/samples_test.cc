#include "client/bench/samples.h"

#include <gtest/gtest.h>

namespace ttt::bench {
namespace {

TEST(SamplesTest, PercentilesAreOfTheNearestRank) {
  Samples samples;
  for (int i = 200; i >= 1; --i) samples.Add(i);
  const Summary summary = samples.Summarize();
  EXPECT_EQ(summary.count, 200);
  EXPECT_EQ(summary.p50, 100);
  EXPECT_EQ(summary.p90, 180);
  EXPECT_EQ(summary.p95, 190);
  EXPECT_EQ(summary.p99, 198);
  EXPECT_EQ(summary.max, 200);
  EXPECT_DOUBLE_EQ(summary.mean, 100.5);
  EXPECT_TRUE(summary.exact);
}

TEST(SamplesTest, HighPercentileOfAFewSamplesIsTheGreatest) {
  Samples samples;
  for (const double value : {3, 1, 2}) samples.Add(value);
  const Summary summary = samples.Summarize();
  EXPECT_EQ(summary.p50, 2);
  EXPECT_EQ(summary.p90, 3);
  EXPECT_EQ(summary.p99, 3);
}

TEST(SamplesTest, OneSampleIsEveryPercentile) {
  Samples samples;
  samples.Add(0.25);
  const Summary summary = samples.Summarize();
  EXPECT_EQ(summary.p50, 0.25);
  EXPECT_EQ(summary.p99, 0.25);
  EXPECT_EQ(summary.max, 0.25);
}

TEST(SamplesTest, NoSamplesAreAllZero) {
  const Summary summary = Samples().Summarize();
  EXPECT_EQ(summary.count, 0);
  EXPECT_EQ(summary.mean, 0);
  EXPECT_EQ(summary.p99, 0);
}

TEST(SamplesTest, BeyondTheCapacityAUniformChoiceIsKept) {
  Samples samples(1000);
  constexpr int kCount = 100000;
  for (int i = 0; i < kCount; ++i) samples.Add(i);
  samples.Add(7e6);
  const Summary summary = samples.Summarize();
  EXPECT_FALSE(summary.exact);
  // Of all, whatever was kept.
  EXPECT_EQ(summary.count, kCount + 1);
  EXPECT_EQ(summary.max, 7e6);
  EXPECT_NEAR(summary.mean, 50069, 1);
  // Four standard deviations of the median of 1,000.
  EXPECT_NEAR(summary.p50, kCount / 2.0, kCount * 0.064);
  EXPECT_NEAR(summary.p90, kCount * 0.9, kCount * 0.038);
}

}  // namespace
}  // namespace ttt::bench
