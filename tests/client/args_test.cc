#include "client/args.h"

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class ArgsTest : public ::testing::Test {
 protected:
  ArgsTest() {
    flags_.Switch("json", &json_, "help of json");
    flags_.Name("session", &session_, "NAME", "help of session");
    flags_.Strings("stop", &stop_, "TEXT", "help of stop");
    flags_.Int32("max-tokens", &max_tokens_, "N", "help\nin two lines", 0, 100);
    flags_.Uint64("seed", &seed_, "N", "help of seed");
    flags_.Float("top-p", &top_p_, "P", "help of top-p");
    flags_.Duration("timeout", &timeout_, "TIME", "help of timeout");
    flags_.Ids("token-ids", &ids_, "IDS", "help of ids");
    flags_.Biases("logit-bias", &biases_, "ID=X", "help of biases");
    flags_.Choice("on-cancel", &choice_, {"rollback", "commit"}, "help");
  }

  FlagSet flags_;
  bool json_ = false;
  std::string session_;
  std::vector<std::string> stop_;
  std::optional<int32_t> max_tokens_;
  std::optional<uint64_t> seed_;
  std::optional<float> top_p_;
  absl::Duration timeout_ = absl::InfiniteDuration();
  std::vector<int32_t> ids_;
  std::map<int32_t, float> biases_;
  std::string choice_ = "rollback";
};

TEST_F(ArgsTest, FlagsAndArgumentsMixInAnyOrder) {
  const auto args = flags_.Parse({"one", "--json", "two", "--seed=7", "-"});
  ASSERT_THAT(args, IsOk());
  EXPECT_THAT(*args, ElementsAre("one", "two", "-"));
  EXPECT_TRUE(json_);
  EXPECT_EQ(seed_, 7);
}

TEST_F(ArgsTest, UnderscoresAreDashes) {
  ASSERT_THAT(flags_.Parse({"--max_tokens", "3", "--on_cancel=commit"}),
              IsOk());
  EXPECT_EQ(max_tokens_, 3);
  EXPECT_EQ(choice_, "commit");
}

TEST_F(ArgsTest, SwitchIsTurnedOffByNoOrFalse) {
  json_ = true;
  ASSERT_THAT(flags_.Parse({"--no-json"}), IsOk());
  EXPECT_FALSE(json_);
  ASSERT_THAT(flags_.Parse({"--json", "--json=false"}), IsOk());
  EXPECT_FALSE(json_);
}

TEST_F(ArgsTest, RepeatedFlagsGather) {
  ASSERT_THAT(flags_.Parse({"--stop", "a", "--stop=b=c", "--token-ids", "1,2",
                            "--token-ids", "3", "--logit-bias", "4=-1.5",
                            "--logit_bias=5=2"}),
              IsOk());
  EXPECT_THAT(stop_, ElementsAre("a", "b=c"));
  EXPECT_THAT(ids_, ElementsAre(1, 2, 3));
  EXPECT_THAT(biases_, ElementsAre(Pair(4, -1.5f), Pair(5, 2.0f)));
}

TEST_F(ArgsTest, TwoDashesEndTheFlags) {
  const auto args = flags_.Parse({"--json", "--", "--seed", "-x"});
  ASSERT_THAT(args, IsOk());
  EXPECT_THAT(*args, ElementsAre("--seed", "-x"));
}

TEST_F(ArgsTest, ValueMayBeginWithOneDash) {
  ASSERT_THAT(flags_.Parse({"--top-p", "-0.5"}), IsOk());
  EXPECT_EQ(top_p_, -0.5f);
}

TEST_F(ArgsTest, UnknownFlagIsNamed) {
  EXPECT_THAT(
      flags_.Parse({"--nonsense"}),
      StatusIs(absl::StatusCode::kInvalidArgument, "unknown flag --nonsense"));
  EXPECT_THAT(flags_.Parse({"--no-session"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "--no-session"));
  EXPECT_THAT(
      flags_.Parse({"-json"}),
      StatusIs(absl::StatusCode::kInvalidArgument, "unknown flag -json"));
}

TEST_F(ArgsTest, MissingValueIsRefused) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"--session"}, {"--session", "--json"}}) {
    EXPECT_THAT(flags_.Parse(args), StatusIs(absl::StatusCode::kInvalidArgument,
                                             "--session needs a value"));
  }
}

TEST_F(ArgsTest, ValueOutOfRangeIsNamed) {
  for (const std::string value : {"101", "-1", "1.5", "x", "", "99999999999"}) {
    EXPECT_THAT(flags_.Parse({"--max-tokens=" + value}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         "--max-tokens: '" + value + "' is not"));
  }
}

TEST_F(ArgsTest, MalformedValuesAreRefused) {
  for (const std::string arg :
       {"--seed=-1", "--top-p=nan", "--top-p=inf", "--timeout=0",
        "--timeout=-3", "--timeout=soon", "--timeout=nan", "--token-ids=1,x",
        "--token-ids=", "--token-ids=-1", "--logit-bias=1",
        "--logit-bias=1=", "--logit-bias=x=1", "--logit-bias=-1=1",
        "--on-cancel=never", "--json=maybe", "--session="}) {
    EXPECT_THAT(flags_.Parse({arg}),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << arg;
  }
}

TEST_F(ArgsTest, ValueThatIsTooLargeIsToldTheMost) {
  const auto parse = [this](const std::string& arg) {
    return std::string(flags_.Parse({arg}).status().message());
  };
  for (const std::string time : {"99999999999999h", "1e400", "878401h"}) {
    EXPECT_EQ(parse("--timeout=" + time),
              "--timeout: '" + time +
                  "' is not a duration of at most 878400h, a hundred years");
  }
  EXPECT_THAT(flags_.Parse({"--timeout=878400h"}), IsOk());
  EXPECT_EQ(parse("--top-p=1e50"),
            "--top-p: '1e50' is not a number from -3.4e38 to 3.4e38");
  EXPECT_EQ(parse("--logit-bias=1=-1e50"),
            "--logit-bias: '1=-1e50' is not a token id and a number from "
            "-3.4e38 to 3.4e38");
}

TEST_F(ArgsTest, DurationIsInSecondsUnlessItSaysSo) {
  EXPECT_EQ(*ParseDuration("1.5"), absl::Milliseconds(1500));
  EXPECT_EQ(*ParseDuration("200ms"), absl::Milliseconds(200));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
}

TEST_F(ArgsTest, IdsAreApartByCommasOrSpace) {
  EXPECT_THAT(*ParseIds("1,2 3\n4"), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(*ParseIds(" 1 ,2,\n3\n"), ElementsAre(1, 2, 3));
  EXPECT_THAT(ParseIds("1,two"),
              StatusIs(absl::StatusCode::kInvalidArgument, "'two'"));
}

TEST_F(ArgsTest, CommaWithoutAnIdIsRefused) {
  for (const std::string ids : {"1,,2", "1,", "1, ,2"}) {
    EXPECT_THAT(ParseIds(ids), StatusIs(absl::StatusCode::kInvalidArgument,
                                        "no token id after '1,'"))
        << ids;
    EXPECT_THAT(
        flags_.Parse({"--token-ids=" + ids}),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 "--token-ids: '" + ids + "' is not token ids such as 1,2,3"));
  }
  EXPECT_THAT(ParseIds(",1"), StatusIs(absl::StatusCode::kInvalidArgument,
                                       "no token id before ','"));
}

TEST_F(ArgsTest, HelpHasEveryFlagWithItsValue) {
  const std::string help = flags_.Help();
  EXPECT_THAT(help, HasSubstr("  --json                      help of json\n"));
  EXPECT_THAT(help, HasSubstr("  --session NAME "));
  EXPECT_THAT(help, HasSubstr("help\n                              in two"));
  EXPECT_THAT(help, HasSubstr("--on-cancel rollback|commit"));
}

}  // namespace
}  // namespace ttt
