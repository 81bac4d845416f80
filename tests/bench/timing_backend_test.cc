#include "tests/bench/timing_backend.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "kernels/cpu/cpu_backend.h"
#include "tests/bench/engine_cases.h"
#include "tests/bench/engine_workload.h"

namespace ttt {
namespace {

class TimingBackendTest : public testing::Test {
 protected:
  TimingBackendTest()
      : cpu_(CreateCpuBackend({.num_threads = 1}).value()),
        backend_(cpu_.get()),
        workload_(
            EngineWorkload::Create({.model_dir = std::string(TTT_SOURCE_DIR) +
                                                 "/models/ttt-linear-14m-books",
                                    .is_dummy = true,
                                    .max_rows = 64,
                                    .max_sequences = 2,
                                    .num_slots = 2},
                                   &backend_)
                .value()) {}

  std::unique_ptr<Backend> cpu_;
  TimingBackend backend_;
  std::unique_ptr<EngineWorkload> workload_;
};

TEST_F(TimingBackendTest, StepsForkAndDigestRecordEveryKindOfOp) {
  std::vector<EngineWorkload::Sequence> sequences = {{0, 3, 0}};
  ASSERT_TRUE(workload_->Restart(0, 0).ok());
  backend_.StartRecording();
  ASSERT_TRUE(workload_->Step(sequences).ok());
  sequences[0].tokens = 1;
  ASSERT_TRUE(workload_->Step(sequences, /*num_steps=*/2).ok());
  ASSERT_TRUE(workload_->Fork(1, 0).ok());
  ASSERT_TRUE(workload_->Digest({0}, 5).ok());
  std::set<OpKind> kinds;
  for (const OpCall& call : backend_.StopRecording()) kinds.insert(call.kind);
  // A step has it within a product.
  EXPECT_TRUE(kinds.insert(OpKind::kSwiGlu).second);
  EXPECT_EQ(kinds,
            std::set<OpKind>(std::begin(kAllOpKinds), std::end(kAllOpKinds)));
}

TEST_F(TimingBackendTest, RecordsNothingUnlessAsked) {
  ASSERT_TRUE(workload_->Restart(0, 5).ok());
  EXPECT_TRUE(backend_.StopRecording().empty());
}

TEST_F(TimingBackendTest, GemmsOfADecodeStepReadTheStreamedWeights) {
  std::vector<EngineWorkload::Sequence> sequences = {{0, 1, 16}};
  ASSERT_TRUE(workload_->Restart(0, 16).ok());
  backend_.StartRecording();
  ASSERT_TRUE(workload_->Step(sequences).ok());
  double bytes = 0;
  for (const OpCall& call : backend_.StopRecording()) {
    if (call.kind == OpKind::kGemm) bytes += call.cost.bytes;
  }
  EXPECT_NEAR(bytes / workload_->streamed_bytes(), 1.0, 0.02);
}

TEST_F(TimingBackendTest, DecodeRoundIsOneMiniBatchWithEachPhaseOnce) {
  const BenchCase decode = DecodeCase(*workload_, 2);
  EXPECT_EQ(decode.operations, workload_->config().mini_batch_size);
  ASSERT_TRUE(decode.prepare().ok());
  backend_.StartRecording();
  for (int32_t i = 0; i < decode.operations; ++i) {
    ASSERT_TRUE(decode.run().ok());
  }
  double first = 0;
  for (const OpCall& call : backend_.StopRecording()) first += call.cost.flops;
  // Another round, from other phases, comes to the same.
  ASSERT_TRUE(decode.prepare().ok());
  backend_.StartRecording();
  for (int32_t i = 0; i < decode.operations; ++i) {
    ASSERT_TRUE(decode.run().ok());
  }
  double second = 0;
  for (const OpCall& call : backend_.StopRecording()) second += call.cost.flops;
  EXPECT_NEAR(first, second, 1e-9 * first);
}

// Records steps as a GPU does: ops that are called meanwhile do not run.
class RecordingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override {
    if (absl::Status status = work(); !status.ok()) return status;
    return std::make_unique<Recording>();
  }
  absl::Status Run(const Recording& /*recording*/) override {
    ++runs;
    return absl::OkStatus();
  }
  int runs = 0;
};

TEST(TimingBackendRecordingTest, RunsTheTargetsRecordingUnlessItTimes) {
  const auto cpu = CreateCpuBackend({.num_threads = 1}).value();
  RecordingBackend target(cpu.get());
  TimingBackend backend(&target);
  const auto recording =
      backend
          .Record([&] {
            return backend.SwiGlu({.gate_up = nullptr,
                                   .output = {nullptr, DType::kFloat32},
                                   .num_rows = 0,
                                   .inner = 8});
          })
          .value();
  ASSERT_TRUE(backend.Run(*recording).ok());
  EXPECT_EQ(target.runs, 1);
  backend.StartRecording();
  ASSERT_TRUE(backend.Run(*recording).ok());
  const std::vector<OpCall> calls = backend.StopRecording();
  EXPECT_EQ(target.runs, 1);
  ASSERT_EQ(calls.size(), 1);
  EXPECT_EQ(calls[0].kind, OpKind::kSwiGlu);
}

}  // namespace
}  // namespace ttt
