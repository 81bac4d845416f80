#include "client/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "client/text.h"

namespace ttt::bench {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::Ge;
using ::testing::Le;
using ::testing::Ne;

v1::ServerInfo::Model Model(int32_t vocab_size) {
  v1::ServerInfo::Model model;
  model.set_vocab_size(vocab_size);
  model.set_bos_token_id(1);
  model.set_eos_token_id(2);
  return model;
}

Options MixedOptions(uint64_t seed) {
  Options options;
  options.seed = seed;
  options.turns = 4;
  options.input_tokens = Length::Parse("16:256", 1).value();
  options.output_tokens = Length::Parse("lognormal:64:0.8:512", 0).value();
  options.cancel_fraction = 0.25;
  options.slow_reader_fraction = 0.5;
  options.think = absl::Seconds(2);
  options.think_exponential = true;
  return options;
}

bool Same(const TurnPlan& a, const TurnPlan& b) {
  return a.input_tokens == b.input_tokens &&
         a.output_tokens == b.output_tokens && a.cancelled == b.cancelled &&
         a.cancel_after_tokens == b.cancel_after_tokens &&
         a.cancel_after == b.cancel_after && a.slow_reader == b.slow_reader &&
         a.think == b.think;
}

TEST(ArrivalsTest, GapsAreExponentialAndOfTheRate) {
  Arrivals arrivals(7, 50.0);
  constexpr int kCount = 20000;
  double last = 0;
  double sum = 0;
  double squares = 0;
  int longer_than_mean = 0;
  for (int i = 0; i < kCount; ++i) {
    const double gap = arrivals.next_seconds() - last;
    ASSERT_GE(gap, 0);
    last = arrivals.next_seconds();
    sum += gap;
    squares += gap * gap;
    longer_than_mean += gap > 1.0 / 50;
    arrivals.Advance();
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean, 1.0 / 50, 0.03 / 50);
  // The deviation of an exponential is its mean, and 1/e of it is beyond.
  EXPECT_NEAR(std::sqrt(squares / kCount - mean * mean), mean, 0.05 * mean);
  EXPECT_NEAR(longer_than_mean / double{kCount}, std::exp(-1.0), 0.015);
}

TEST(ArrivalsTest, SameSeedIsTheSameTimes) {
  Arrivals one(7, 50.0), same(7, 50.0), other(8, 50.0);
  EXPECT_EQ(one.next_seconds(), same.next_seconds());
  EXPECT_NE(one.next_seconds(), other.next_seconds());
}

TEST(WorkloadTest, SameSeedIsTheSameWorkloadInAnyOrder) {
  const Options options = MixedOptions(3);
  const Workload one(options, Model(512)), same(options, Model(512));
  std::vector<TurnPlan> plans;
  for (int session = 0; session < 50; ++session) {
    for (int turn = 0; turn < 4; ++turn) {
      plans.push_back(one.Plan(session, turn));
    }
  }
  for (int session = 49; session >= 0; --session) {
    for (int turn = 3; turn >= 0; --turn) {
      const TurnPlan& plan = plans[session * 4 + turn];
      EXPECT_TRUE(Same(same.Plan(session, turn), plan));
      EXPECT_EQ(one.InputIds(session, turn, plan.input_tokens),
                same.InputIds(session, turn, plan.input_tokens));
    }
  }
}

TEST(WorkloadTest, AnotherSeedSessionOrTurnIsAnotherInput) {
  const Options options = MixedOptions(3), other = MixedOptions(4);
  const Workload workload(options, Model(4096));
  const std::vector<int32_t> ids = workload.InputIds(5, 1, 64);
  EXPECT_THAT(workload.InputIds(5, 2, 64), Ne(ids));
  EXPECT_THAT(workload.InputIds(1, 5, 64), Ne(ids));
  EXPECT_THAT(Workload(other, Model(4096)).InputIds(5, 1, 64), Ne(ids));
}

TEST(WorkloadTest, PlansKeepTheRangesAndShares) {
  const Options options = MixedOptions(3);
  const Workload workload(options, Model(512));
  constexpr int kCount = 20000;
  int cancelled = 0;
  int slow = 0;
  int above_median = 0;
  double inputs = 0;
  absl::Duration think;
  for (int session = 0; session < kCount; ++session) {
    const TurnPlan plan = workload.Plan(session, 1);
    ASSERT_THAT(plan.input_tokens, AllOf(Ge(16), Le(256)));
    ASSERT_THAT(plan.output_tokens, AllOf(Ge(1), Le(512)));
    ASSERT_THAT(plan.cancel_after_tokens, AllOf(Ge(0), Le(plan.output_tokens)));
    ASSERT_FALSE(plan.cancelled && plan.slow_reader);
    cancelled += plan.cancelled;
    slow += plan.slow_reader;
    inputs += static_cast<double>(plan.input_tokens);
    above_median += plan.output_tokens > 64;
    think += plan.think;
  }
  EXPECT_NEAR(cancelled / double{kCount}, 0.25, 0.015);
  EXPECT_NEAR(slow / double{kCount}, 0.75 * 0.5, 0.015);
  EXPECT_NEAR(inputs / kCount, 136, 2);
  EXPECT_NEAR(above_median / double{kCount}, 0.5, 0.02);
  EXPECT_NEAR(absl::ToDoubleSeconds(think) / kCount, 2.0, 0.06);
}

TEST(WorkloadTest, FirstTurnWaitsForNoThought) {
  const Options options = MixedOptions(3);
  EXPECT_EQ(Workload(options, Model(512)).Plan(0, 0).think,
            absl::ZeroDuration());
}

TEST(WorkloadTest, InputIsDrawnFromTheVocabularyWithoutItsMarks) {
  const Options options = MixedOptions(3);
  const Workload workload(options, Model(8));
  EXPECT_THAT(workload.InputIds(0, 0, 2000),
              Each(AllOf(Ge(0), Le(7), Ne(1), Ne(2))));
}

TEST(WorkloadTest, PiecesOfTextAreWholeCharactersOfAboutTheLength) {
  const Options options = MixedOptions(3);
  const Workload workload(options, Model(512), "a\xC3\xA9\xE2\x82\xAC b", 3.0);
  for (int session = 0; session < 200; ++session) {
    const std::string piece = workload.InputText(session, 0, 10);
    EXPECT_FALSE(InvalidUtf8Position(piece).has_value());
    EXPECT_GE(piece.size(), 30);
    EXPECT_LE(piece.size(), 32);
  }
}

TEST(WorkloadTest, GreedyRequestsCarryNoSeedAndIgnoreEndOfText) {
  Options options = MixedOptions(3);
  const Workload workload(options, Model(512));
  v1::CompleteRequest request;
  workload.FillRequest(workload.Plan(0, 0), 0, 0, &request);
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_TRUE(request.stop().ignore_eos());
  options.temperature = 0.5;
  workload.FillRequest(workload.Plan(0, 0), 0, 0, &request);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_TRUE(request.sampling().has_seed());
}

}  // namespace
}  // namespace ttt::bench
