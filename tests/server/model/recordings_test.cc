// Steps of sizes that come again are recorded once; those that come rarely make
// room for others.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/late_backend.h"
#include "tests/support/model_fixture.h"

namespace ttt {
namespace {

// With and without candidates more sizes than a model keeps recordings of.
constexpr int kRows = 200;
constexpr int kSizes = 2 * kRows;

class CountingBackend : public LateBackend {
 public:
  using LateBackend::LateBackend;
  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override {
    ++num_records;
    return LateBackend::Record(work);
  }
  int num_records = 0;
};

// A model, and steps of it.
class Steps {
 public:
  Steps(const ModelConfig& config, Backend* backend) {
    const TttModel::Limits limits = {kRows, kRows, 1};
    model_ = TttModel::Load(config, MakeDummyCheckpoint(config).get(), limits,
                            backend)
                 .value();
    pool_ =
        StatePool::Create(
            {.session_slots = 1, .scratch_slots = kRows},
            TttModel::MakeStateLayout(config, backend->state_forms()), backend)
            .value();
    for (int i = 0; i < kRows; ++i) {
      slots_.push_back(pool_->AcquireSlot().value());
    }
  }

  // What a step of size 0 .. kSizes - 1 chooses.
  std::vector<int32_t> Step(int size) {
    const int32_t token = 5;
    const SamplingParams greedy;
    std::vector<StepSequence> sequences;
    std::vector<LogitsRequest> requests;
    for (int i = 0; i <= size % kRows; ++i) {
      const int32_t slot = slots_[i].index();
      TTT_CHECK(model_->InitState(*pool_, slot).ok());
      sequences.push_back({slot, 0, absl::MakeConstSpan(&token, 1)});
      requests.push_back({.sequence = i,
                          .row = 0,
                          .num_candidates = size / kRows,
                          .sampling = &greedy});
    }
    const StepResult result = model_->Step(*pool_, sequences, requests).value();
    std::vector<int32_t> chosen;
    for (const auto& logits : result.logits) chosen.push_back(logits.token_id);
    return chosen;
  }

 private:
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::vector<StateSlot> slots_;
};

class RecordingsTest : public testing::Test {
 protected:
  std::vector<int32_t> Step(int size) { return steps_.Step(size); }

  const std::unique_ptr<Backend> device_ = CreateTestBackend({});
  CountingBackend backend_{device_.get()};
  Steps steps_{[] {
                 ModelConfig config = SmallConfig();
                 config.num_hidden_layers = 1;
                 return config;
               }(),
               &backend_};
};

TEST_F(RecordingsTest, OfSizesLongNotSeenAreForgottenAndMadeAnew) {
  const std::vector<int32_t> first = Step(0);
  for (int size = 1; size < kSizes; ++size) Step(size);
  EXPECT_EQ(backend_.num_records, kSizes);
  Step(kSizes - 1);
  EXPECT_EQ(backend_.num_records, kSizes) << "the last is still there";
  EXPECT_EQ(Step(0), first);
  EXPECT_EQ(backend_.num_records, kSizes + 1) << "the first was forgotten";
  Step(kSizes - 1);
  EXPECT_EQ(Step(0), first);
  EXPECT_EQ(backend_.num_records, kSizes + 1);
}

TEST_F(RecordingsTest, OneThatIsRunNowAndThenStays) {
  for (int size = 0; size < kSizes; ++size) {
    Step(size);
    if (size % 100 == 0) Step(0);
  }
  EXPECT_EQ(backend_.num_records, kSizes);
  Step(0);
  EXPECT_EQ(backend_.num_records, kSizes);
}

class RecordingsMemoryTest : public testing::TestWithParam<TestDevice> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RecordingsMemoryTest);

TEST_P(RecordingsMemoryTest, AsManyAsAreKeptFitTheReserve) {
  // As many layers, so as many launches a step, as the largest published model.
  ModelConfig config = SmallConfig();
  config.num_hidden_layers = 24;
  config.hidden_size = 128;
  config.intermediate_size = 192;
  const std::unique_ptr<Backend> backend = CreateTestBackend(
      {.device = GetParam(), .precision = Precision::kBFloat16});
  Steps steps(config, backend.get());
  const auto free_bytes = [&] { return *backend->FreeBytes().value(); };
  steps.Step(0);
  const int64_t before = free_bytes();
  for (int size = 1; size < kSizes; ++size) steps.Step(size);
  const int64_t taken = before - free_bytes();
  RecordProperty("bytes", std::to_string(taken));
  EXPECT_LE(taken, backend->overhead().reserve_bytes);
  EXPECT_GE(backend->counts().recordings_run, kSizes);
}

INSTANTIATE_TEST_SUITE_P(Devices, RecordingsMemoryTest,
                         testing::ValuesIn(HasCuda()
                                               ? std::vector{TestDevice::kCuda}
                                               : std::vector<TestDevice>()),
                         [](const auto& info) {
                           return TestDeviceName(info.param);
                         });

}  // namespace
}  // namespace ttt
