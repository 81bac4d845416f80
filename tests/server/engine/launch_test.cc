// Several decode steps in one launch answer as single steps do, and leave the
// states that these leave, whatever ends a turn in the middle of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr int32_t kEos = 5;

struct Param {
  TestDevice device;
  bool is_mlp;
  bool bf16;
};

std::vector<Param> Params() {
  std::vector<Param> params = {{TestDevice::kCpu, false, false},
                               {TestDevice::kCpu, true, false}};
  if (!HasCuda()) return params;
  for (const bool is_mlp : {false, true}) {
    for (const bool bf16 : {false, true}) {
      params.push_back({TestDevice::kCuda, is_mlp, bf16});
    }
  }
  return params;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return absl::StrCat(
      info.param.device == TestDevice::kCpu ? "LateCpu" : "Cuda",
      info.param.is_mlp ? "Mlp" : "Linear", info.param.bf16 ? "BFloat16" : "");
}

// Has the engine wait for each step, and give it no more than one.
class WaitingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  bool is_asynchronous() const override { return false; }
};

EngineFixture::Options Options(const Param& param, bool waits) {
  EngineFixture::Options options;
  options.backend.device = param.device;
  options.backend.precision =
      param.bf16 ? Precision::kBFloat16 : Precision::kFloat32;
  options.config = SmallConfig(param.is_mlp);
  options.config.eos_token_id = kEos;
  options.poison_released = true;
  if (waits) {
    options.wrap = [](Backend* device) {
      return std::make_unique<WaitingBackend>(device);
    };
  } else {
    options.is_late = param.device == TestDevice::kCpu;
  }
  return options;
}

// All that a turn tells but for times.
auto Answer(const TurnOutcomeRecord& turn) {
  const TurnEnd end = turn.end.value_or(
      TurnEnd{.status = absl::InternalError("it has not ended")});
  return std::make_tuple(turn.tokens, turn.logprobs, end.status.ToString(),
                         end.finish_reason, end.usage.input_tokens,
                         end.usage.output_tokens, end.usage.session_tokens,
                         end.revision, end.digest);
}

// `mode` 0: greedy; 1: drawn; 2: drawn, with what the last tokens weigh.
Request MakeRequest(int seed, int mode, int64_t max_tokens) {
  Request request =
      EngineFixture::Complete(RandomIds(seed, 2 + 5 * seed % 17), max_tokens);
  request.sampling.seed = seed;
  if (mode == 0) request.sampling.temperature = 0;
  if (mode == 2) {
    request.sampling.temperature = 1.3f;
    request.sampling.repetition_penalty = 1.3f;
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.logit_bias = {{3, 2.0f}, {7, -100.0f}};
  }
  request.stop.ignore_eos = true;
  return request;
}
constexpr int kModes = 3;

int64_t MetricOf(EngineFixture& f, absl::string_view name) {
  int64_t total = 0;
  for (const absl::string_view line :
       absl::StrSplit(f.metrics().Scrape(), '\n')) {
    int64_t value = 0;
    if (absl::StartsWith(line, name) &&
        absl::SimpleAtoi(line.substr(line.rfind(' ') + 1), &value)) {
      total += value;
    }
  }
  return total;
}
int64_t NumSteps(EngineFixture& f) {
  return MetricOf(f, "ttt_step_seconds_count");
}

class LaunchTest : public testing::TestWithParam<Param> {
 protected:
  int64_t NumLaunches() {
    return GetParam().device == TestDevice::kCpu
               ? launching_.late().num_waits()
               : launching_.device().counts().recordings_run;
  }
  void ExpectEqual(PendingTurn& single, PendingTurn& launched) {
    EXPECT_EQ(Answer(launched.Read()), Answer(single.Read()));
  }

  EngineFixture single_{Options(GetParam(), /*waits=*/true)};
  EngineFixture launching_{Options(GetParam(), /*waits=*/false)};
};

TEST_P(LaunchTest, GivesTheAnswersOfSingleSteps) {
  for (int mode = 0; mode < kModes; ++mode) {
    for (int round = 0; round < 2; ++round) {  // The second goes on.
      std::vector<PendingTurn> single, launched;
      for (const int64_t max_tokens : {1, 2, 7, 23, 24, 25, 40}) {
        const Request request =
            MakeRequest(10 * mode + int(max_tokens), mode, max_tokens);
        const std::string session =
            max_tokens == 24 ? "" : absl::StrCat("s", mode, "-", max_tokens);
        single.push_back(single_.Submit(request, session));
        launched.push_back(launching_.Submit(request, session));
      }
      single_.RunAll();
      launching_.RunAll();
      for (size_t i = 0; i < single.size(); ++i) {
        SCOPED_TRACE(absl::StrCat("mode ", mode, ", turn ", i));
        ASSERT_TRUE(single[i].Read().ok());
        ExpectEqual(single[i], launched[i]);
      }
    }
  }
  EXPECT_GT(NumLaunches(), 0);
  EXPECT_LT(2 * NumLaunches(), NumSteps(launching_));
}

// However many tokens were still to come.
TEST_P(LaunchTest, AStopIdAtAnyStepLeavesTheStateOfSingleSteps) {
  for (int mode = 0; mode < kModes; ++mode) {
    const Request whole = MakeRequest(1, mode, 12);
    const std::vector<int32_t> tokens =
        single_.Run(whole, absl::StrCat("whole", mode)).tokens;
    for (int n = 0; n < static_cast<int>(tokens.size()); ++n) {
      for (const int more_tokens : {-1, 1, 2, 3, 4, 25}) {
        const bool has_session = more_tokens > 0;
        SCOPED_TRACE(absl::StrCat("mode ", mode, ", token ", n, ", of ",
                                  more_tokens, " more"));
        Request request = MakeRequest(1, mode, n + 1 + std::abs(more_tokens));
        // As many as a call may have.
        for (int32_t id = 97 - 63; id < 97; ++id) {
          const bool comes = std::count(tokens.begin(), tokens.end(), id) > 0;
          request.stop.token_ids.push_back(comes ? 0 : id);
        }
        request.stop.token_ids.push_back(tokens[n]);
        const std::string session =
            has_session ? absl::StrCat("s", mode, "-", n, "-", more_tokens)
                        : "";
        PendingTurn single = single_.Submit(request, session);
        PendingTurn launched = launching_.Submit(request, session);
        single_.RunAll();
        launching_.RunAll();
        EXPECT_EQ(single.Read().end->finish_reason, FinishReason::kStop);
        ExpectEqual(single, launched);
        if (!has_session) continue;
        const Request more = MakeRequest(2, mode, 9);
        EXPECT_EQ(Answer(launching_.Run(more, session)),
                  Answer(single_.Run(more, session)));
        for (EngineFixture* f : {&single_, &launching_}) {
          ASSERT_THAT(f->store().DeleteSession(session), IsOk());
        }
      }
    }
  }
  EXPECT_GT(NumLaunches(), 0);
  EXPECT_LT(NumLaunches(), NumSteps(launching_));
}

TEST_P(LaunchTest, EndOfTextEndsATurnUnlessItIsIgnored) {
  for (int seed = 0; seed < 12; ++seed) {
    for (const bool ignores : {false, true}) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, ignores ? ", ignored" : ""));
      Request request = MakeRequest(seed, 1, 30);
      request.sampling.top_p = 1.0f;
      request.sampling.logit_bias = {{kEos, 2.5f}};
      request.stop.ignore_eos = ignores;
      const std::string session = absl::StrCat("s", seed, ignores);
      EXPECT_EQ(Answer(launching_.Run(request, session)),
                Answer(single_.Run(request, session)));
    }
  }
}

TEST_P(LaunchTest, RowsThatEndAtDifferentStepsLeaveEachOtherAlone) {
  constexpr int kTurns = 7;
  for (int mode = 0; mode < kModes; ++mode) {
    std::vector<PendingTurn> launched;
    std::vector<TurnOutcomeRecord> alone;
    for (int i = 0; i < kTurns; ++i) {
      Request request = MakeRequest(20 + i, mode, 30);
      const std::string session = absl::StrCat("s", mode, "-", i);
      const std::vector<int32_t> tokens =
          single_.Run(request, absl::StrCat("whole", session)).tokens;
      // One ends by its number of tokens.
      if (i > 0) request.stop.token_ids = {tokens[3 + 2 * i]};
      alone.push_back(single_.Run(request, session));
      launched.push_back(launching_.Submit(request, session));
    }
    launching_.RunAll();
    for (int i = 0; i < kTurns; ++i) {
      SCOPED_TRACE(absl::StrCat("mode ", mode, ", turn ", i));
      EXPECT_EQ(Answer(launched[i].Read()), Answer(alone[i]));
    }
  }
  EXPECT_GT(NumLaunches(), 0);
  EXPECT_LT(NumLaunches(), NumSteps(launching_));
}

TEST_P(LaunchTest, ATurnThatComesInBetweenLeavesTheOthersAsTheyAre) {
  const Request request = MakeRequest(3, 1, 30);
  const std::vector<int32_t> tokens = single_.Run(request, "whole").tokens;
  for (int rounds = 1; rounds < 9; ++rounds) {
    SCOPED_TRACE(rounds);
    // Its last token is chosen about when the other one comes.
    Request stopped = request;
    stopped.stop.token_ids = {tokens[2 * rounds]};
    const Request other = MakeRequest(4, 1, 11);
    const std::string session = absl::StrCat("s", rounds);
    PendingTurn first = launching_.Submit(stopped, session);
    PendingTurn second = launching_.Submit(request, session + "-second");
    for (int i = 0; i < rounds; ++i) launching_.engine().Step();
    PendingTurn third = launching_.Submit(other, session + "-third");
    launching_.RunAll();
    EXPECT_EQ(Answer(first.Read()), Answer(single_.Run(stopped, session)));
    EXPECT_EQ(Answer(second.Read()),
              Answer(single_.Run(request, session + "-second")));
    EXPECT_EQ(Answer(third.Read()),
              Answer(single_.Run(other, session + "-third")));
  }
}

TEST_P(LaunchTest, ACancelledTurnCommitsWhatItSaidOrNothing) {
  const Request request = MakeRequest(6, 1, 40);
  for (const OnCancel on_cancel :
       {OnCancel::kCommitPartial, OnCancel::kRollback}) {
    for (int rounds = 1; rounds < 12; ++rounds) {
      const bool is_partial = on_cancel == OnCancel::kCommitPartial;
      SCOPED_TRACE(absl::StrCat(rounds, is_partial ? ", partial" : ""));
      const std::string session = absl::StrCat("s", rounds, is_partial);
      Request cancelled = request;
      cancelled.on_cancel = on_cancel;
      PendingTurn turn = launching_.Submit(cancelled, session);
      PendingTurn other = launching_.Submit(request, session + "-other");
      for (int i = 0; i < rounds; ++i) launching_.engine().Step();
      turn.stream().Cancel();
      launching_.RunAll();
      EXPECT_EQ(Answer(other.Read()),
                Answer(single_.Run(request, session + "-other")));
      const TurnOutcomeRecord& said = turn.Read();
      ASSERT_TRUE(said.end.has_value());
      EXPECT_EQ(said.ok(), is_partial) << said.end->status;
      if (!is_partial) {
        EXPECT_THAT(launching_.store().GetSession(session),
                    StatusIs(absl::StatusCode::kNotFound));
        continue;
      }
      Request read;
      read.input_ids = request.input_ids;
      read.input_ids.insert(read.input_ids.end(), said.tokens.begin(),
                            said.tokens.end());
      read.max_tokens = 0;
      EXPECT_EQ(said.end->digest, single_.Run(read, session).end->digest);
      EXPECT_EQ(said.end->usage.session_tokens,
                static_cast<int64_t>(read.input_ids.size()));
    }
  }
}

TEST_P(LaunchTest, ANumberThatIsNotFiniteFailsItsTurnAlone) {
  EngineFixture::Options waiting = Options(GetParam(), /*waits=*/true);
  EngineFixture::Options launching = Options(GetParam(), /*waits=*/false);
  for (EngineFixture::Options* options : {&waiting, &launching}) {
    options->config.tie_word_embeddings = false;
  }
  const Request bad = MakeRequest(7, 1, 30);
  const std::vector<int32_t> tokens =
      EngineFixture(waiting).Run(bad, "bad").tokens;
  for (size_t n = 3; n < 12; ++n) {
    SCOPED_TRACE(n);
    waiting.spoiled_token = launching.spoiled_token = tokens[n];
    Request good = MakeRequest(8, 1, 30);
    good.input_ids = {tokens[n] == 0 ? 1 : 0};
    good.sampling.logit_bias = {{tokens[n], -100.0f}};
    EngineFixture f(launching);
    PendingTurn failing = f.Submit(bad, "bad");
    PendingTurn other = f.Submit(good, "good");
    f.RunAll();
    ASSERT_TRUE(failing.Read().end.has_value());
    EXPECT_EQ(ErrorReason(failing.Read().end->status), "NUMERIC_FAULT");
    EXPECT_THAT(f.store().GetSession("bad"),
                StatusIs(absl::StatusCode::kNotFound));
    EXPECT_EQ(MetricOf(f, "ttt_numeric_faults_total"), 1);
    EXPECT_EQ(Answer(other.Read()),
              Answer(EngineFixture(waiting).Run(good, "good")));
    EXPECT_EQ(f.pool().usage().slots_in_use, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, LaunchTest, testing::ValuesIn(Params()),
                         ParamName);

// A turn of n tokens in a session takes n steps and one that reads the last:
// the first, two until it is known what a step takes, and then four a launch.
TEST(LateLaunchTest, CountsEachStepAndItsTimeAndRunsNoneInVain) {
  EngineFixture f(Options({TestDevice::kCpu, false, false}, false));
  ASSERT_TRUE(f.Run(MakeRequest(1, 1, 10), "s").ok());
  EXPECT_EQ(f.late().num_waits(), 3 + 2);
  EXPECT_EQ(NumSteps(f), 11);
  EXPECT_EQ(MetricOf(f, "ttt_batch_rows_sum"), 11);
  EXPECT_EQ(MetricOf(f, "ttt_batch_tokens_sum"), 7 + 10);
  EXPECT_EQ(MetricOf(f, "ttt_inter_token_seconds_count"), 9);
  EXPECT_EQ(MetricOf(f, "ttt_tokens_total{kind=\"generated\"}"), 10);
  // Without a session nobody reads the last token.
  ASSERT_TRUE(f.Run(MakeRequest(1, 1, 10), "").ok());
  EXPECT_EQ(NumSteps(f), 21);
}

TEST(LateLaunchTest, ALongStepIsLaunchedAlone) {
  EngineFixture f(Options({TestDevice::kCpu, false, false}, false));
  f.Submit(MakeRequest(1, 1, 20), "s");
  while (f.engine().Step()) f.clock().Advance(absl::Milliseconds(2));
  EXPECT_EQ(f.late().num_waits(), NumSteps(f));
}

// As its text is looked at by the host alone.
TEST(LateLaunchTest, ATurnThatAStopStringMayEndTakesStepsOneByOne) {
  EngineFixture f(Options({TestDevice::kCpu, false, false}, false));
  Request request = MakeRequest(1, 1, 20);
  request.stop.strings = {"x"};
  f.Submit(request, "s");
  f.Submit(MakeRequest(2, 1, 20), "t");
  f.RunAll();
  EXPECT_EQ(f.late().num_waits(), NumSteps(f));
}

TEST(LateLaunchTest, ATurnThatWaitsForItsReaderLeavesTheOthersTheirLaunches) {
  EngineFixture::Options options =
      Options({TestDevice::kCpu, false, false}, false);
  options.stream_tokens = 16;
  EngineFixture f(options);
  const PendingTurn slow = f.Submit(MakeRequest(1, 1, 100), "s");
  PendingTurn quick = f.Submit(MakeRequest(2, 1, 100), "t");
  while (f.engine().Step()) quick.Read();
  EXPECT_TRUE(quick.Read().ok());
  EXPECT_LT(2 * f.late().num_waits(), NumSteps(f));
}

TEST(LateLaunchTest, AWaitingTurnIsNotKeptWaitingForSeveralSteps) {
  EngineFixture::Options options =
      Options({TestDevice::kCpu, false, false}, false);
  options.max_batch_rows = 1;
  EngineFixture f(options);
  f.Submit(MakeRequest(1, 1, 20));
  f.Submit(MakeRequest(2, 1, 0));
  f.RunAll();
  EXPECT_EQ(f.late().num_waits(), NumSteps(f));
}

}  // namespace
}  // namespace ttt
