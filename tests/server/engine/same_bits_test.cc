// Promise 2: tokens, log-probabilities and end state of a session do not depend
// on the batch, on how its input was cut, or on what was tried and cancelled
// before.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/support/engine_fixture.h"

namespace ttt {
namespace {

constexpr int kSessions = 6;
constexpr int kTurns = 2;

// Lengths that leave the sessions at different phases.
int InputTokens(int session, int turn) { return 3 + 11 * session + 7 * turn; }

Request TurnRequest(int session, int turn) {
  Request request = EngineFixture::Complete(
      RandomIds(100 * session + turn, InputTokens(session, turn)), 9 + session);
  request.sampling.seed = 1000 + session;
  return request;
}

std::string Name(int session) { return "s" + std::to_string(session); }

struct Result {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  StateDigest digest{};

  bool operator==(const Result&) const = default;

  void Add(const TurnOutcomeRecord& turn) {
    ASSERT_TRUE(turn.ok()) << (turn.end ? turn.end->status.ToString()
                                        : "no end");
    tokens.insert(tokens.end(), turn.tokens.begin(), turn.tokens.end());
    logprobs.insert(logprobs.end(), turn.logprobs.begin(), turn.logprobs.end());
    digest = turn.end->digest;
  }
};

using Results = std::array<Result, kSessions>;

struct Param {
  TestDevice device;
  bool is_mlp;
  bool bf16;
  bool is_late = false;
  int head_dim = 32;
};

std::vector<Param> Params() {
  std::vector<Param> params;
  for (const TestDevice device : TestDevices()) {
    if (device == TestDevice::kReference) continue;
    for (const bool is_mlp : {false, true}) {
      for (const bool bf16 : {false, true}) {
        params.push_back({device, is_mlp, bf16});
      }
    }
    for (const bool is_mlp : {false, true}) {
      if (device == TestDevice::kCpu) {
        params.push_back({device, is_mlp, false, /*is_late=*/true});
        continue;
      }
      for (const int head_dim : {64, 96}) {  // of the published models
        params.push_back({device, is_mlp, true, /*is_late=*/false, head_dim});
      }
    }
  }
  return params;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return TestDeviceName(info.param.device) +
         (info.param.is_mlp ? "Mlp" : "Linear") +
         (info.param.bf16 ? "BFloat16" : "Float32") +
         (info.param.is_late ? "Late" : "") +
         (info.param.head_dim == 32
              ? ""
              : "HeadsOf" + std::to_string(info.param.head_dim));
}

class SameBitsTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (GetParam().bf16 && !HasBFloat16(GetParam().device)) {
      GTEST_SKIP() << "no bfloat16 here";
    }
    options_.config = SmallConfig(GetParam().is_mlp);
    options_.config.hidden_size =
        GetParam().head_dim * options_.config.num_attention_heads;
    options_.backend.device = GetParam().device;
    options_.backend.precision =
        GetParam().bf16 ? Precision::kBFloat16 : Precision::kFloat32;
    expected_ = Alone(options_);
    options_.is_late = GetParam().is_late;
  }

  static Results Alone(const EngineFixture::Options& options) {
    EngineFixture f(options);
    Results results;
    for (int turn = 0; turn < kTurns; ++turn) {
      for (int s = 0; s < kSessions; ++s) {
        results[s].Add(f.Run(TurnRequest(s, turn), Name(s)));
      }
    }
    return results;
  }

  // All sessions at once, each turn begun after `stagger` steps, in this order.
  static Results Together(EngineFixture& f, std::array<int, kSessions> order,
                          int stagger) {
    Results results;
    for (int turn = 0; turn < kTurns; ++turn) {
      std::vector<std::pair<int, PendingTurn>> running;
      for (const int s : order) {
        running.emplace_back(s, f.Submit(TurnRequest(s, turn), Name(s)));
        for (int i = 0; i < stagger; ++i) f.engine().Step();
      }
      f.RunAll();
      for (auto& [s, pending] : running) results[s].Add(pending.Read());
    }
    return results;
  }

  EngineFixture::Options options_;
  Results expected_;
};

TEST_P(SameBitsTest, InABatch) {
  EngineFixture f(options_);
  EXPECT_EQ(Together(f, {0, 1, 2, 3, 4, 5}, 0), expected_);
}

TEST_P(SameBitsTest, InAShuffledBatchAtMixedPhases) {
  for (const int stagger : {1, 2, 5}) {
    EngineFixture f(options_);
    EXPECT_EQ(Together(f, {4, 2, 5, 0, 3, 1}, stagger), expected_) << stagger;
  }
}

TEST_P(SameBitsTest, InSmallerBatches) {
  for (const int rows : {2, 3, 5}) {
    EngineFixture::Options options = options_;
    options.max_batch_rows = rows;
    EngineFixture f(options);
    EXPECT_EQ(Together(f, {5, 4, 3, 2, 1, 0}, 1), expected_) << rows;
  }
}

TEST_P(SameBitsTest, AtEveryChunkSize) {
  for (int chunk = 1; chunk <= 40; ++chunk) {
    EngineFixture::Options options = options_;
    options.max_batch_rows = 1;
    options.max_batch_tokens = chunk;
    EXPECT_EQ(Alone(options), expected_) << chunk;
  }
}

TEST_P(SameBitsTest, CutIntoManyCalls) {
  for (const int cut : {1, 4, 15, 16, 17}) {
    EngineFixture f(options_);
    for (int s = 0; s < kSessions; ++s) {
      Result result;
      for (int turn = 0; turn < kTurns; ++turn) {
        Request request = TurnRequest(s, turn);
        std::vector<int32_t> input = std::move(request.input_ids);
        while (static_cast<int>(input.size()) > cut) {
          ASSERT_TRUE(f.Run(EngineFixture::Complete(
                                {input.begin(), input.begin() + cut}, 0),
                            Name(s))
                          .ok());
          input.erase(input.begin(), input.begin() + cut);
        }
        request.input_ids = std::move(input);
        result.Add(f.Run(std::move(request), Name(s)));
      }
      EXPECT_EQ(result, expected_[s]) << "session " << s << ", cut " << cut;
    }
  }
}

TEST_P(SameBitsTest, AfterCancelledAttempts) {
  EngineFixture f(options_);
  Results results;
  for (int turn = 0; turn < kTurns; ++turn) {
    for (int s = 0; s < kSessions; ++s) {
      for (int steps = 0; steps < 4; ++steps) {
        PendingTurn attempt = f.Submit(TurnRequest(s + 17, turn), Name(s));
        for (int i = 0; i < steps; ++i) f.engine().Step();
        attempt.stream().Cancel();
        f.RunAll();
        ASSERT_FALSE(attempt.Read().ok());
      }
      results[s].Add(f.Run(TurnRequest(s, turn), Name(s)));
    }
  }
  EXPECT_EQ(results, expected_);
}

TEST_P(SameBitsTest, InAForkAndInItsParent) {
  EngineFixture f(options_);
  for (int s = 0; s < kSessions; ++s) {
    Result parent;
    parent.Add(f.Run(TurnRequest(s, 0), Name(s)));
    Result fork = parent;
    ASSERT_TRUE(f.store()
                    .ForkSession(Name(s), Name(s) + "-fork",
                                 absl::InfiniteDuration(), std::nullopt)
                    .ok());
    PendingTurn parent_turn = f.Submit(TurnRequest(s, 1), Name(s));
    PendingTurn fork_turn = f.Submit(TurnRequest(s, 1), Name(s) + "-fork");
    f.RunAll();
    parent.Add(parent_turn.Read());
    fork.Add(fork_turn.Read());
    EXPECT_EQ(parent, expected_[s]);
    EXPECT_EQ(fork, expected_[s]);
  }
}

TEST_P(SameBitsTest, WithAnyNumberOfThreads) {
  for (const int threads : {1, 3}) {
    EngineFixture::Options options = options_;
    options.backend.num_threads = threads;
    EngineFixture f(options);
    EXPECT_EQ(Together(f, {0, 1, 2, 3, 4, 5}, 1), expected_) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, SameBitsTest, testing::ValuesIn(Params()),
                         ParamName);

}  // namespace
}  // namespace ttt
