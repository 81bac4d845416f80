// Steps of sizes that come again are recorded once; those that come rarely make
// room for others.
#include <gtest/gtest.h>

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

class RecordingsTest : public testing::Test {
 protected:
  RecordingsTest() {
    const TttModel::Limits limits = {kRows, kRows, 1};
    model_ = TttModel::Load(config_, MakeDummyCheckpoint(config_).get(), limits,
                            &backend_)
                 .value();
    pool_ = StatePool::Create(
                {.session_slots = 1, .scratch_slots = kRows},
                TttModel::MakeStateLayout(config_, backend_.state_forms()),
                &backend_)
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

  const ModelConfig config_ = [] {
    ModelConfig config = SmallConfig();
    config.num_hidden_layers = 1;
    return config;
  }();
  const std::unique_ptr<Backend> device_ = CreateTestBackend({});
  CountingBackend backend_{device_.get()};
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::vector<StateSlot> slots_;
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

}  // namespace
}  // namespace ttt
