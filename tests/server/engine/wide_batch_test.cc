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

struct Widths {
  std::string name;
  int32_t layers;
  int32_t hidden;
  int32_t intermediate;
  int32_t heads;
  std::vector<int> batches;  // around each at which a form changes
};

// On a GPU large enough that its products have all their forms.
Widths SmallWidths() {
  return {
      "", 2, 512, 2112, 8, {2,  3,  7,  8,  9,   15,  16,  17,  31,  32,  33,
                            48, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256}};
}
// Products take as long as those of a model that is served: what begins before
// the kernels before have ended then does so.
std::vector<Widths> PublishedWidths() {
  return {
      {"Published125m", 2, 768, 2048, 12, {2, 16, 17, 33, 65, 129, 256}},
      {"Published350m", 2, 1024, 2736, 16, {2, 16, 17, 33, 65, 129, 256}},
      {"Published760m", 3, 1536, 4096, 16, {2, 5, 8, 9, 16, 17, 33, 65, 129}},
      {"Published1300m", 6, 2048, 5504, 32, {2, 5, 8, 9, 16, 17, 33, 65}}};
}

struct Param {
  TestDevice device;
  bool is_mlp;
  bool bf16;
  Widths widths = SmallWidths();
};

std::vector<Param> Params() {
  std::vector<Param> params = {{TestDevice::kCpu, false, false}};
  if (!HasCuda()) return params;
  for (const bool is_mlp : {false, true}) {
    for (const bool bf16 : {false, true}) {
      params.push_back({TestDevice::kCuda, is_mlp, bf16});
    }
    for (const Widths& widths : PublishedWidths()) {
      params.push_back({TestDevice::kCuda, is_mlp, true, widths});
    }
  }
  return params;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return TestDeviceName(info.param.device) +
         (info.param.is_mlp ? "Mlp" : "Linear") +
         (info.param.bf16 ? "BFloat16" : "Float32") + info.param.widths.name;
}

ModelConfig WideConfig(const Param& param) {
  ModelConfig config = SmallConfig(param.is_mlp);
  if (param.device != TestDevice::kCuda) return config;
  config.vocab_size = 4200;
  config.num_hidden_layers = param.widths.layers;
  config.hidden_size = param.widths.hidden;
  config.intermediate_size = param.widths.intermediate;
  config.num_attention_heads = param.widths.heads;
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
  static int NumSessions() { return GetParam().widths.batches.back(); }

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
  for (const int batch : GetParam().widths.batches) {
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
