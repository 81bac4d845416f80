// Promise 2 over wide batches: a session's tokens, log-probabilities and end
// state are those of the session alone in every batch of 2 to 256, whichever
// form of a product the number of rows selects.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/support/engine_fixture.h"

namespace ttt {
namespace {

// Those of a small model, or of a published one.
enum class Widths { kSmall, k125m, k350m, k760m, k1300m };

struct Param {
  TestDevice device;
  bool is_mlp;
  bool bf16;
  Widths widths = Widths::kSmall;
};

// Around each number of rows at which a form changes.
std::vector<int> Batches(const Param& param) {
  switch (param.widths) {
    case Widths::kSmall:
      return {2,  3,  7,  8,  9,   15,  16,  17,  31,  32,  33,
              48, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256};
    case Widths::k125m:
    case Widths::k350m:
      return {2, 16, 17, 33, 65, 129, 256};
    case Widths::k760m:
      return {2, 5, 8, 9, 16, 17, 33, 65, 129};
    case Widths::k1300m:
      return {2, 5, 8, 9, 16, 17, 33, 65};
  }
  return {};
}

std::vector<Param> Params() {
  std::vector<Param> params = {{TestDevice::kCpu, false, false}};
  if (!HasCuda()) return params;
  for (const bool is_mlp : {false, true}) {
    for (const bool bf16 : {false, true}) {
      params.push_back({TestDevice::kCuda, is_mlp, bf16});
    }
    for (const Widths widths :
         {Widths::k1300m, Widths::k760m, Widths::k350m, Widths::k125m}) {
      params.push_back({TestDevice::kCuda, is_mlp, true, widths});
    }
  }
  return params;
}

std::string WidthsName(Widths widths) {
  switch (widths) {
    case Widths::kSmall:
      return "";
    case Widths::k125m:
      return "Published125m";
    case Widths::k350m:
      return "Published350m";
    case Widths::k760m:
      return "Published96";
    case Widths::k1300m:
      return "Published";
  }
  return "";
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return TestDeviceName(info.param.device) +
         (info.param.is_mlp ? "Mlp" : "Linear") +
         (info.param.bf16 ? "BFloat16" : "Float32") +
         WidthsName(info.param.widths);
}

// On a GPU large enough that its products have all their forms, or that these
// take as long as those of a model that is served: what begins before the
// kernels before have ended then does so.
ModelConfig WideConfig(const Param& param) {
  ModelConfig config = SmallConfig(param.is_mlp);
  if (param.device != TestDevice::kCuda) return config;
  config.vocab_size = 4200;
  switch (param.widths) {
    case Widths::kSmall:
      config.hidden_size = 512;
      config.intermediate_size = 2112;
      config.num_attention_heads = 8;
      break;
    case Widths::k125m:
      config.hidden_size = 768;
      config.intermediate_size = 2048;
      config.num_attention_heads = 12;
      break;
    case Widths::k350m:
      config.hidden_size = 1024;
      config.intermediate_size = 2736;
      config.num_attention_heads = 16;
      break;
    case Widths::k760m:  // heads of 96
      config.num_hidden_layers = 3;
      config.hidden_size = 1536;
      config.intermediate_size = 4096;
      config.num_attention_heads = 16;
      break;
    case Widths::k1300m:
      config.num_hidden_layers = 6;
      config.hidden_size = 2048;
      config.intermediate_size = 5504;
      config.num_attention_heads = 32;
      break;
  }
  return config;
}

// Lengths that leave the sessions at different phases.
Request TurnRequest(int session) {
  Request request = EngineFixture::Complete(
      RandomIds(7000 + session, 1 + session * 7 % 37), 3 + session % 5);
  request.sampling.seed = 500 + session;
  return request;
}

struct Result {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  StateDigest digest{};

  bool operator==(const Result&) const = default;
};

Result ResultOf(const TurnOutcomeRecord& turn) {
  EXPECT_TRUE(turn.ok());
  if (!turn.ok()) return {};
  return {turn.tokens, turn.logprobs, turn.end->digest};
}

std::string Name(int session) { return "s" + std::to_string(session); }

class WideBatchTest : public testing::TestWithParam<Param> {
 protected:
  EngineFixture::Options MakeOptions(int rows, int tokens) const {
    EngineFixture::Options options;
    options.config = WideConfig(GetParam());
    options.backend.device = GetParam().device;
    options.backend.precision =
        GetParam().bf16 ? Precision::kBFloat16 : Precision::kFloat32;
    options.max_batch_rows = rows;
    options.max_batch_tokens = tokens;
    options.session_slots = NumSessions();
    return options;
  }
  static int NumSessions() { return Batches(GetParam()).back(); }

  std::vector<Result> Alone() const {
    EngineFixture f(MakeOptions(1, 64));
    std::vector<Result> results;
    for (int s = 0; s < NumSessions(); ++s) {
      results.push_back(ResultOf(f.Run(TurnRequest(s), Name(s))));
    }
    return results;
  }
};

TEST_P(WideBatchTest, EqualsEachSessionAlone) {
  const std::vector<Result> expected = Alone();
  std::mt19937 random(11);
  for (const int batch : Batches(GetParam())) {
    // Prompts of the last batches are read many at a time, others in pieces.
    EngineFixture f(MakeOptions(batch, batch < 64 ? batch + 5 : 4 * batch));
    std::vector<int> order(NumSessions());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    order.resize(batch);
    std::vector<PendingTurn> turns;
    turns.reserve(order.size());
    for (const int s : order) {
      turns.push_back(f.Submit(TurnRequest(s), Name(s)));
    }
    f.RunAll();
    for (int i = 0; i < batch; ++i) {
      ASSERT_EQ(ResultOf(turns[i].Read()), expected[order[i]])
          << "session " << order[i] << " in a batch of " << batch;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, WideBatchTest, testing::ValuesIn(Params()),
                         ParamName);

}  // namespace
}  // namespace ttt
