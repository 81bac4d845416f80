// The forward pass against the published model's numbers and the reference's.
#include "server/model/ttt_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "tests/support/model_fixture.h"

namespace ttt {
namespace {

constexpr double kLogitsTolerance = 1e-4;
constexpr double kStateTolerance = 1e-5;
// Of the largest logit. Rounding is seen to make a hundredth; a model that
// takes no notice of one of its switches is off by a quarter and more, and one
// that learns half as fast by 0.08.
constexpr double kBFloat16Tolerance = 5e-2;

std::string Folder(const std::string& kind, const std::string& name) {
  return std::string(TTT_GOLDEN_DIR) + "/" + kind + "/" + name;
}

std::vector<std::string> Names(const std::string& kind) {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(Folder(kind, ""))) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Case {
  std::string name;
  TestDevice device;
};

std::vector<Case> Cases(const std::string& kind) {
  std::vector<Case> cases;
  for (const std::string& name : Names(kind)) {
    for (const TestDevice device : TestDevices()) {
      cases.push_back({name, device});
    }
  }
  return cases;
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name + "_" + TestDeviceName(info.param.device);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class PublishedModelTest : public testing::TestWithParam<Case> {
 protected:
  std::string folder_ = Folder("models", GetParam().name);
  std::string golden_ = folder_ + "/golden.safetensors";
  ModelFixture f_ = ModelFixture::Open(folder_, {.device = GetParam().device},
                                       {.max_rows = 130, .max_sequences = 4});
};

TEST_P(PublishedModelTest, LogitsOfAWholeSequenceAreThePublishedOnes) {
  for (const int n : {1, 15, 16, 17, 50, 130}) {
    const auto tokens =
        ReadGolden<int32_t>(golden_, "tokens.N" + std::to_string(n));
    const auto expected =
        ReadGolden<float>(golden_, "logits.N" + std::to_string(n));
    const StateSlot slot = f_.EmptySession();
    EXPECT_LT(MaxDifference(f_.Read(slot, 0, tokens), expected),
              kLogitsTolerance)
        << n << " tokens";
  }
}

TEST_P(PublishedModelTest, WeightsTakeTheBytesThatWereToldBefore) {
  EXPECT_EQ(TttModel::WeightBytes(f_.config, f_.backend.get()).value(),
            f_.model->weight_bytes());
}

TEST_P(PublishedModelTest, LogitsOfAPromptAndSingleTokensAreThePublishedOnes) {
  for (const auto& [n, prompt] : {std::pair(17, 1), std::pair(50, 17)}) {
    const auto tokens =
        ReadGolden<int32_t>(golden_, "tokens.N" + std::to_string(n));
    const auto expected =
        ReadGolden<float>(golden_, "cached.N" + std::to_string(n) + ".P" +
                                       std::to_string(prompt) + ".logits");
    const StateSlot slot = f_.EmptySession();
    const auto all = absl::MakeConstSpan(tokens);
    std::vector<float> logits = f_.Read(slot, 0, all.first(prompt));
    for (int p = prompt; p < n; ++p) {
      const auto more = f_.Read(slot, p, all.subspan(p, 1));
      logits.insert(logits.end(), more.begin(), more.end());
    }
    EXPECT_LT(MaxDifference(logits, expected), kLogitsTolerance)
        << n << "/" << prompt;
  }
}

// The published state after a prompt of 17 and 33 single tokens. Its
// accumulators are the sums over the pending rows of lr * (input^T g, g), the
// gradients g at the fast weights; its convolution windows hold one column more
// than the tails.
class PublishedStateTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr int kTokens = 50;

  PublishedStateTest() {
    const auto tokens = ReadGolden<int32_t>(golden_, "tokens.N50");
    const auto all = absl::MakeConstSpan(tokens);
    f_.Read(slot_, 0, all.first(17));
    for (int p = 17; p < kTokens; ++p) f_.Read(slot_, p, all.subspan(p, 1));
  }

  std::vector<std::string> FastWeights() const {
    if (f_.config.is_mlp) return {"W1", "b1", "W2", "b2"};
    return {"W1", "b1"};
  }
  std::vector<float> Golden(int layer, const std::string& name) {
    return ReadGolden<float>(
        golden_, "state.N50.layer" + std::to_string(layer) + "." + name);
  }
  // A layer's part of a plane.
  std::vector<float> Part(const std::string& plane, int layer) {
    const auto values = f_.Plane(slot_, plane);
    const size_t size = values.size() / f_.config.num_hidden_layers;
    return {values.begin() + layer * size, values.begin() + (layer + 1) * size};
  }
  std::vector<std::vector<float>> Accumulators(int layer);

  std::string folder_ = Folder("models", GetParam().name);
  std::string golden_ = folder_ + "/golden.safetensors";
  ModelFixture f_ = ModelFixture::Open(folder_, {.device = GetParam().device});
  StateSlot slot_ = f_.EmptySession();
};

TEST_P(PublishedStateTest, FastWeightsAreThePublishedOnes) {
  for (int layer = 0; layer < f_.config.num_hidden_layers; ++layer) {
    for (const std::string& name : FastWeights()) {
      EXPECT_LT(MaxDifference(Part(absl::AsciiStrToLower(name), layer),
                              Golden(layer, name + "_states")),
                kStateTolerance)
          << name;
    }
  }
}

TEST_P(PublishedStateTest, TailsAreTheLastColumnsOfThePublishedWindows) {
  if (!f_.config.share_qk)
    return;  // A model without convolutions has no tails.
  const int kernel = f_.config.conv_kernel;
  const int hidden = f_.config.hidden_size;
  for (int layer = 0; layer < f_.config.num_hidden_layers; ++layer) {
    for (const auto& [plane, window] : {std::pair("conv_tail", "pre_conv"),
                                        std::pair("qk_tail", "ttt_conv_q")}) {
      const auto columns =
          Golden(layer, window);  // [hidden, kernel], oldest first
      std::vector<float> expected;
      for (int tap = 1; tap < kernel; ++tap) {
        for (int c = 0; c < hidden; ++c)
          expected.push_back(columns[c * kernel + tap]);
      }
      EXPECT_LT(MaxDifference(Part(plane, layer), expected), kStateTolerance)
          << plane;
    }
  }
}

using Vector = std::vector<double>;

// x W + b with W [x.size(), b.size()].
Vector Affine(const Vector& x, const float* w, const float* b, size_t width) {
  Vector y(b, b + width);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < width; ++j) y[j] += x[i] * w[i * width + j];
  }
  return y;
}

// Spec, section 5.1: the gradient of the loss with respect to the learner's
// output.
Vector LossGradient(const Vector& z, const float* target, const float* gamma,
                    const float* beta) {
  const double d = static_cast<double>(z.size());
  double mean = 0, variance = 0, sum_u = 0, sum_uz = 0;
  for (const double value : z) mean += value / d;
  for (const double value : z) variance += (value - mean) * (value - mean) / d;
  const double root = std::sqrt(variance + 1e-6);
  Vector u(z.size()), g(z.size());
  for (size_t j = 0; j < z.size(); ++j) {
    const double normed = (z[j] - mean) / root;
    u[j] = (gamma[j] * normed + beta[j] - target[j]) * gamma[j];
    sum_u += u[j];
    sum_uz += u[j] * normed;
  }
  for (size_t j = 0; j < z.size(); ++j) {
    g[j] = (d * u[j] - sum_u - (z[j] - mean) / root * sum_uz) / (d * root);
  }
  return g;
}

double Gelu(double x) {
  return 0.5 * x *
         (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

double GeluSlope(double x) {
  const double step = 1e-5;
  return (Gelu(x + step) - Gelu(x - step)) / (2 * step);
}

// sum += rate * x^T g, and the bias' sum += rate * g.
void Accumulate(double rate, const Vector& x, const Vector& g, float* sum_w,
                float* sum_b) {
  for (size_t j = 0; j < g.size(); ++j) {
    sum_b[j] += static_cast<float>(rate * g[j]);
    for (size_t i = 0; i < x.size(); ++i) {
      sum_w[i * g.size() + j] += static_cast<float>(rate * x[i] * g[j]);
    }
  }
}

// In the order of FastWeights.
std::vector<std::vector<float>> PublishedStateTest::Accumulators(int layer) {
  const int heads = f_.config.num_attention_heads;
  const int d = f_.config.head_dim();
  const int inner = f_.config.inner_dim();
  const int room = f_.config.mini_batch_size - 1;
  const auto checkpoint = OpenCheckpoint(folder_, f_.config).value();
  const std::string block =
      "model.layers." + std::to_string(layer) + ".seq_modeling_block.";
  const auto gamma =
      checkpoint->Read(block + "ttt_norm_weight", {heads, d}).value();
  const auto beta =
      checkpoint->Read(block + "ttt_norm_bias", {heads, d}).value();
  std::vector<std::vector<float>> fast, sums;
  for (const std::string& name : FastWeights()) {
    fast.push_back(Part(absl::AsciiStrToLower(name), layer));
    sums.emplace_back(fast.back().size());
  }
  const auto keys = Part("pending_keys", layer);
  const auto targets = Part("pending_targets", layer);
  const auto rates = Part("pending_rates", layer);
  for (int row = 0; row < heads * room; ++row) {
    if (row % room >= kTokens % f_.config.mini_batch_size)
      continue;  // not pending
    const int h = row / room;
    const Vector k(&keys[row * d], &keys[row * d] + d);
    const float* target = &targets[row * d];
    const Vector z1 =
        Affine(k, &fast[0][h * d * inner], &fast[1][h * inner], inner);
    Vector g1;
    if (f_.config.is_mlp) {
      const float* w2 = &fast[2][h * inner * d];
      Vector x2(inner);
      for (int j = 0; j < inner; ++j) x2[j] = Gelu(z1[j]);
      const Vector g2 = LossGradient(Affine(x2, w2, &fast[3][h * d], d), target,
                                     &gamma[h * d], &beta[h * d]);
      for (int j = 0; j < inner; ++j) {
        double back = 0;
        for (int i = 0; i < d; ++i) back += g2[i] * w2[j * d + i];
        g1.push_back(back * GeluSlope(z1[j]));
      }
      Accumulate(rates[row], x2, g2, &sums[2][h * inner * d], &sums[3][h * d]);
    } else {
      g1 = LossGradient(z1, target, &gamma[h * d], &beta[h * d]);
    }
    Accumulate(rates[row], k, g1, &sums[0][h * d * inner], &sums[1][h * inner]);
  }
  return sums;
}

TEST_P(PublishedStateTest, PendingRowsSumToThePublishedAccumulators) {
  for (int layer = 0; layer < f_.config.num_hidden_layers; ++layer) {
    const auto sums = Accumulators(layer);
    for (size_t i = 0; i < sums.size(); ++i) {
      EXPECT_LT(
          MaxDifference(sums[i], Golden(layer, FastWeights()[i] + "_grad")),
          kStateTolerance)
          << FastWeights()[i];
    }
  }
}

std::vector<Case> StateCases() {
  std::vector<Case> cases;
  for (const TestDevice device : TestDevices()) {
    cases.push_back({"linear-mamba", device});
    cases.push_back({"mlp-transformer", device});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Goldens, PublishedStateTest,
                         testing::ValuesIn(StateCases()), CaseName);

INSTANTIATE_TEST_SUITE_P(Goldens, PublishedModelTest,
                         testing::ValuesIn(Cases("models")), CaseName);

TEST(StateSizeTest, EightThousandStatesOfThe1300mFitAnH200) {
  const ModelConfig config =
      LoadModelConfig(TTT_SOURCE_DIR "/models/configs/ttt-linear-1.3b").value();
  const StateLayout plain = TttModel::MakeStateLayout(config, {});
  const StateLayout split = TttModel::MakeStateLayout(
      config, {FastWeightsForm::kSplit, DType::kBFloat16});
  // Of pending keys and targets, half.
  EXPECT_EQ(plain.slot_bytes - split.slot_bytes, 24 * 2 * 15 * 2048 * 2);
  EXPECT_EQ(split.slot_bytes, 16966656);
  EXPECT_LT((8000 + 64) * split.slot_bytes, int64_t{128} << 30);
  // Nothing is lost to alignment.
  int64_t bytes = 0;
  for (const PlaneSpec& plane : split.planes) bytes += plane.stored_bytes();
  EXPECT_EQ(bytes, split.slot_bytes);
}

class RandomConfigTest : public testing::TestWithParam<Case> {
 protected:
  std::string folder_ = Folder("cases", GetParam().name);
  std::string golden_ = folder_ + "/golden.safetensors";
  ModelFixture f_ = ModelFixture::Open(folder_, {.device = GetParam().device});
};

TEST_P(RandomConfigTest, EverySplitInTwoCallsGivesTheReferenceLogitsAndState) {
  const auto tokens = ReadGolden<int32_t>(golden_, "tokens");
  const auto expected = ReadGolden<float>(golden_, "logits");
  const auto all = absl::MakeConstSpan(tokens);
  const std::vector<std::string> planes =
      f_.config.is_mlp ? std::vector<std::string>{"w1", "b1", "w2", "b2"}
                       : std::vector<std::string>{"w1", "b1"};
  StateDigest first_digest;
  for (size_t split = 0; split <= all.size(); ++split) {
    const StateSlot slot = f_.EmptySession();
    std::vector<float> logits = f_.Read(slot, 0, all.first(split));
    const auto rest =
        f_.Read(slot, static_cast<int64_t>(split), all.subspan(split));
    logits.insert(logits.end(), rest.begin(), rest.end());
    ASSERT_LT(MaxDifference(logits, expected), kLogitsTolerance)
        << "split at " << split;
    for (const std::string& plane : planes) {
      ASSERT_LT(MaxDifference(f_.Plane(slot, plane),
                              ReadGolden<float>(golden_, plane)),
                kStateTolerance)
          << plane << ", split at " << split;
    }
    const StateDigest digest =
        f_.Digest(slot, static_cast<int64_t>(all.size()));
    if (split == 0) first_digest = digest;
    ASSERT_EQ(digest, first_digest) << "split at " << split;
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, RandomConfigTest,
                         testing::ValuesIn(Cases("cases")), CaseName);

// Of rows of `vocab_size`.
std::vector<float> LogProbabilities(std::vector<float> logits, int vocab_size) {
  for (size_t row = 0; row < logits.size(); row += vocab_size) {
    double sum = 0;
    for (int id = 0; id < vocab_size; ++id) sum += std::exp(logits[row + id]);
    const auto log_sum = static_cast<float>(std::log(sum));
    for (int id = 0; id < vocab_size; ++id) logits[row + id] -= log_sum;
  }
  return logits;
}

// In bfloat16 as a server runs it: no LogitsBackend stands between, so that ops
// that are several in one are that, and steps of one token may be recorded.
class BFloat16ConfigTest : public testing::TestWithParam<Case> {
 protected:
  StateSlot EmptySession() {
    StateSlot slot = pool_->AcquireSlot().value();
    TTT_CHECK(model_->InitState(*pool_, slot.index()).ok());
    return slot;
  }
  // After each of `tokens` the log-probabilities, [tokens.size(), vocab_size].
  std::vector<float> Read(const StateSlot& slot, int64_t position,
                          absl::Span<const int32_t> tokens);
  StateDigest Digest(const StateSlot& slot, int64_t tokens) {
    const int32_t index = slot.index();
    return model_->Digest(*pool_, {index}, {tokens}).value()[0].value();
  }

  const std::string folder_ = Folder("cases", GetParam().name);
  const ModelConfig config_ = LoadModelConfig(folder_).value();
  const std::unique_ptr<Backend> device_ = CreateTestBackend(
      {.device = GetParam().device, .precision = Precision::kBFloat16});
  const std::unique_ptr<TttModel> model_ =
      TttModel::Load(config_, OpenCheckpoint(folder_, config_).value().get(),
                     {.max_rows = 64,
                      .max_sequences = 1,
                      .max_candidates = config_.vocab_size},
                     device_.get())
          .value();
  const std::unique_ptr<StatePool> pool_ =
      StatePool::Create(
          {.session_slots = 2, .scratch_slots = 1},
          TttModel::MakeStateLayout(config_, device_->state_forms()),
          device_.get())
          .value();
};

std::vector<float> BFloat16ConfigTest::Read(const StateSlot& slot,
                                            int64_t position,
                                            absl::Span<const int32_t> tokens) {
  std::vector<LogitsRequest> requests;
  for (int32_t row = 0; row < static_cast<int32_t>(tokens.size()); ++row) {
    requests.push_back({.sequence = 0,
                        .row = row,
                        .given_token = kNoToken,
                        .num_candidates = config_.vocab_size});
  }
  const StepSequence sequence = {slot.index(), position, tokens};
  const StepResult result = model_->Step(*pool_, {sequence}, requests).value();
  std::vector<float> logprobs;
  for (const LogitsResult& row : result.logits) {
    std::vector<float> by_id(config_.vocab_size, NAN);
    for (const TokenLogprob& token : row.candidates) {
      by_id[token.token_id] = token.logprob;
    }
    logprobs.insert(logprobs.end(), by_id.begin(), by_id.end());
  }
  return logprobs;
}

TEST_P(BFloat16ConfigTest, EverySplitGivesTheSameBitsNearTheReference) {
  const std::string golden = folder_ + "/golden.safetensors";
  const auto tokens = ReadGolden<int32_t>(golden, "tokens");
  const auto logits = ReadGolden<float>(golden, "logits");
  const auto size = static_cast<int64_t>(tokens.size());
  // In steps of these many tokens.
  const auto read = [&](const std::vector<int64_t>& steps) {
    const StateSlot slot = EmptySession();
    std::vector<float> logprobs;
    int64_t position = 0;
    for (const int64_t step : steps) {
      const auto more = Read(
          slot, position, absl::MakeConstSpan(tokens).subspan(position, step));
      logprobs.insert(logprobs.end(), more.begin(), more.end());
      position += step;
    }
    return std::pair(logprobs, Digest(slot, position));
  };
  const auto whole = read({size});
  const double largest =
      MaxDifference(logits, std::vector<float>(logits.size()));
  EXPECT_LT(
      MaxDifference(whole.first, LogProbabilities(logits, config_.vocab_size)),
      kBFloat16Tolerance * largest);
  for (int64_t split = 1; split < size; ++split) {
    ASSERT_EQ(read({split, size - split}), whole) << "split at " << split;
  }
  EXPECT_EQ(read(std::vector<int64_t>(size, 1)), whole) << "one by one";
}

std::vector<Case> BFloat16Cases() {
  std::vector<Case> cases = Cases("cases");
  std::erase_if(cases, [](const Case& c) { return !HasBFloat16(c.device); });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Reference, BFloat16ConfigTest,
                         testing::ValuesIn(BFloat16Cases()), CaseName);

}  // namespace
}  // namespace ttt
