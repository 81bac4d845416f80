// The cut of top-p where rounding would decide it.
#include "kernels/cpu/sample_top_p.h"

#include <gtest/gtest.h>

namespace ttt {
namespace {

// Two best tokens of weight 1, and many whose weights are lost when they are
// added to 2 one by one, as the definition does, and not when they are added to
// each other first, as bins do.
std::vector<float> TwoAndDust() {
  std::vector<float> logits(1 << 15, -43.0f);
  logits[0] = logits[1] = 0.0f;
  return logits;
}

SampleRow HalfOf(uint64_t seed) {
  return {.given_token = kSampleToken,
          .slot = -1,
          .position = 0,
          .seed = seed,
          .temperature = 1.0f,
          .top_k = 0,
          .top_p = 0.5f,
          .min_p = 0.0f,
          .repetition_penalty = 1.0f,
          .presence_penalty = 0.0f,
          .frequency_penalty = 0.0f,
          .bias_begin = 0,
          .bias_end = 0,
          .num_candidates = 0};
}

// The first token has half of the total, as it is defined: the second is never
// drawn.
TEST(SampleTopPTest, WhereRoundingWouldDecideTheSumInOrderDoes) {
  std::vector<float> logits = TwoAndDust();
  SampleScratch scratch;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const SampleRow row = HalfOf(seed);
    int32_t token = kNoToken;
    float logprob = 0.0f;
    uint8_t finite = 0;
    SampleTokensArgs args = {};
    args.logits = logits.data();
    args.samples = &row;
    args.token_ids = &token;
    args.logprobs = &logprob;
    args.finite = &finite;
    args.num_rows = 1;
    args.vocab_size = static_cast<int32_t>(logits.size());
    SampleRowToken(args, 0, kReferenceSampleMath, scratch);
    EXPECT_EQ(token, 0) << seed;
  }
}

TEST(SampleTopPTest, AClearCutIsMadeAndATieIsLeftToTheSort) {
  SampleScratch scratch;
  scratch.logits = {0.0f, -1.0f, -2.0f, -3.0f};
  scratch.weights = {1.0f, 0.5f, 0.25f, 0.25f};
  // 1.0 is the half: a tie.
  EXPECT_FALSE(DropByTopP(HalfOf(0), 4, 0.0f, scratch));
  SampleRow row = HalfOf(0);
  row.top_p = 0.6f;
  EXPECT_TRUE(DropByTopP(row, 4, 0.0f, scratch));
  EXPECT_EQ(scratch.weights, (std::vector<float>{1.0f, 0.5f, 0.0f, 0.0f}));
}

}  // namespace
}  // namespace ttt
