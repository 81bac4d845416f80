// An engine that plans a step before the last is finished answers as one that
// does not, and a state holds what its turn answered, whenever it ended.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr int kSessions = 6;
constexpr int kRounds = 10;
constexpr int32_t kEos = 5;

// An id is a letter, but for every ninth, which has no text.
class LetterTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              bool) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>) const override {
    return absl::UnimplementedError("not needed");
  }
  std::string Piece(int32_t) const override { return "x"; }
  TokenText Text(int32_t id) const override {
    if (id % 9 == 0) return {};
    return {.text = std::string(1, static_cast<char>('a' + id % 7))};
  }
  int32_t vocab_size() const override { return 97; }
  int32_t bos_id() const override { return 1; }
  int32_t eos_id() const override { return kEos; }
};

struct ScriptTurn {
  std::string session;  // empty: stateless
  Request request;
};

class Script {
 public:
  explicit Script(uint32_t seed) : random_(seed) {}

  int Below(int n) { return static_cast<int>(random_() % n); }
  bool OneIn(int n) { return Below(n) == 0; }
  template <typename T>
  T Pick(std::vector<T> values) {
    return values[Below(static_cast<int>(values.size()))];
  }

  // `may_be_empty`: of a session that has tokens.
  Request Complete(bool may_be_empty) {
    Request request;
    const int tokens = Pick<int>({may_be_empty ? 0 : 1, 1, 2, 15, 16, 40, 90});
    request.input_ids = RandomIds(random_(), tokens);
    request.max_tokens = Pick<int64_t>({0, 1, 2, 3, 17, 40});
    request.sampling.temperature = Pick<float>({0.0f, 0.9f, 1.5f});
    request.sampling.seed = random_();
    if (OneIn(3)) {
      request.sampling.repetition_penalty = 1.3f;
      request.sampling.frequency_penalty = 0.5f;
      request.sampling.presence_penalty = 0.2f;
    }
    if (OneIn(4)) request.sampling.logit_bias = {{kEos, 6.0f}, {7, -100.0f}};
    if (OneIn(3)) request.stop.token_ids = RandomIds(random_(), 8);
    if (OneIn(3)) request.stop.strings = {"aa", "bcd", "f"};
    request.stop.ignore_eos = OneIn(3);
    if (OneIn(2)) request.top_logprobs = Pick<int32_t>({0, 3, 5});
    if (OneIn(2)) request.on_cancel = OnCancel::kCommitPartial;
    return request;
  }

  Request Score() {
    Request request;
    request.kind = RequestKind::kScore;
    request.input_ids = RandomIds(random_(), Pick<int>({1, 2, 20, 70}));
    request.top_logprobs = Pick<int32_t>({0, 4});
    return request;
  }

 private:
  std::mt19937 random_;
};

std::string Name(int session) { return absl::StrCat("s", session); }

// What runs the steps while the engine looks ahead, if it does.
enum class Runner { kCpu, kLateCpu, kCuda, kCudaBFloat16 };

std::string RunnerName(const testing::TestParamInfo<Runner>& info) {
  switch (info.param) {
    case Runner::kCpu:
      return "Cpu";
    case Runner::kLateCpu:
      return "LateCpu";
    case Runner::kCuda:
      return "Cuda";
    case Runner::kCudaBFloat16:
      break;
  }
  return "CudaBFloat16";
}

std::vector<Runner> RunnersThatLookAhead() {
  std::vector<Runner> runners = {Runner::kLateCpu};
  if (HasCuda()) {
    runners.insert(runners.end(), {Runner::kCuda, Runner::kCudaBFloat16});
  }
  return runners;
}

// Has the engine wait for each step.
class WaitingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  bool is_asynchronous() const override { return false; }
};

EngineFixture::Options Options(Runner runner, int32_t max_batch_rows,
                               bool looks_ahead = true) {
  static const LetterTokenizer tokenizer;
  EngineFixture::Options options;
  if (runner == Runner::kCuda || runner == Runner::kCudaBFloat16) {
    options.backend.device = TestDevice::kCuda;
  }
  if (runner == Runner::kCudaBFloat16) {
    options.backend.precision = Precision::kBFloat16;
  }
  options.is_late = runner == Runner::kLateCpu && looks_ahead;
  if (!looks_ahead) {
    options.wrap = [](Backend* device) {
      return std::make_unique<WaitingBackend>(device);
    };
  }
  options.config.eos_token_id = kEos;
  options.max_batch_rows = max_batch_rows;
  options.tokenizer = &tokenizer;
  options.poison_released = true;
  return options;
}

std::vector<std::tuple<int32_t, std::optional<float>, size_t>> Told(
    const std::vector<TokenPosition>& positions) {
  std::vector<std::tuple<int32_t, std::optional<float>, size_t>> told;
  for (const TokenPosition& position : positions) {
    told.emplace_back(position.token_id, position.logprob, position.top.size());
    for (const TokenLogprob& candidate : position.top) {
      told.emplace_back(candidate.token_id, candidate.logprob, 0);
    }
  }
  return told;
}

// All that a turn tells but for times.
auto Answer(const TurnOutcomeRecord& turn) {
  const TurnEnd& end = turn.end.value();
  return std::make_tuple(
      turn.tokens, turn.logprobs, turn.text, end.status.ToString(),
      end.finish_reason, end.matched_stop, end.usage.input_tokens,
      end.usage.output_tokens, end.usage.session_tokens, end.revision,
      end.digest, Told(end.positions),
      end.first.has_value() ? Told({*end.first})
                            : decltype(Told(end.positions))());
}
using Answers =
    std::vector<decltype(Answer(std::declval<TurnOutcomeRecord>()))>;

// Turns that end by themselves, some in the middle of the others.
Answers RunScript(uint32_t seed, EngineFixture& f) {
  Script script(seed);
  Answers answers;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<PendingTurn> pending;
    for (int s = 0; s < kSessions; ++s) {
      const auto info = f.store().GetSession(Name(s));
      const bool has_tokens = info.ok() && info->tokens > 0;
      const Request request =
          script.OneIn(4) ? script.Score() : script.Complete(has_tokens);
      const bool needs_session =
          has_tokens && request.kind == RequestKind::kScore;
      const bool in_session =
          needs_session || (request.kind == RequestKind::kComplete &&
                            (request.input_ids.empty() || !script.OneIn(4)));
      pending.push_back(f.Submit(request, in_session ? Name(s) : ""));
      for (int steps = script.Below(4); steps > 0; --steps) f.engine().Step();
    }
    f.RunAll();
    for (PendingTurn& turn : pending) answers.push_back(Answer(turn.Read()));
  }
  return answers;
}

class LookaheadTest : public testing::TestWithParam<Runner> {};

TEST_P(LookaheadTest, GivesTheAnswersOfAnEngineThatWaitsForEachStep) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    for (const int32_t rows : {1, 3, 8}) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, ", ", rows, " rows"));
      EngineFixture waiting(Options(GetParam(), rows, false));
      EngineFixture looking(Options(GetParam(), rows));
      const Answers expected = RunScript(seed, waiting);
      const Answers answers = RunScript(seed, looking);
      ASSERT_EQ(answers.size(), expected.size());
      for (size_t i = 0; i < answers.size(); ++i) {
        EXPECT_EQ(answers[i], expected[i]) << "turn " << i;
      }
      EXPECT_EQ(looking.pool().usage().slots_in_use,
                waiting.pool().usage().slots_in_use);
    }
  }
}

// What a session holds if each turn is what it said.
struct Model {
  std::vector<int32_t> ids;
  uint64_t revision = 0;

  void Add(const Request& request, const TurnOutcomeRecord& turn) {
    const TurnEnd& end = turn.end.value();
    if (!end.status.ok()) return;
    ids.insert(ids.end(), request.input_ids.begin(),
               request.input_ids.begin() + end.usage.input_tokens);
    ids.insert(ids.end(), turn.tokens.begin(), turn.tokens.end());
    EXPECT_EQ(end.usage.output_tokens,
              static_cast<int64_t>(turn.tokens.size()));
    EXPECT_EQ(end.revision, ++revision);
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, LookaheadTest,
                         testing::ValuesIn(RunnersThatLookAhead()), RunnerName);

class CancelTest : public testing::TestWithParam<Runner> {};

TEST_P(CancelTest, AtAnyStepLeavesTheStateOfWhatTheTurnSaidOrOfNoTurn) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Script script(seed);
    EngineFixture f(Options(GetParam(), script.Pick<int32_t>({2, 8})));
    std::map<std::string, Model> models;
    for (int round = 0; round < kRounds; ++round) {
      struct Running {
        std::string session;
        Request request;
        PendingTurn turn;
        int cancel_at;
      };
      std::vector<Running> running;
      for (int s = 0; s < kSessions; ++s) {
        const std::string name = Name(s);
        Request request = script.Complete(!models[name].ids.empty());
        if (script.OneIn(4)) {
          request.deadline =
              f.clock().Now() + absl::Milliseconds(1 + script.Below(30));
        }
        running.push_back(
            {name, request, f.Submit(request, name), script.Below(25) - 5});
      }
      for (int step = 0; f.engine().Step(); ++step) {
        for (Running& one : running) {
          if (one.cancel_at == step) one.turn.stream().Cancel();
        }
        // So fast that launches of several steps are among them.
        f.clock().Advance(absl::Milliseconds(1));
      }
      for (Running& one : running) {
        const TurnOutcomeRecord& turn = one.turn.Read();
        ASSERT_TRUE(turn.end.has_value());
        models[one.session].Add(one.request, turn);
      }
    }
    for (auto& [name, model] : models) {
      const auto info = f.store().GetSession(name);
      ASSERT_EQ(info.ok(), model.revision > 0);
      if (!info.ok()) continue;
      EXPECT_EQ(info->revision, model.revision);
      EXPECT_EQ(info->tokens, static_cast<int64_t>(model.ids.size()));
      Request read;
      read.input_ids = model.ids;
      read.max_tokens = 0;
      EXPECT_EQ(f.Run(read, name + "-read").end->digest, info->digest);
      ASSERT_THAT(f.store().DeleteSession(name), IsOk());
      ASSERT_THAT(f.store().DeleteSession(name + "-read"), IsOk());
    }
    EXPECT_EQ(f.pool().usage().slots_in_use, 0);
  }
}

std::vector<Runner> Runners() {
  std::vector<Runner> runners = RunnersThatLookAhead();
  runners.push_back(Runner::kCpu);
  return runners;
}

INSTANTIATE_TEST_SUITE_P(Devices, CancelTest, testing::ValuesIn(Runners()),
                         RunnerName);

Request Plain(int input_tokens, int64_t max_tokens) {
  Request request =
      EngineFixture::Complete(RandomIds(1, input_tokens), max_tokens);
  request.top_logprobs.reset();
  return request;
}

TEST(LateDeviceTest, BeginsTheNextStepBeforeItWaitsForTheLast) {
  EngineFixture f({.is_late = true});
  PendingTurn turn = f.Submit(Plain(5, 10), "s");
  EXPECT_TRUE(f.engine().Step());
  EXPECT_EQ(f.late().num_waits(), 0);
  EXPECT_TRUE(f.engine().Step());
  EXPECT_EQ(f.late().num_waits(), 1);
  EXPECT_EQ(turn.Read().tokens.size(), 1u);
}

TEST(LateDeviceTest, WaitsForAllThatIsQueuedNotOnceInATurn) {
  EngineFixture f(Options(Runner::kLateCpu, 8));
  f.Run(Plain(5, 3), "s");
  const int64_t before = f.late().num_synchronizations();
  PendingTurn other = f.Submit(Plain(20, 30), "t");
  ASSERT_TRUE(f.Run(Plain(5, 10), "s").ok());
  ASSERT_TRUE(other.Read().ok());
  EXPECT_EQ(f.late().num_synchronizations(), before);
}

TEST(LateDeviceTest, KeepsNoMoreForASlowReaderThanItsStreamHolds) {
  EngineFixture f({.stream_tokens = 4, .is_late = true});
  PendingTurn slow = f.Submit(Plain(5, 20), "s");
  size_t taken = 0;
  for (int i = 0; i < 5; ++i) {
    f.RunAll();
    EXPECT_EQ(slow.Read().tokens.size() - taken, 4u);
    taken = slow.Read().tokens.size();
  }
  f.RunAll();
  EXPECT_TRUE(slow.Read().ok());
}

// Whose steps may be in flight, and whose calls can fail at once.
class FailingDevice : public FailingBackend {
 public:
  using FailingBackend::FailingBackend;
  bool is_asynchronous() const override { return true; }
};

TEST(LateDeviceTest, AStepThatCannotBeginLeavesTheOneBeforeItAlone) {
  FailingDevice* device = nullptr;
  EngineFixture f({.wrap = [&](Backend* cpu) {
    auto failing = std::make_unique<FailingDevice>(cpu);
    device = failing.get();
    return failing;
  }});
  // The first reads its input, then the token that it chose; the other one has
  // the third step for itself.
  device->FailNth(BackendCall::kCopyToDevice, 3, absl::InternalError("no"));
  PendingTurn first = f.Submit(Plain(3, 1), "first");
  f.engine().Step();
  PendingTurn second = f.Submit(Plain(3, 5), "second");
  f.RunAll();
  EXPECT_TRUE(first.Read().ok());
  ASSERT_TRUE(second.Read().end.has_value());
  EXPECT_EQ(ErrorReason(second.Read().end->status), "STEP_FAILED");
  EXPECT_TRUE(f.Run(Plain(3, 5), "second").ok());
}

TEST(LateDeviceTest, AStepTakesTheTimeSinceTheOneBeforeItEnded) {
  EngineFixture f({.is_late = true});
  f.Submit(Plain(5, 10));
  for (int i = 0; i < 6; ++i) {
    f.engine().Step();
    f.clock().Advance(absl::Seconds(1));
  }
  // Of five steps that were finished the first took 2 rounds less the one in
  // which it was begun, and each other one.
  EXPECT_NE(
      f.metrics().Scrape().find("ttt_step_seconds_sum{kind=\"decode\"} 4\n"),
      std::string::npos);
}

}  // namespace
}  // namespace ttt
