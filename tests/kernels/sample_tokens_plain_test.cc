// SampleRowToken chooses as a plain version does, which sorts everything: the
// same token for every seed, to the last bit of every weight.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/sample_tokens.h"
#include "kernels/cpu/vector_ops.h"

namespace ttt {
namespace {

using Floats = std::vector<float>;

std::vector<int32_t> BestFirst(const Floats& values) {
  std::vector<int32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  return ids;
}

// Steps 4 to 8 of SampleRowToken over logits that have their biases.
int32_t PlainToken(const SampleRow& row, const Floats& logits,
                   const SampleMath& math) {
  const int32_t n = int32_t(logits.size());
  const std::vector<int32_t> ids = BestFirst(logits);
  const int32_t best = ids[0];
  if (row.temperature == 0.0f || !std::isfinite(logits[best])) return best;
  Floats all(n);
  math.exp_scaled(logits.data(), logits[best], row.temperature, all.data(), n);
  Floats weights(n);
  const bool has_top_k = row.top_k > 0 && row.top_k < n;
  const int32_t limit = has_top_k ? row.top_k : n;
  double total = 0.0;
  for (int32_t i = 0; i < limit; ++i) total += all[has_top_k ? ids[i] : i];
  double sum = 0.0;
  for (int32_t i = 0; i < limit; ++i) {
    weights[ids[i]] = all[ids[i]];
    sum += all[ids[i]];
    if (row.top_p < 1.0f && sum >= row.top_p * total) break;
  }
  total = 0.0;
  for (float& weight : weights) {
    if (weight < row.min_p * all[best]) weight = 0.0f;
    total += weight;
  }
  const double wanted = UniformOf(row.seed, row.position) * total;
  sum = 0.0;
  int32_t last = 0;
  for (int32_t id = 0; id < n; ++id) {
    if (weights[id] == 0.0f) continue;
    sum += weights[id];
    last = id;
    if (sum > wanted) break;
  }
  return last;
}

// Logits of many shapes: flat, steep, of few values, all equal, far apart.
Floats MakeLogits(std::mt19937& random, int32_t n) {
  const int shape = int(random() % 7);
  std::normal_distribution<float> normal(0.0f, shape == 1 ? 8.0f : 2.0f);
  std::uniform_real_distribution<float> uniform(-8.0f, 8.0f);
  Floats logits(n);
  for (float& logit : logits) {
    logit = shape < 3 ? normal(random) : uniform(random);
    if (shape == 2) logit = std::round(logit);
    if (shape == 3) logit = 1.5f;
    if (shape == 4) logit *= 40.0f;
    if (shape == 5) logit = 3.0f + 1e-6f * logit;
    if (shape == 6) logit = logit < 0 ? -0.0f : 0.0f;
  }
  return logits;
}

template <typename T>
T OneOf(std::mt19937& random, const std::vector<T>& values) {
  return values[random() % values.size()];
}

SampleRow MakeRow(std::mt19937& random) {
  return {.given_token = kSampleToken,
          .slot = -1,
          .position = int64_t(random() % 5000),
          .seed = random(),
          .temperature = OneOf<float>(
              random, {0.0f, 1e-30f, 0.05f, 0.5f, 0.8f, 1.0f, 3.0f, 1e37f}),
          .top_k = OneOf<int32_t>(random, {0, 0, 0, 1, 2, 50, 300, 5000}),
          .top_p = OneOf<float>(random, {1.0f, 1e-6f, 0.25f, 0.5f, 0.9f, 0.95f,
                                         0.999f, std::nextafter(1.0f, 0.0f)}),
          .min_p = OneOf<float>(random, {0.0f, 0.0f, 0.01f, 0.3f, 1.0f}),
          .repetition_penalty = 1.0f,
          .presence_penalty = 0.0f,
          .frequency_penalty = 0.0f,
          .bias_begin = 0,
          .bias_end = 0,
          .num_candidates = 0};
}

struct Biases {
  std::vector<int32_t> ids;
  Floats values;
};

Biases MakeBiases(std::mt19937& random, int32_t n) {
  Biases biases;
  const int count = OneOf<int>(random, {0, 0, 1, 5, n});
  for (int i = 0; i < count; ++i) {
    biases.ids.push_back(int32_t(random() % n));
    biases.values.push_back(OneOf<float>(random, {-INFINITY, -1.0f, 2.0f}));
  }
  return biases;
}

void ExpectThePlainChoices(const SampleMath& math) {
  std::mt19937 random(7);
  SampleScratch scratch;
  for (int round = 0; round < 3000; ++round) {
    const int32_t n = OneOf<int32_t>(
        random, {1, 2, 3, 17, 64, 257, 1000, round % 4 == 0 ? 8003 : 500});
    Floats logits = MakeLogits(random, n);
    const Biases biases = MakeBiases(random, n);
    SampleRow row = MakeRow(random);
    row.bias_end = int32_t(biases.ids.size());
    row.num_candidates = std::min(n, OneOf<int32_t>(random, {0, 1, 7, 900}));
    std::vector<int32_t> candidates(n, -9);
    Floats candidate_logprobs(n);
    int32_t token = -9;
    float logprob = 0.0f;
    uint8_t finite = 0;
    SampleTokensArgs args = {};
    args.logits = logits.data();
    args.samples = &row;
    args.bias_ids = biases.ids.data();
    args.bias_values = biases.values.data();
    args.token_ids = &token;
    args.logprobs = &logprob;
    args.candidate_ids = candidates.data();
    args.candidate_logprobs = candidate_logprobs.data();
    args.finite = &finite;
    args.num_rows = 1;
    args.vocab_size = n;
    args.max_candidates = n;
    SampleRowToken(args, 0, math, scratch);

    const std::vector<int32_t> ids = BestFirst(logits);
    ASSERT_TRUE(std::equal(ids.begin(), ids.begin() + row.num_candidates,
                           candidates.begin()))
        << round;
    for (size_t i = 0; i < biases.ids.size(); ++i) {
      logits[biases.ids[i]] += biases.values[i];
    }
    ASSERT_EQ(token, PlainToken(row, logits, math))
        << "round " << round << ", " << n << " tokens, temperature "
        << row.temperature << ", top_k " << row.top_k << ", top_p " << row.top_p
        << ", min_p " << row.min_p;
  }
}

TEST(SampleRowTokenTest, ChoosesAsThePlainVersionDoes) {
  ExpectThePlainChoices(kReferenceSampleMath);
}

TEST(SampleRowTokenTest, ChoosesAsThePlainVersionDoesWithVectors) {
  ExpectThePlainChoices(sse2::kVectorOps.sample_math);
}

}  // namespace
}  // namespace ttt
