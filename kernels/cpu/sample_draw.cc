#include "kernels/cpu/sample_draw.h"

#include <algorithm>

#include "kernels/cpu/sample_sums.h"

namespace ttt {
namespace {

double SumOfBlock(const float* weights, int32_t n) {
  constexpr int32_t kLanes = 8;  // An addition waits for the last in its lane.
  double lanes[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += weights[i + lane];
    }
  }
  for (int32_t lane = 0; i < n; ++i, ++lane) lanes[lane] += weights[i];
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

int32_t DrawInOrder(double random, const float* weights, int32_t n) {
  double total = 0.0;
  for (int32_t i = 0; i < n; ++i) total += weights[i];
  const double wanted = random * total;
  double sum = 0.0;
  int32_t last = 0;
  for (int32_t i = 0; i < n; ++i) {
    if (weights[i] == 0.0f) continue;
    sum += weights[i];
    last = i;
    if (sum > wanted) break;
  }
  return last;
}

int32_t Draw(double random, const float* weights, int32_t n,
             std::vector<double>& block_sums) {
  constexpr int32_t kBlock = 256;
  block_sums.clear();
  double total = 0.0;
  for (int32_t begin = 0; begin < n; begin += kBlock) {
    block_sums.push_back(
        SumOfBlock(weights + begin, std::min(kBlock, n - begin)));
    total += block_sums.back();
  }
  const double wanted = random * total;
  const double slack = SlackOf(total, n);
  double sum = 0.0;
  size_t block = 0;
  while (block + 1 < block_sums.size() && sum + block_sums[block] <= wanted) {
    sum += block_sums[block++];
  }
  // If rounding chose the wrong block, the sum is near `wanted` at its end, and
  // the test below fails.
  const int32_t begin = int32_t(block) * kBlock;
  const int32_t end = std::min(n, begin + kBlock);
  for (int32_t id = begin; id < end; ++id) {
    const double before = sum;
    sum += weights[id];
    if (sum <= wanted) continue;
    if (before < wanted - slack && sum > wanted + slack) return id;
    break;
  }
  return DrawInOrder(random, weights, n);
}

}  // namespace ttt
