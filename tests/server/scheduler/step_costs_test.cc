#include "server/scheduler/step_costs.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace ttt {
namespace {

constexpr int64_t kLeast = 16;

// Steps of a device that takes 1 ms, 0.5 ms a row and 0.1 ms a token.
absl::Duration Time(int rows, int64_t tokens) {
  return absl::Milliseconds(1 + 0.5 * rows + 0.1 * tokens);
}

StepCosts Learned(int steps) {
  StepCosts costs;
  for (int i = 0; i < steps; ++i) {
    const int rows = 1 + i % 8;
    const int64_t tokens = i % 3 == 0 ? 0 : 16 * (i % 5);
    costs.Record(rows, tokens, Time(rows, tokens));
  }
  return costs;
}

TEST(StepCostsTest, GivesTheLeastWhileItKnowsNothing) {
  StepCosts costs;
  EXPECT_EQ(costs.PrefillTokensBeside(8, kLeast), kLeast);
  costs.Record(8, 0, absl::Milliseconds(5));
  EXPECT_EQ(costs.PrefillTokensBeside(8, kLeast), kLeast);
}

TEST(StepCostsTest, TellsTheTimeOfRowsAlone) {
  EXPECT_EQ(StepCosts().DecodeTime(8), absl::InfiniteDuration());
  const StepCosts costs = Learned(200);
  for (const int rows : {1, 8, 32}) {
    EXPECT_NEAR(absl::FDivDuration(costs.DecodeTime(rows), Time(rows, 0)), 1,
                1e-3)
        << rows;
  }
}

TEST(StepCostsTest, GivesWhatStaysBelowTwiceTheTimeOfTheRowsAlone) {
  const StepCosts costs = Learned(200);
  for (const int rows : {8, 16, 32}) {
    const int64_t tokens = costs.PrefillTokensBeside(rows, 1);
    EXPECT_LT(Time(rows, tokens), 2 * Time(rows, 0)) << rows;
    EXPECT_GT(Time(rows, tokens), 1.5 * Time(rows, 0)) << rows;
  }
}

TEST(StepCostsTest, NeverGivesLessThanTheLeast) {
  const StepCosts costs = Learned(200);
  EXPECT_EQ(costs.PrefillTokensBeside(1, 64), 64);
}

TEST(StepCostsTest, AnInterruptedStepDoesNotMisleadIt) {
  StepCosts costs = Learned(200);
  const int64_t before = costs.PrefillTokensBeside(8, 1);
  costs.Record(8, 0, absl::Seconds(1));
  EXPECT_NEAR(costs.PrefillTokensBeside(8, 1), before, 0.3 * before);
}

TEST(StepCostsTest, FollowsADeviceThatBecomesSlower) {
  StepCosts costs = Learned(200);
  const int64_t before = costs.PrefillTokensBeside(8, 1);
  for (int i = 0; i < 1000; ++i) {
    const int64_t tokens = 16 * (i % 5);
    costs.Record(8, tokens, absl::Milliseconds(5 + 0.4 * tokens));
  }
  EXPECT_NEAR(costs.PrefillTokensBeside(8, 1), 0.25 * before, 0.2 * before);
}

TEST(StepCostsTest, WhatItKnewOfPromptsLongAgoIsForgotten) {
  StepCosts costs = Learned(200);
  for (int i = 0; i < 5000; ++i) {
    costs.Record(8, 0, Time(8, 0));
    const int64_t tokens = costs.PrefillTokensBeside(8, kLeast);
    EXPECT_LT(Time(8, tokens), 2.1 * Time(8, 0)) << i;
  }
  EXPECT_EQ(costs.PrefillTokensBeside(8, kLeast), kLeast);
}

TEST(StepCostsTest, StepsWithoutRowsSayNothing) {
  StepCosts costs;
  for (int i = 0; i < 100; ++i) costs.Record(0, 512, absl::Milliseconds(1));
  EXPECT_EQ(costs.PrefillTokensBeside(8, kLeast), kLeast);
}

}  // namespace
}  // namespace ttt
