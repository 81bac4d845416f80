#include "tests/bench/engine_arms.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace ttt {
namespace {

using Sequence = EngineWorkload::Sequence;

class EngineArmsTest : public testing::Test {
 protected:
  EngineArmsTest()
      : cpu_(CreateCpuBackend({.num_threads = 1}).value()),
        backend_(cpu_.get()),
        workload_(
            EngineWorkload::Create({.model_dir = std::string(TTT_SOURCE_DIR) +
                                                 "/models/ttt-linear-14m-books",
                                    .is_dummy = true,
                                    .max_rows = 64,
                                    .max_sequences = 5,
                                    .num_slots = 5},
                                   &backend_)
                .value()) {}

  // How many steps of the model `arm` takes for one token of each.
  int StepsOf(Arm arm) {
    std::vector<Sequence> sequences;
    EXPECT_TRUE(StartArm(*workload_, arm, 5, sequences).ok());
    backend_.StartRecording();
    EXPECT_TRUE(StepArm(*workload_, arm, sequences).ok());
    int steps = 0;
    for (const OpCall& call : backend_.StopRecording()) {
      steps += call.kind == OpKind::kEmbedTokens;
    }
    return steps;
  }

  std::unique_ptr<Backend> cpu_;
  TimingBackend backend_;
  std::unique_ptr<EngineWorkload> workload_;
};

TEST_F(EngineArmsTest, EachArmTakesItsSteps) {
  EXPECT_EQ(StepsOf(Arm::kSequential), 5);
  EXPECT_EQ(StepsOf(Arm::kPhaseLocked), 1);
  EXPECT_EQ(StepsOf(Arm::kRagged), 1);
  int grouped = 0;
  std::vector<Sequence> sequences;
  ASSERT_TRUE(StartArm(*workload_, Arm::kGrouped, 5, sequences).ok());
  backend_.StartRecording();
  for (int i = 0; i < workload_->config().mini_batch_size; ++i) {
    ASSERT_TRUE(StepArm(*workload_, Arm::kGrouped, sequences).ok());
  }
  for (const OpCall& call : backend_.StopRecording()) {
    grouped += call.kind == OpKind::kEmbedTokens;
  }
  // Each of the five streams ends its mini-batch in a step of its own.
  EXPECT_EQ(grouped, workload_->config().mini_batch_size + 5);
}

TEST_F(EngineArmsTest, EveryArmMovesEachStreamByOneToken) {
  for (const Arm arm : kArms) {
    std::vector<Sequence> sequences;
    ASSERT_TRUE(StartArm(*workload_, arm, 3, sequences).ok());
    const std::vector<Sequence> before = sequences;
    ASSERT_TRUE(StepArm(*workload_, arm, sequences).ok());
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(sequences[i].position, before[i].position + 1) << ArmName(arm);
      EXPECT_EQ(sequences[i].slot, before[i].slot);
    }
  }
}

TEST_F(EngineArmsTest, TheDigestsAreThoseOfTheStreamsAlone) {
  const absl::Status status = CheckArms(*workload_, 5);
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace ttt
