#include "server/model/host_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace ttt {
namespace {

using testing::ElementsAre;

TEST(HostStepTest, TellsTheSequenceOfEachRow) {
  const std::vector<int32_t> ids = {5, 6, 7};
  const absl::Span<const int32_t> all = ids;
  const std::vector<StepSequence> sequences = {
      {.slot = 4, .position = 9, .token_ids = all.subspan(0, 2)},
      {.slot = 1, .position = 3, .token_ids = {}},
      {.slot = 2, .position = 0, .token_ids = all}};
  HostStep step;
  step.Build({.max_rows = 8, .max_sequences = 3, .max_candidates = 0},
             sequences, {});
  std::vector<std::byte> bytes(step.input().begin(), step.input().end());
  const StepInput input = LayOutStepInput(step.sizes(), bytes.data());
  EXPECT_THAT(absl::MakeSpan(input.row_sequence, 5),
              ElementsAre(0, 0, 2, 2, 2));
  EXPECT_EQ(input.sequences[2].first_row, 2);
}

constexpr TttModel::Limits kLimits = {
    .max_rows = 8, .max_sequences = 3, .max_candidates = 0};

class HostLaunchTest : public testing::Test {
 protected:
  // Three sequences of one token and a request, in slots 4, 5 and 6.
  void Build(absl::Span<const int32_t> ids, int32_t num_steps,
             absl::Span<const StepSequence> how = {}) {
    std::vector<StepSequence> sequences;
    std::vector<LogitsRequest> requests;
    for (int32_t i = 0; i < 3; ++i) {
      StepSequence sequence = how.empty() ? StepSequence() : how[i];
      sequence.slot = 4 + i;
      sequence.position = 10 * i;
      sequence.token_ids = ids.subspan(i, 1);
      sequences.push_back(sequence);
      requests.push_back({.sequence = i, .row = 0, .sampling = &greedy_});
    }
    step_.Build(kLimits, sequences, requests, num_steps);
    bytes_.assign(step_.input().begin(), step_.input().end());
  }
  StepInput Input(int32_t step) {
    return LayOutStepInput(step_.sizes(), bytes_.data(), step);
  }
  EndInput Ends() { return LayOutEndInput(step_.sizes(), 0, bytes_.data()); }

  SamplingParams greedy_;
  HostStep step_;
  std::vector<std::byte> bytes_;
};

TEST_F(HostLaunchTest, EachStepIsThatAfterTheOneBefore) {
  Build({1, 2, 3}, 4, {{.num_steps = 4}, {.num_steps = 1}, {.num_steps = 3}});
  EXPECT_THAT(absl::MakeSpan(Input(0).token_ids, 3), ElementsAre(1, 2, 3));
  for (int32_t step = 0; step < 4; ++step) {
    const StepInput input = Input(step);
    if (step > 0) {
      EXPECT_THAT(absl::MakeSpan(input.token_ids, 3),
                  ElementsAre(ChosenBy(0), ChosenBy(1), ChosenBy(2)));
    }
    for (int32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(input.sequences[i].slot, 4 + i);
      EXPECT_EQ(input.sequences[i].first_row, i);
      EXPECT_EQ(input.sequences[i].position, 10 * i + step);
      EXPECT_EQ(input.samples[i].position, 10 * i + step + 1);
    }
    EXPECT_EQ(input.sequences[0].num_rows, 1);
    EXPECT_EQ(input.sequences[1].num_rows, step < 1 ? 1 : 0);
    EXPECT_EQ(input.sequences[2].num_rows, step < 3 ? 1 : 0);
  }
}

TEST_F(HostLaunchTest, TellsTheStopIdsOfEachSequence) {
  const std::vector<int32_t> ids = {7, 8, 9};
  Build({1, 2, 3}, 2,
        {{.num_steps = 2, .stop_ids = absl::MakeConstSpan(ids).subspan(1)},
         {.num_steps = 2},
         {.num_steps = 2, .stop_ids = ids}});
  EXPECT_THAT(absl::MakeSpan(Ends().stop_begin, 4), ElementsAre(0, 2, 2, 5));
  EXPECT_THAT(absl::MakeSpan(Ends().stop_ids, 5), ElementsAre(8, 9, 7, 8, 9));
}

TEST_F(HostLaunchTest, WhatTheLaunchBeforeChoseMayHaveEndedASequence) {
  Build({1, 2, 3}, 1);
  EXPECT_FALSE(step_.asks_for_ends());
  Build({ChosenBy(2), 5, ChosenBy(0)}, 2);
  EXPECT_TRUE(step_.asks_for_ends());
  EXPECT_THAT(absl::MakeSpan(Ends().before, 3), ElementsAre(-1, -1, -1));
  Build({ChosenBy(2), 5, ChosenBy(0)}, 2);
  EXPECT_THAT(absl::MakeSpan(Ends().before, 3), ElementsAre(2, -1, 0));
  Build({ChosenBy(1), 5, ChosenBy(0)}, 1);
  EXPECT_TRUE(step_.asks_for_ends());
  EXPECT_THAT(absl::MakeSpan(Ends().before, 3), ElementsAre(1, -1, 0));
  Build({ChosenBy(2), 5, ChosenBy(0)}, 1);
  EXPECT_FALSE(step_.asks_for_ends());
}

}  // namespace
}  // namespace ttt
