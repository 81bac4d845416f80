// The fast draw is the defined one, also where rounding would decide.
#include "kernels/cpu/sample_draw.h"

#include <gtest/gtest.h>

#include <random>

namespace ttt {
namespace {

// Two tokens of weight 1, and `n` after them that are lost when they are added
// to 2 one by one, and not when they are added to each other first.
std::vector<float> TwoAndDust(int32_t n) {
  std::vector<float> weights(2 + n, 1e-17f);
  weights[0] = weights[1] = 1.0f;
  return weights;
}

TEST(SampleDrawTest, WhereRoundingWouldDecideTheSumInOrderDoes) {
  const std::vector<float> weights = TwoAndDust(1 << 15);
  const auto n = static_cast<int32_t>(weights.size());
  std::vector<double> block_sums;
  // Just below the half of the total in order, and above that by blocks.
  const double random = 0.5 - 0x1p-54;
  EXPECT_EQ(DrawInOrder(random, weights.data(), n), 0);
  EXPECT_EQ(Draw(random, weights.data(), n, block_sums), 0);
}

TEST(SampleDrawTest, IsTheDrawInOrder) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> value(0.0f, 1.0f);
  std::vector<double> block_sums;
  for (int i = 0; i < 2000; ++i) {
    const auto n = static_cast<int32_t>(1 + random() % 1500);
    std::vector<float> weights(n);
    for (float& weight : weights) {
      weight = random() % 3 == 0 ? 0.0f : value(random);
    }
    weights[random() % n] = 1.0f;
    const double at = value(random) * (1 - 0x1p-24);
    EXPECT_EQ(Draw(at, weights.data(), n, block_sums),
              DrawInOrder(at, weights.data(), n));
  }
}

}  // namespace
}  // namespace ttt
