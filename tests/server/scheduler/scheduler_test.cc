#include "server/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"

namespace ttt {
namespace {

std::vector<std::pair<int, int>> Plan(
    int64_t max_tokens, std::vector<SchedulerRow> rows,
    LongRowsPlace long_rows = LongRowsPlace::kFirst) {
  std::vector<std::pair<int, int>> plan;
  for (const ScheduledRow& row :
       PlanStep({.max_tokens = static_cast<int32_t>(max_tokens),
       .mini_batch = 16,
       .long_rows = long_rows},
                rows)) {
    plan.emplace_back(row.row, row.num_tokens);
  }
  return plan;
}

using Expected = std::vector<std::pair<int, int>>;

TEST(SchedulerTest, DecodeRowsComeBeforePrompts) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 40},
                      {.pending_tokens = 1, .is_decoding = true},
                      {.pending_tokens = 1, .is_decoding = true}}),
            (Expected{{1, 1}, {2, 1}, {0, 40}}));
}

// The plan of so many decoding rows, of which those in `ends` end a mini-batch.
std::vector<int> OrderOf(LongRowsPlace long_rows, int num_rows,
                         const std::vector<int>& ends) {
  std::vector<SchedulerRow> rows(num_rows,
                                 {.pending_tokens = 1, .is_decoding = true});
  for (const int i : ends) rows[i].position = 31;
  std::vector<int> order;
  for (const auto& [row, tokens] : Plan(1000, rows, long_rows))
    order.push_back(row);
  return order;
}

TEST(SchedulerTest, ThoseThatEndAMiniBatchAreSpread) {
  std::vector<int> order =
      OrderOf(LongRowsPlace::kSpread, 80, {10, 75, 78, 79});
  ASSERT_EQ(order.size(), 80u);
  EXPECT_EQ(order[0], 10);
  EXPECT_EQ(order[15], 75);
  EXPECT_EQ(order[30], 78);
  EXPECT_EQ(order[45], 79);
  // The others keep their order.
  EXPECT_EQ(order[1], 0);
  EXPECT_EQ(order[10], 9);
  EXPECT_EQ(order[11], 11);
  EXPECT_EQ(order[16], 15);
  EXPECT_EQ(order.back(), 77);
  absl::c_sort(order);
  for (int i = 0; i < 80; ++i) EXPECT_EQ(order[i], i);
}

TEST(SchedulerTest, ThoseThatEndAMiniBatchAreSpreadOverFewRows) {
  const std::vector<int> order = OrderOf(LongRowsPlace::kSpread, 24, {3, 22});
  EXPECT_EQ(order[0], 3);
  EXPECT_EQ(order[1], 0);
  EXPECT_EQ(order[2], 22);
  EXPECT_EQ(order[3], 1);
  EXPECT_EQ(order.back(), 23);
}

TEST(SchedulerTest, AllButAFewMayEndAMiniBatch) {
  std::vector<int> ends(50);
  std::iota(ends.begin(), ends.end(), 10);
  const std::vector<int> order = OrderOf(LongRowsPlace::kSpread, 65, ends);
  ASSERT_EQ(order.size(), 65u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(order[i], i + 10);
  EXPECT_EQ(order[50], 0);
  EXPECT_EQ(order.back(), 64);
}

TEST(SchedulerTest, ThoseThatEndAMiniBatchComeFirst) {
  for (const LongRowsPlace place :
       {LongRowsPlace::kFirst, LongRowsPlace::kSpread}) {
    EXPECT_EQ(OrderOf(place, 4, {1, 3}), (std::vector<int>{1, 3, 0, 2}));
    EXPECT_EQ(OrderOf(place, 3, {}), (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(OrderOf(place, 3, {0, 1, 2}), (std::vector<int>{0, 1, 2}));
  }
  const std::vector<int> order = OrderOf(LongRowsPlace::kFirst, 256, {9, 255});
  EXPECT_EQ((std::vector<int>(order.begin(), order.begin() + 4)),
            (std::vector<int>{9, 255, 0, 1}));
}

TEST(SchedulerTest, ARowThatReadsNothingEndsNoMiniBatch) {
  EXPECT_EQ(Plan(100, {{.pending_tokens = 1, .position = 1},
                       {.pending_tokens = 0, .position = 32}}),
            (Expected{{0, 1}, {1, 0}}));
}

TEST(SchedulerTest, ALongPromptGetsTheBudgetInWholeMiniBatches) {
  EXPECT_EQ(Plan(100, {{.pending_tokens = 50000}}), (Expected{{0, 96}}));
}

TEST(SchedulerTest, AChunkEndsOnABoundaryOfItsSession) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 500, .position = 5}}),
            (Expected{{0, 59}}));
}

TEST(SchedulerTest, AChunkBelowTheMiniBatchStillRuns) {
  EXPECT_EQ(Plan(3, {{.pending_tokens = 500}}), (Expected{{0, 3}}));
}

TEST(SchedulerTest, AShortPromptIsReadBesideALongOne) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 50000}, {.pending_tokens = 10}}),
            (Expected{{0, 48}, {1, 10}}));
}

TEST(SchedulerTest, PromptsOfEqualLengthShareTheBudget) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 500}, {.pending_tokens = 500}}),
            (Expected{{0, 32}, {1, 32}}));
}

TEST(SchedulerTest, TheOldestPromptIsNotPassedForEver) {
  EXPECT_EQ(Plan(16, {{.pending_tokens = 50000},
                      {.pending_tokens = 20},
                      {.pending_tokens = 20}}),
            (Expected{{0, 16}}));
}

TEST(SchedulerTest, ThenTheShortestPromptsAreRead) {
  EXPECT_EQ(Plan(32, {{.pending_tokens = 50000},
                      {.pending_tokens = 40000},
                      {.pending_tokens = 20}}),
            (Expected{{0, 16}, {2, 16}}));
}

// A step with one row takes 1 ms, and a token of a prompt 0.01 ms.
StepCosts KnownCosts() {
  StepCosts costs;
  for (int i = 0; i < 50; ++i) {
    costs.Record(1, 0, absl::Milliseconds(1));
    costs.Record(1, 20, absl::Milliseconds(1.2));
  }
  return costs;
}

TEST(SchedulerTest, APromptTakesLittleBesideARowThatDecodes) {
  const StepCosts costs = KnownCosts();
  const SchedulerOptions options = {
      .max_tokens = 512, .mini_batch = 16, .costs = &costs};
  const std::vector<SchedulerRow> rows = {
      {.pending_tokens = 50000}, {.pending_tokens = 1, .is_decoding = true}};
  const std::vector<ScheduledRow> plan = PlanStep(options, rows);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].row, 1);
  EXPECT_GE(plan[1].num_tokens, 16);
  EXPECT_LE(plan[1].num_tokens, 96);
}

TEST(SchedulerTest, APromptAloneTakesTheWholeBudget) {
  const StepCosts costs = KnownCosts();
  const SchedulerOptions options = {
      .max_tokens = 512, .mini_batch = 16, .costs = &costs};
  const std::vector<SchedulerRow> rows = {
      {.pending_tokens = 50000},
      {.pending_tokens = 1, .is_decoding = true, .is_blocked = true}};
  const std::vector<ScheduledRow> plan = PlanStep(options, rows);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].num_tokens, 512);
}

TEST(SchedulerTest, BesideRowsThereIsRoomForTwoPrompts) {
  const StepCosts costs;  // knows nothing
  const SchedulerOptions options = {
      .max_tokens = 512, .mini_batch = 16, .costs = &costs};
  const std::vector<SchedulerRow> rows = {
      {.pending_tokens = 50000},
      {.pending_tokens = 40000},
      {.pending_tokens = 30},
      {.pending_tokens = 1, .is_decoding = true}};
  const std::vector<ScheduledRow> plan = PlanStep(options, rows);
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[1].row, 0);
  EXPECT_EQ(plan[2].row, 2);
}

TEST(SchedulerTest, NeverExceedsTheBudget) {
  for (int budget = 1; budget <= 40; ++budget) {
    std::vector<SchedulerRow> rows;
    for (int i = 0; i < 9; ++i)
      rows.push_back({.pending_tokens = 1 + 13 * (i % 4), .position = i});
    int64_t total = 0;
    for (const auto& [row, tokens] : Plan(budget, rows)) {
      EXPECT_GE(tokens, 1);
      EXPECT_LE(tokens, rows[row].pending_tokens);
      total += tokens;
    }
    EXPECT_LE(total, budget);
    EXPECT_GE(total, 1);
  }
}

TEST(SchedulerTest, BlockedRowsWait) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 1, .is_blocked = true},
                      {.pending_tokens = 1}}),
            (Expected{{1, 1}}));
}

TEST(SchedulerTest, ARowWithoutTokensChoosesFromItsKeptVector) {
  EXPECT_EQ(Plan(64, {{.pending_tokens = 0}}), (Expected{{0, 0}}));
}

}  // namespace
}  // namespace ttt
