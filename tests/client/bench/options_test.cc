#include "client/bench/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace ttt::bench {
namespace {

absl::StatusOr<Options> Parse(const std::vector<std::string>& args) {
  Flags flags;
  FlagSet set;
  flags.AddTo(&set);
  const auto parsed = set.Parse(args);
  if (!parsed.ok()) return parsed.status();
  return flags.Check("server", absl::InfiniteDuration());
}

TEST(LengthTest, DrawsWithinItsRangeAndBothEnds) {
  const Length length = Length::Parse("3:5", 1).value();
  Random random(1);
  std::vector<int> seen(6);
  for (int i = 0; i < 300; ++i) ++seen.at(length.Draw(&random));
  EXPECT_EQ(seen[0] + seen[1] + seen[2], 0);
  EXPECT_NEAR(seen[3], 100, 40);
  EXPECT_NEAR(seen[4], 100, 40);
  EXPECT_NEAR(seen[5], 100, 40);
  EXPECT_EQ(length.max(), 5);
}

TEST(LengthTest, FixedIsAlwaysTheSame) {
  Random random(1);
  EXPECT_EQ(Length::Parse("64", 1)->Draw(&random), 64);
}

TEST(OptionsTest, DefaultsAreAClosedLoopOfTwentySeconds) {
  const Options options = Parse({}).value();
  EXPECT_EQ(options.concurrency, 8);
  EXPECT_EQ(options.rate, std::nullopt);
  EXPECT_EQ(options.duration, absl::Seconds(20));
  EXPECT_EQ(options.mode, Mode::kStateless);
  EXPECT_TRUE(options.ignore_eos);
  EXPECT_EQ(options.channels, 1);
}

TEST(OptionsTest, SeveralTurnsAreASessionUnlessSaidOtherwise) {
  EXPECT_EQ(Parse({"--turns=2"})->mode, Mode::kStateful);
  EXPECT_EQ(Parse({"--turns=2", "--mode=history"})->mode, Mode::kHistory);
}

TEST(OptionsTest, RequestsAloneSetNoTime) {
  EXPECT_EQ(Parse({"--requests=5"})->duration, std::nullopt);
}

TEST(OptionsTest, ChannelsFollowTheCallsThatMayRun) {
  EXPECT_EQ(Parse({"--rate=5", "--max-outstanding=2500"})->channels, 3);
}

struct Wrong {
  std::vector<std::string> args;
  std::string message;
};

class WrongOptionsTest : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongOptionsTest, NamesTheValue) {
  EXPECT_THAT(Parse(GetParam().args),
              StatusIs(absl::StatusCode::kInvalidArgument, GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongOptionsTest,
    ::testing::Values(
        Wrong{{"--concurrency=0"}, "--concurrency: '0'"},
        Wrong{{"--rate=0"}, "--rate: '0'"},
        Wrong{{"--rate=5", "--concurrency=3"}, "--concurrency=3"},
        Wrong{{"--max-outstanding=5"}, "--max-outstanding=5 needs --rate"},
        Wrong{{"--duration=0"}, "--duration: '0'"},
        Wrong{{"--mode=both"}, "--mode: 'both'"},
        Wrong{{"--input-tokens=0"}, "--input-tokens: '0'"},
        Wrong{{"--input-tokens=9:3"}, "--input-tokens: '9:3'"},
        Wrong{{"--input-tokens=some"}, "--input-tokens: 'some'"},
        Wrong{{"--input-tokens="}, "--input-tokens: ''"},
        Wrong{{"--output-tokens=-1"}, "--output-tokens: '-1'"},
        Wrong{{"--output-tokens=lognormal:0:1:9"}, "'lognormal:0:1:9'"},
        Wrong{{"--output-tokens=lognormal:nan:1:9"}, "'lognormal:nan:1:9'"},
        Wrong{{"--cancel-fraction=1.5"}, "--cancel-fraction: '1.5'"},
        Wrong{{"--slow-reader-fraction=-0.5"}, "'-0.5'"},
        Wrong{{"--unary", "--cancel-fraction=0.5"}, "--cancel-within"},
        Wrong{{"--unary", "--slow-reader-fraction=0.5"}, "--unary"},
        Wrong{{"--unary", "--slo-ttft=1s"}, "--slo-e2e"},
        Wrong{{"--temperature=-1"}, "--temperature: '-1'"},
        Wrong{{"--background-prompts=2"}, "--background-prompts=2 needs"},
        Wrong{{"--keep-sessions"}, "--mode=stateful"},
        Wrong{{"--text-file=a", "--mode=history"}, "--text-file=a"}));

TEST(OptionsTest, ServersLimitsAreNamed) {
  v1::ServerInfo info;
  info.mutable_limits()->set_max_input_tokens(100);
  EXPECT_THAT(CheckAgainst(info, *Parse({"--input-tokens=50:101"})),
              StatusIs(absl::StatusCode::kInvalidArgument, "101"));
  EXPECT_THAT(CheckAgainst(info, *Parse({"--background-prompt-tokens=500"})),
              StatusIs(absl::StatusCode::kInvalidArgument, "500"));
  EXPECT_THAT(CheckAgainst(info, *Parse({"--text-file=a"})),
              StatusIs(absl::StatusCode::kInvalidArgument, "no tokenizer"));
  EXPECT_THAT(CheckAgainst(info, *Parse({"--input-tokens=100"})), IsOk());
}

}  // namespace
}  // namespace ttt::bench
