#include "tests/bench/op_cost.h"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"

namespace ttt {
namespace {

LearnerArgs LinearLearner() {
  LearnerArgs args = {};
  args.num_heads = 3;
  args.head_dim = 64;
  args.mini_batch = 16;
  return args;
}

OpCost CostOfRow(const LearnerArgs& args, int64_t position) {
  const SequenceRows row = {0, 1, 0, position};
  return CostOf(args, absl::MakeConstSpan(&row, 1));
}

TEST(OpCostTest, GemmReadsItsWeightsOnceWhateverTheRows) {
  const auto backend = CreateCpuBackend({.num_threads = 1}).value();
  const std::vector<float> values(64 * 32, 1.0f);
  const auto weights = backend->PackWeights(values.data(), 64, 32).value();
  GemmArgs args = {};
  args.weights = weights.get();
  args.num_rows = 1;
  const OpCost one = CostOf(args);
  args.num_rows = 5;
  const OpCost five = CostOf(args);
  EXPECT_DOUBLE_EQ(one.flops, 2.0 * 64 * 32);
  EXPECT_DOUBLE_EQ(five.flops, 5 * one.flops);
  EXPECT_DOUBLE_EQ(five.bytes - one.bytes, 4 * (32 + 64) * 4.0);
}

TEST(OpCostTest, LearnerRowCostsMoreTheMoreRowsArePending) {
  const LearnerArgs args = LinearLearner();
  EXPECT_LT(CostOfRow(args, 32).flops, CostOfRow(args, 40).flops);
  EXPECT_LT(CostOfRow(args, 32).bytes, CostOfRow(args, 40).bytes);
}

TEST(OpCostTest, LearnerWritesItsWeightsAtTheEndOfAMiniBatchOnly) {
  const LearnerArgs args = LinearLearner();
  const double weights = 3 * (64 * 64 + 64) * 4.0;
  EXPECT_LT(CostOfRow(args, 46).bytes, 2 * weights);
  EXPECT_GT(CostOfRow(args, 47).bytes, 2 * weights);
}

TEST(OpCostTest, LearnerReadsTheHighHalvesAloneUntilItCommits) {
  LearnerArgs args = LinearLearner();
  args.keys.type = DType::kBFloat16;
  const double matrices = 3 * 64 * 64 * 4.0;
  EXPECT_LT(CostOfRow(args, 46).bytes, matrices);
  EXPECT_GT(CostOfRow(args, 47).bytes, 2 * matrices);
}

TEST(OpCostTest, LearnerCostDependsOnThePlaceInTheMiniBatchAlone) {
  const LearnerArgs args = LinearLearner();
  EXPECT_DOUBLE_EQ(CostOfRow(args, 5).flops, CostOfRow(args, 1600005).flops);
}

TEST(OpCostTest, LearnerCostOfAPromptIsTheSumOfItsMiniBatches) {
  const LearnerArgs args = LinearLearner();
  const SequenceRows whole = {0, 40, 0, 8};
  const SequenceRows parts[] = {{0, 8, 0, 8}, {8, 16, 1, 16}, {24, 16, 2, 32}};
  EXPECT_DOUBLE_EQ(CostOf(args, absl::MakeConstSpan(&whole, 1)).flops,
                   CostOf(args, parts).flops);
}

TEST(OpCostTest, DigestCountsTheValidPendingRowsOnly) {
  const DigestPlane plane = {0, 2, 15 * 4, 4, true};
  const int64_t positions[] = {19};
  DigestStatesArgs args = {};
  args.positions = positions;
  args.planes = &plane;
  args.num_planes = 1;
  args.batch = 1;
  args.mini_batch = 16;
  EXPECT_DOUBLE_EQ(CostOf(args).bytes, 2 * 3 * 4 * 4.0);
}

}  // namespace
}  // namespace ttt
