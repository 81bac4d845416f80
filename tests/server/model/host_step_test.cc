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

}  // namespace
}  // namespace ttt
