// SampleTokens: the order of its steps, its distribution, and what it reports.
#include "kernels/cpu/sample_tokens.h"

#include <set>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

using testing::Each;
using testing::ElementsAre;

SampleRow Greedy() {
  return {.given_token = kSampleToken,
          .slot = -1,
          .position = 0,
          .seed = 0,
          .temperature = 0.0f,
          .top_k = 0,
          .top_p = 1.0f,
          .min_p = 0.0f,
          .repetition_penalty = 1.0f,
          .presence_penalty = 0.0f,
          .frequency_penalty = 0.0f,
          .bias_begin = 0,
          .bias_end = 0,
          .num_candidates = 0};
}
SampleRow Drawn(float temperature = 1.0f) {
  SampleRow row = Greedy();
  row.temperature = temperature;
  return row;
}

struct Sampled {
  std::vector<int32_t> tokens;
  Floats logprobs;
  std::vector<int32_t> candidates;
  Floats candidate_logprobs;
  std::vector<uint8_t> finite;
};

class SampleTokensTest : public testing::TestWithParam<BackendKind> {
 protected:
  // Samples each row of logits [rows.size(), vocab_size].
  Sampled Run(const Floats& logits, const std::vector<SampleRow>& rows,
              int32_t max_candidates = 0) {
    const int32_t num_rows = int32_t(rows.size());
    Array<float> values(*backend_, logits);
    Array<SampleRow> samples(*backend_, rows);
    Array<int32_t> ids(*backend_, bias_ids_);
    Array<float> biases(*backend_, bias_values_);
    Array<int32_t> ring(*backend_, ring_);
    Array<int32_t> tokens(*backend_, std::vector<int32_t>(num_rows, -99));
    Array<float> logprobs(*backend_, Floats(num_rows, NAN));
    Array<int32_t> candidates(
        *backend_, std::vector<int32_t>(num_rows * max_candidates, -99));
    Array<float> candidate_logprobs(*backend_,
                                    Floats(num_rows * max_candidates, NAN));
    Array<uint8_t> finite(*backend_, std::vector<uint8_t>(num_rows, 99));
    EXPECT_THAT(
        backend_->SampleTokens({.logits = values.data(),
                                .samples = samples.data(),
                                .bias_ids = ids.data(),
                                .bias_values = biases.data(),
                                .ring = ring.Plane(2),
                                .token_ids = tokens.data(),
                                .logprobs = logprobs.data(),
                                .candidate_ids = candidates.data(),
                                .candidate_logprobs = candidate_logprobs.data(),
                                .finite = finite.data(),
                                .num_rows = num_rows,
                                .vocab_size = int32_t(logits.size() / num_rows),
                                .max_candidates = max_candidates}),
        IsOk());
    return {tokens.Read(), logprobs.Read(), candidates.Read(),
            candidate_logprobs.Read(), finite.Read()};
  }
  // Draws from one row of logits at positions 0 .. n - 1.
  std::vector<int32_t> DrawMany(const Floats& logits, SampleRow row, int n) {
    Floats all;
    std::vector<SampleRow> rows;
    for (int i = 0; i < n; ++i) {
      all.insert(all.end(), logits.begin(), logits.end());
      row.position = i;
      rows.push_back(row);
    }
    return Run(all, rows).tokens;
  }
  std::set<int32_t> DrawSet(const Floats& logits, const SampleRow& row) {
    const std::vector<int32_t> tokens = DrawMany(logits, row, 3000);
    return {tokens.begin(), tokens.end()};
  }

  // The token of one row, by plain loops.
  int32_t ReferenceToken(Floats logits, const SampleRow& row) {
    SampleScratch scratch;
    int32_t token = 0;
    float logprob = 0;
    uint8_t finite = 0;
    SampleTokensArgs args = {};
    args.logits = logits.data();
    args.samples = &row;
    args.bias_ids = bias_ids_.data();
    args.bias_values = bias_values_.data();
    args.ring = {reinterpret_cast<std::byte*>(ring_.data()),
                 int64_t{kTokenRingSize} * 4};
    args.token_ids = &token;
    args.logprobs = &logprob;
    args.finite = &finite;
    args.num_rows = 1;
    args.vocab_size = int32_t(logits.size());
    SampleRowToken(args, 0, kReferenceSampleMath, scratch);
    return token;
  }
  // The tokens of rows of logits are the reference's.
  void ExpectReference(const Floats& logits, const std::vector<SampleRow>& rows,
                       const std::string& what) {
    const Sampled sampled = Run(logits, rows);
    const size_t size = logits.size() / rows.size();
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleRow& row = rows[i];
      ASSERT_EQ(sampled.tokens[i],
                ReferenceToken(Part(logits, i * size, size), row))
          << what << ", row " << i << ", temperature " << row.temperature
          << ", top_k " << row.top_k << ", top_p " << row.top_p << ", min_p "
          << row.min_p;
    }
  }

  const std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
  std::vector<int32_t> bias_ids_ = {0};
  Floats bias_values_ = {0.0f};
  std::vector<int32_t> ring_ = std::vector<int32_t>(2 * kTokenRingSize, -7);
};

// log of these probabilities, moved by a constant that must not matter.
Floats LogitsOf(const std::vector<double>& probabilities) {
  Floats logits;
  for (const double p : probabilities) {
    logits.push_back(float(std::log(p)) + 3.0f);
  }
  return logits;
}

TEST_P(SampleTokensTest, GreedyTakesTheLargestAndOfEqualsTheLowestId) {
  const Sampled sampled =
      Run({1, 5, 5, -2, /**/ -3, -4, -0.0f, 0.0f, /**/ 7, 7, 7, 7},
          {Greedy(), Greedy(), Greedy()});
  EXPECT_THAT(sampled.tokens, ElementsAre(1, 2, 0));
  EXPECT_THAT(sampled.finite, Each(1));
}

TEST_P(SampleTokensTest, LogProbabilitiesAreTheModelsOwn) {
  const Floats logits = LogitsOf({0.5, 0.2, 0.25, 0.05});
  bias_ids_ = {3};
  bias_values_ = {100.0f};
  SampleRow biased = Greedy();
  biased.bias_end = 1;
  SampleRow given = Drawn(0.3f);
  given.given_token = 2;
  Floats all = logits;
  all.insert(all.end(), logits.begin(), logits.end());
  const Sampled sampled = Run(all, {biased, given});
  EXPECT_THAT(sampled.tokens, ElementsAre(3, 2));
  EXPECT_NEAR(sampled.logprobs[0], std::log(0.05), 1e-6);
  EXPECT_NEAR(sampled.logprobs[1], std::log(0.25), 1e-6);
}

TEST_P(SampleTokensTest, LogProbabilitiesHoldOverALargeVocabulary) {
  const Floats logits = Random(32000, 1, -10.0f, 10.0f);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double(logit));
  SampleRow given = Greedy();
  given.given_token = 31999;
  const Sampled sampled = Run(logits, {given});
  EXPECT_NEAR(sampled.logprobs[0], logits[31999] - std::log(sum), 2e-6);
}

TEST_P(SampleTokensTest, ReportsCandidatesBestFirst) {
  SampleRow row = Greedy();
  row.given_token = kNoToken;
  row.num_candidates = 3;
  const Sampled sampled = Run(LogitsOf({0.1, 0.3, 0.1, 0.4, 0.1}), {row}, 5);
  EXPECT_THAT(sampled.tokens, ElementsAre(kNoToken));
  EXPECT_THAT(sampled.logprobs, ElementsAre(0.0f));
  EXPECT_THAT(Part(sampled.candidates, 0, 3), ElementsAre(3, 1, 0));
  EXPECT_NEAR(sampled.candidate_logprobs[0], std::log(0.4), 1e-6);
  EXPECT_NEAR(sampled.candidate_logprobs[2], std::log(0.1), 1e-6);
}

TEST_P(SampleTokensTest, ReportsAsManyCandidatesAsTheVocabularyHas) {
  constexpr int kSize = 1000;
  const Floats logits = Random(kSize, 5);
  SampleRow row = Greedy();
  row.num_candidates = kSize;
  const Sampled sampled = Run(logits, {row}, kSize);
  for (int i = 1; i < kSize; ++i) {
    ASSERT_GE(logits[sampled.candidates[i - 1]], logits[sampled.candidates[i]]);
  }
  const std::set<int32_t> ids(sampled.candidates.begin(),
                              sampled.candidates.end());
  EXPECT_EQ(ids.size(), kSize);
  EXPECT_EQ(sampled.tokens[0], sampled.candidates[0]);
}

TEST_P(SampleTokensTest, MarksRowsThatAreNotFinite) {
  // 37: past the vectors' ends.
  for (const int size : {3, 37, 257, 32000, 50257, 60001}) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const int at : {0, 15, 16, 35, 36, size / 2, size - 2, size - 1}) {
        if (at >= size) continue;
        Floats logits = Random(3 * size, 1);
        logits[size + at] = bad;
        const Sampled sampled = Run(logits, {Greedy(), Greedy(), Greedy()});
        ASSERT_THAT(sampled.finite, ElementsAre(1, 0, 1))
            << bad << " at " << at << " of " << size;
        EXPECT_EQ(sampled.tokens[1], kNoToken);
      }
    }
  }
}

TEST_P(SampleTokensTest, FindsTheLargestOfNegativeLogits) {
  const Floats logits = Random(37, 1, -30.0f, -20.0f);
  const Sampled sampled = Run(logits, {Greedy()});
  EXPECT_EQ(sampled.tokens[0],
            std::max_element(logits.begin(), logits.end()) - logits.begin());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double(logit));
  EXPECT_NEAR(sampled.logprobs[0], logits[sampled.tokens[0]] - std::log(sum),
              1e-6);
}

TEST_P(SampleTokensTest, DrawsFromTheDistribution) {
  const std::vector<double> probabilities = {0.5, 0.05, 0.25, 0.15, 0.05};
  constexpr int kDraws = 20000;
  std::vector<int> counts(5);
  for (const int32_t token :
       DrawMany(LogitsOf(probabilities), Drawn(), kDraws)) {
    ++counts[token];
  }
  for (int id = 0; id < 5; ++id) {
    const double p = probabilities[id];
    // Five standard deviations; the seed is fixed.
    EXPECT_NEAR(counts[id], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)));
  }
}

TEST_P(SampleTokensTest, TemperatureSharpens) {
  constexpr int kDraws = 20000;
  int count = 0;
  for (const int32_t token :
       DrawMany(LogitsOf({0.2, 0.8}), Drawn(0.5f), kDraws)) {
    count += token == 0;
  }
  const double p = 0.04 / (0.04 + 0.64);
  EXPECT_NEAR(count, kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p)));
}

TEST_P(SampleTokensTest, ATinyTemperatureIsGreedy) {
  EXPECT_THAT(DrawMany({1, 3, 2.9999f}, Drawn(1e-38f), 50), Each(1));
}

TEST_P(SampleTokensTest, DependsOnSeedAndPositionAlone) {
  const Floats logits = Random(500, 1);
  SampleRow row = Drawn();
  row.seed = 12;
  const std::vector<int32_t> first = DrawMany(logits, row, 50);
  EXPECT_EQ(DrawMany(logits, row, 50), first);
  row.seed = 13;
  EXPECT_NE(DrawMany(logits, row, 50), first);
  row.seed = 12;
  row.position = 40;
  EXPECT_EQ(Run(logits, {row}).tokens[0], first[40]);
  EXPECT_GT(std::set<int32_t>(first.begin(), first.end()).size(), 30u);
}

TEST_P(SampleTokensTest, TopKKeepsTheLargestAndOfEqualsTheLowestIds) {
  SampleRow row = Drawn();
  row.top_k = 3;
  EXPECT_THAT(DrawSet(LogitsOf({0.1, 0.3, 0.1, 0.4, 0.1}), row),
              ElementsAre(0, 1, 3));
  row.top_k = 1;
  EXPECT_THAT(DrawSet(LogitsOf({0.2, 0.4, 0.4}), row), ElementsAre(1));
  row.top_k = 9;
  EXPECT_THAT(DrawSet(LogitsOf({0.2, 0.4, 0.4}), row), ElementsAre(0, 1, 2));
}

TEST_P(SampleTokensTest, TopPKeepsTheFewestThatReachIt) {
  const Floats logits = LogitsOf({0.1, 0.45, 0.15, 0.3});
  SampleRow row = Drawn();
  row.top_p = 0.44f;
  EXPECT_THAT(DrawSet(logits, row), ElementsAre(1));
  row.top_p = 0.46f;
  EXPECT_THAT(DrawSet(logits, row), ElementsAre(1, 3));
  row.top_p = 0.76f;
  EXPECT_THAT(DrawSet(logits, row), ElementsAre(1, 2, 3));
  row.top_p = 1e-6f;
  EXPECT_THAT(DrawSet(logits, row), ElementsAre(1));
}

TEST_P(SampleTokensTest, TopPCountsWhatTopKLeft) {
  // Of 0.45 and 0.3, renormalised, the first is 0.6.
  SampleRow row = Drawn();
  row.top_k = 2;
  row.top_p = 0.59f;
  EXPECT_THAT(DrawSet(LogitsOf({0.1, 0.45, 0.15, 0.3}), row), ElementsAre(1));
}

TEST_P(SampleTokensTest, TopPReachesFarIntoALargeVocabulary) {
  // 2000 tokens of nearly equal weight, rising with the id: a quarter of the
  // weight are the 500 last ids. They are sorted in stages.
  Floats logits;
  for (int id = 0; id < 2000; ++id) logits.push_back(1.0f + 1e-6f * id);
  SampleRow row = Drawn();
  row.top_p = 0.25f;
  const std::set<int32_t> tokens = DrawSet(logits, row);
  EXPECT_GE(*tokens.begin(), 1500);
  EXPECT_LT(*tokens.begin(), 1520);
  EXPECT_GT(*tokens.rbegin(), 1980);
}

TEST_P(SampleTokensTest, MinPKeepsWhatIsNearTheLargest) {
  SampleRow row = Drawn();
  row.min_p = 0.3f;
  EXPECT_THAT(DrawSet(LogitsOf({0.1, 0.45, 0.15, 0.3}), row),
              ElementsAre(1, 2, 3));
  row.min_p = 1.0f;
  EXPECT_THAT(DrawSet(LogitsOf({0.1, 0.45, 0.15, 0.3}), row), ElementsAre(1));
}

TEST_P(SampleTokensTest, TemperatureComesBeforeTopP) {
  // At temperature 1 the first alone reaches 0.5; at 4 it does not.
  SampleRow row = Drawn(4.0f);
  row.top_p = 0.5f;
  EXPECT_THAT(DrawSet(LogitsOf({0.6, 0.3, 0.1}), row), ElementsAre(0, 1));
}

TEST_P(SampleTokensTest, BiasAddsBeforeTheRest) {
  bias_ids_ = {9, 2, 0, 2};
  bias_values_ = {50.0f, 3.0f, -1.0f, 1.5f};
  SampleRow row = Greedy();
  row.bias_begin = 1;
  row.bias_end = 4;
  EXPECT_THAT(Run({4, 3, 0, 1}, {row}).tokens, ElementsAre(2));
  row.bias_end = 3;  // Without the second for id 2.
  EXPECT_THAT(Run({4, 3.1f, 0, 1}, {row}).tokens, ElementsAre(1));
  bias_values_[1] = -INFINITY;
  row.temperature = 1.0f;
  EXPECT_THAT(DrawSet({0, 0, 0, 0}, row), ElementsAre(0, 1, 3));
}

TEST_P(SampleTokensTest, TakesTheLowestIdWhenEverythingIsBanned) {
  bias_ids_ = {0, 1};
  bias_values_ = {-INFINITY, -INFINITY};
  SampleRow row = Drawn();
  row.bias_end = 2;
  EXPECT_THAT(Run({1, 2}, {row}).tokens, ElementsAre(0));
}

TEST_P(SampleTokensTest, PenaltiesCountWhatTheSessionHasSeen) {
  // Slot 1 has seen 0, 2, 2.
  ring_[kTokenRingSize] = 0;
  ring_[kTokenRingSize + 1] = 2;
  ring_[kTokenRingSize + 2] = 2;
  SampleRow row = Greedy();
  row.slot = 1;
  row.position = 3;
  row.frequency_penalty = 1.0f;
  EXPECT_THAT(Run({4, 2.5f, 5, 0}, {row}).tokens, ElementsAre(0));  // 3, 3
  EXPECT_THAT(Run({4, 3.5f, 5, 0}, {row}).tokens, ElementsAre(1));
  row.frequency_penalty = 0.0f;
  row.presence_penalty = 1.0f;
  EXPECT_THAT(Run({4, 3.5f, 5, 0}, {row}).tokens, ElementsAre(2));  // 3, 4
  row.presence_penalty = 0.0f;
  row.repetition_penalty = 2.0f;
  EXPECT_THAT(Run({4, 2.4f, 5, 0}, {row}).tokens, ElementsAre(2));  // 2, 2.5
  EXPECT_THAT(Run({-1, -3, -1.4f, -2.5f}, {row}).tokens,
              ElementsAre(0));  // -2, -2.8: negative logits are multiplied
  row.slot = -1;
  EXPECT_THAT(Run({4, 4.5f, 5, 0}, {row}).tokens, ElementsAre(2));
}

TEST_P(SampleTokensTest, PenaltiesSeeTheLastTokensOnly) {
  for (int i = 0; i < kTokenRingSize; ++i) ring_[i] = i % 2;
  SampleRow row = Greedy();
  row.slot = 0;
  row.presence_penalty = 10.0f;
  row.position = 1;  // Only the first place is filled.
  EXPECT_THAT(Run({3, 2, 1}, {row}).tokens, ElementsAre(1));
  row.position = 5000000000;
  EXPECT_THAT(Run({3, 2, 1}, {row}).tokens, ElementsAre(2));
}

TEST_P(SampleTokensTest, BiasComesBeforePenalties) {
  ring_[0] = 0;
  bias_ids_ = {0};
  bias_values_ = {-3.0f};
  SampleRow row = Greedy();
  row.slot = 0;
  row.position = 1;
  row.bias_end = 1;
  row.repetition_penalty = 2.0f;
  // 1 - 3 = -2, times 2 = -4. The other order gives 0.5 - 3 = -2.5.
  EXPECT_THAT(Run({1, -3}, {row}).tokens, ElementsAre(1));
}

// Of many equal logits no range of values has few.
TEST_P(SampleTokensTest, OfManyEqualsTheLowestIdsAreKept) {
  constexpr int kSize = 5000;
  Floats logits(kSize, 2.0f);
  logits[4000] = 2.5f;
  SampleRow row = Drawn();
  row.top_k = 2001;
  std::set<int32_t> tokens;
  for (const int32_t token : DrawMany(logits, row, 60)) {
    if (token != 4000) tokens.insert(token);
  }
  EXPECT_LT(*tokens.rbegin(), 2000);
  EXPECT_GT(*tokens.rbegin(), 1800);
  row.top_k = 0;
  row.top_p = 0.5f;
  tokens.clear();
  for (const int32_t token : DrawMany(logits, row, 60)) {
    if (token != 4000) tokens.insert(token);
  }
  EXPECT_LT(*tokens.rbegin(), 2501);
  EXPECT_GT(*tokens.rbegin(), 2200);
}

TEST_P(SampleTokensTest, EveryBackendDrawsTheSame) {
  constexpr int kDraws = 20;
  struct Filters {
    int32_t top_k;
    float top_p;
    float min_p;
  };
  // Vocabularies that a GPU takes in at once, of fours or not, and one that it
  // does not. Exponentials differ in the last bit, which moves no draw here.
  for (const int size : {3, 257, 5000, 32000, 50257, 60001}) {
    const Floats logits = Random(size, 3, -5.0f, 5.0f);
    for (const Filters& filters : {Filters{0, 1.0f, 0.0f},
                                   {100, 0.9f, 0.0f},
                                   {0, 0.95f, 0.0f},
                                   {40, 1.0f, 0.0f},
                                   {0, 0.8f, 0.02f},
                                   {700, 0.999f, 0.0f}}) {
      SampleRow row = Drawn(0.8f);
      row.top_k = filters.top_k;
      row.top_p = filters.top_p;
      row.min_p = filters.min_p;
      const std::vector<int32_t> tokens = DrawMany(logits, row, kDraws);
      for (row.position = 0; row.position < kDraws; ++row.position) {
        EXPECT_EQ(tokens[row.position], ReferenceToken(logits, row))
            << size << ", top_k " << row.top_k << ", top_p " << row.top_p;
      }
    }
  }
}

// As a trained model has them: few tokens have most of the weight.
Floats Peaked(size_t size, int seed) {
  Floats logits = Random(size, seed, 1e-6f, 1.0f);
  for (float& logit : logits) logit = -2.0f * std::log(logit);
  return logits;
}
// Each filter on and off, in all combinations of a few values, and rows that
// draw nothing.
std::vector<SampleRow> MixedRows(int num_rows, int32_t vocab_size) {
  constexpr float kTemperatures[] = {0.0f, 1.0f, 0.8f, 0.2f, 1.7f};
  const int32_t top_ks[] = {0, 1, 40, vocab_size, 0, 700, vocab_size - 1};
  constexpr float kTopPs[] = {1.0f, 0.95f, 1e-6f, 0.5f};
  constexpr float kMinPs[] = {0.0f, 0.0f, 0.05f};
  std::vector<SampleRow> rows;
  for (int i = 0; i < num_rows; ++i) {
    SampleRow row = Drawn(kTemperatures[i % 5]);
    row.top_k = std::max(0, top_ks[i % 7]);
    row.top_p = kTopPs[i % 4];
    row.min_p = kMinPs[i % 3];
    row.seed = i;
    row.position = 100 + i;
    if (i % 6 == 2) {
      row.slot = i % 2;
      row.repetition_penalty = 1.2f;
      row.presence_penalty = 0.5f;
      row.frequency_penalty = 0.25f;
    }
    if (i % 4 == 1) row.bias_end = 3;
    rows.push_back(row);
  }
  return rows;
}

TEST_P(SampleTokensTest, RowsOfAllKindsDrawTheSameAloneAndTogether) {
  for (const int size : {3, 257, 32000, 50257}) {
    for (int i = 0; i < 2 * kTokenRingSize; ++i) ring_[i] = i * i % size;
    bias_ids_ = {0, size - 1, 0};
    bias_values_ = {1.5f, -INFINITY, 0.25f};
    for (const int num_rows : {1, 64, 256}) {
      if (size > 32000 && num_rows > 64) continue;
      const Floats logits = Peaked(size_t(size) * num_rows, size + num_rows);
      const std::vector<SampleRow> rows = MixedRows(num_rows, size);
      ExpectReference(logits, rows, std::to_string(size));
      const Sampled together = Run(logits, rows);
      for (int i = 0; i < num_rows; i += 13) {
        const Sampled alone =
            Run(Part(logits, size_t(size) * i, size), {rows[i]});
        EXPECT_EQ(alone.tokens[0], together.tokens[i]);
        EXPECT_EQ(Bits(alone.logprobs)[0], Bits(together.logprobs)[i]);
      }
    }
  }
}

// What is told apart by no range of logits, or by few, or by ever smaller ones.
TEST_P(SampleTokensTest, LogitsOfAllShapesAreCutTheSame) {
  constexpr int kSize = 4099;
  const Floats uniform = Random(2 * kSize, 8, 0.0f, 1.0f);
  const auto logits_of = [&](auto of) {
    Floats logits;
    for (int id = 0; id < kSize; ++id) {
      logits.push_back(of(id, uniform[id], uniform[kSize + id]));
    }
    return logits;
  };
  const std::vector<std::pair<std::string, Floats>> shapes = {
      {"all equal", logits_of([](int, float, float) { return 2.0f; })},
      {"zeros of both signs", logits_of([](int id, float, float) {
         return id % 3 == 0 ? -0.0f : 0.0f;
       })},
      {"a few values",
       logits_of([](int, float x, float) { return std::floor(4.0f * x); })},
      {"neighbours",
       logits_of([](int id, float, float) { return 1.0f + 6e-8f * (id % 9); })},
      {"one above equals", logits_of([](int id, float, float) {
         return id == 4000 ? 30.0f : 1.0f;
       })},
      {"many scales", logits_of([](int, float x, float y) {
         return std::ldexp(x - 0.5f, int(-100.0f * y));
       })},
      {"smaller than normal numbers",
       logits_of([](int, float x, float) { return 1e-39f * x; })},
      {"far apart", logits_of([](int, float x, float) {
         return 3e38f * (2.0f * x - 1.0f);
       })},
      {"one far below", logits_of([](int id, float x, float) {
         return id == 5 ? -1e9f : 8.0f * x;
       })},
      {"wide", logits_of([](int, float x, float) { return 900.0f * x; })},
      {"falling", logits_of([](int id, float, float) { return -1e-3f * id; })}};
  for (const auto& [what, logits] : shapes) {
    for (const int32_t top_k : {0, 1, 2, 1031, 3001, kSize - 1, kSize}) {
      Floats all;
      std::vector<SampleRow> rows;
      for (const float top_p : {1.0f, 0.9f, 0.37f, 1e-6f}) {
        for (const float temperature : {1.0f, 0.3f}) {
          SampleRow row = Drawn(temperature);
          row.top_k = top_k;
          row.top_p = top_p;
          row.position = int64_t(rows.size());
          rows.push_back(row);
          all.insert(all.end(), logits.begin(), logits.end());
        }
      }
      ExpectReference(all, rows, what);
    }
  }
}

// As few as reach each form of a GPU's kernel, and each way to a cut: for its
// checkers of memory and barriers, scripts/sanitize_gpu.
TEST_P(SampleTokensTest, SmallestOfEachForm) {
  constexpr int kSize = 1100;  // more tokens than are sorted at once
  constexpr int kTopK = 1030;
  bias_ids_ = {0, 7, 0};
  bias_values_ = {1.5f, -INFINITY, 0.25f};
  ring_.assign(ring_.size(), 3);
  SampleRow filtered = Drawn();
  filtered.top_k = 40;
  filtered.top_p = 0.9f;
  filtered.min_p = 0.01f;
  filtered.bias_end = 3;
  filtered.slot = 1;
  filtered.position = 5;
  filtered.frequency_penalty = 0.5f;
  SampleRow many = Drawn();
  many.top_k = kTopK;
  ExpectReference(Random(2 * kSize, 5, -4.0f, 4.0f), {Drawn(), filtered},
                  "random");
  ExpectReference(Floats(kSize, 2.0f), {many}, "equal");
  Floats neighbours;
  for (int id = 0; id < kSize; ++id) {
    neighbours.push_back(id == 9 ? 30.0f : 1.0f + 6e-8f * float(id % 9));
  }
  ExpectReference(neighbours, {many}, "neighbours");
  SampleRow best = Greedy();
  best.num_candidates = 2;
  EXPECT_THAT(Run({1, 5, 5, -2}, {best}, 2).candidates, ElementsAre(1, 2));
  constexpr int kLarge = 51204;  // more than a GPU takes in at once
  ExpectReference(Peaked(kLarge, 6), {filtered}, "large");
}

TEST_P(SampleTokensTest, BannedTokensAreNotDrawnHoweverManyAreKept) {
  constexpr int kSize = kMaxSampleBias + 6;
  bias_ids_.clear();
  for (int id = 0; id < kSize; ++id) {
    if (id % 200 != 7) bias_ids_.push_back(id);
  }
  ASSERT_EQ(bias_ids_.size(), kMaxSampleBias);
  bias_values_.assign(kMaxSampleBias, -INFINITY);
  SampleRow row = Drawn();
  row.bias_end = kMaxSampleBias;
  for (const int32_t top_k : {0, 3, 500, kSize - 1}) {
    for (const float top_p : {1.0f, 0.999f}) {
      row.top_k = top_k;
      row.top_p = top_p;
      Floats all;
      std::vector<SampleRow> rows;
      for (row.position = 0; row.position < 40; ++row.position) {
        rows.push_back(row);
      }
      const Floats logits = Random(kSize, 2);
      for (size_t i = 0; i < rows.size(); ++i) {
        all.insert(all.end(), logits.begin(), logits.end());
      }
      ExpectReference(all, rows, "banned");
      EXPECT_THAT(
          Run(all, rows).tokens,
          Each(testing::ResultOf([](int32_t id) { return id % 200; }, 7)));
    }
  }
}

TEST_P(SampleTokensTest, ALargeVocabularyHasBiasPenaltiesAndCandidates) {
  constexpr int kSize = 60001;
  Floats logits = Random(kSize, 4, -5.0f, 5.0f);
  logits[kSize - 1] = 9.0f;
  logits[kSize - 2] = 8.0f;
  logits[123] = 7.0f;
  bias_ids_ = {kSize - 1};
  bias_values_ = {-4.0f};
  ring_[0] = kSize - 2;
  SampleRow row = Greedy();
  row.slot = 0;
  row.position = 1;
  row.presence_penalty = 3.0f;
  row.bias_end = 1;
  row.num_candidates = 3;
  const Sampled sampled = Run(logits, {row}, 3);
  EXPECT_THAT(sampled.tokens, ElementsAre(123));
  EXPECT_THAT(sampled.candidates, ElementsAre(kSize - 1, kSize - 2, 123));
  EXPECT_FLOAT_EQ(sampled.logprobs[0], sampled.candidate_logprobs[2]);
}

TEST(UniformOfTest, FollowsPhilox) {
  // Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10
  // of key 0 and counter 0: 6627e8d5 e169c58d ...
  EXPECT_EQ(UniformOf(0, 0), double(0x6627e8d5e169c58du >> 11) * 0x1p-53);
}

TEST(UniformOfTest, IsBelowOne) {
  for (int64_t position = 0; position < 1000; ++position) {
    const double u = UniformOf(99, position << 31);
    EXPECT_GE(u, 0.0);
    EXPECT_LT(u, 1.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTokensTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

}  // namespace
}  // namespace ttt
