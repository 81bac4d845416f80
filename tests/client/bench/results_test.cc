#include "client/bench/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/bench/report.h"

namespace ttt::bench {
namespace {

using ::testing::HasSubstr;

// Four tokens: the first two in one event at 0.1 s, two more at 0.2 and 0.4.
class ResultsTest : public ::testing::Test {
 protected:
  RequestRecord Ok() {
    gaps_ = {{0.2f, true}, {0.1f, false}};
    RequestRecord record;
    record.outcome = Outcome::kOk;
    record.in_window = true;
    record.ended_in_window = true;
    record.ttft = 0.1;
    record.last_token = 0.4;
    record.e2e = 0.5;
    record.output_tokens = 4;
    record.first_event_tokens = 2;
    record.events = 3;
    record.gaps = &gaps_;
    return record;
  }
  static RequestRecord Failed(Outcome outcome, const std::string& code,
                              const std::string& reason) {
    RequestRecord record;
    record.outcome = outcome;
    record.in_window = true;
    record.ended_in_window = true;
    record.code = code;
    record.reason = reason;
    return record;
  }

  std::vector<Gap> gaps_;
};

TEST_F(ResultsTest, TimeATokenLeavesTheFirstEventOut) {
  EXPECT_DOUBLE_EQ(TimePerOutputToken(Ok()).value(), 0.15);
}

TEST_F(ResultsTest, OneEventHasNoTimeAToken) {
  RequestRecord record = Ok();
  record.first_event_tokens = 4;
  EXPECT_EQ(TimePerOutputToken(record), std::nullopt);
}

TEST_F(ResultsTest, EachSloIsJudgedOnItsOwnTime) {
  const auto good = [&](const Slo& slo) {
    Results results(slo);
    results.AddRequest(Ok());
    return results.good() == 1;
  };
  const auto ms = [](int count) { return absl::Milliseconds(count); };
  EXPECT_TRUE(good({}));
  EXPECT_TRUE(good({.ttft = ms(100)}));
  EXPECT_FALSE(good({.ttft = ms(99)}));
  EXPECT_TRUE(good({.tpot = ms(151)}));
  EXPECT_FALSE(good({.tpot = ms(149)}));
  EXPECT_TRUE(good({.itl = ms(201)}));
  EXPECT_FALSE(good({.itl = ms(199)}));
  EXPECT_TRUE(good({.e2e = ms(500)}));
  EXPECT_FALSE(good({.e2e = ms(499)}));
  EXPECT_FALSE(good({.ttft = ms(100), .e2e = ms(499)}));
}

TEST_F(ResultsTest, GoodputCountsRefusedButNeitherCancelledNorSlowReaders) {
  Results results({.e2e = absl::Seconds(1)});
  results.AddRequest(Ok());
  RequestRecord slow = Ok();
  slow.slow_reader = true;
  results.AddRequest(slow);
  results.AddRequest(Failed(Outcome::kCancelled, "CANCELLED", ""));
  results.AddRequest(
      Failed(Outcome::kRefused, "RESOURCE_EXHAUSTED", "QUEUE_FULL"));
  EXPECT_EQ(results.judged(), 2);
  EXPECT_EQ(results.good(), 1);
  EXPECT_EQ(results.good_tokens_in_window(), 4);
}

TEST_F(ResultsTest, EveryRequestSentInTheWindowHasOneOutcome) {
  Results results({});
  results.AddRequest(Ok());
  for (const Outcome outcome :
       {Outcome::kRefused, Outcome::kCancelled, Outcome::kDeadlineExceeded,
        Outcome::kFailed, Outcome::kUnfinished}) {
    results.AddRequest(Failed(outcome, "CODE", "REASON"));
    EXPECT_EQ(results.count(outcome), 1);
  }
  RequestRecord warm = Ok();
  warm.in_window = false;
  results.AddRequest(warm);
  EXPECT_EQ(results.sent(), 6);
  EXPECT_EQ(results.errors().at({"CODE", "REASON"}), 5);
}

TEST_F(ResultsTest, RatesAreOfWhatEndedAndTimesOfWhatWasSentInTheWindow) {
  Results results({});
  RequestRecord warm = Ok();
  warm.in_window = false;
  results.AddRequest(warm);
  RequestRecord late = Ok();
  late.ended_in_window = false;
  results.AddRequest(late);
  EXPECT_EQ(results.ended_in_window(), 1);
  EXPECT_EQ(results.good_in_window(), 1);
  EXPECT_EQ(results.sent(), 1);
  EXPECT_EQ(results.times.e2e.count(), 1);
}

TEST_F(ResultsTest, GapsAreDividedByTheBackground) {
  Results results({});
  results.AddRequest(Ok());
  EXPECT_EQ(results.times.itl.count(), 2);
  EXPECT_FLOAT_EQ(results.times.itl_beside_background.Summarize().max, 0.2f);
  EXPECT_FLOAT_EQ(results.times.itl_without_background.Summarize().max, 0.1f);
}

TEST_F(ResultsTest, TimesOfSlowReadersAreLeftOut) {
  Results results({});
  RequestRecord slow = Ok();
  slow.slow_reader = true;
  results.AddRequest(slow);
  EXPECT_EQ(results.count(Outcome::kOk), 1);
  EXPECT_EQ(results.slow_readers(), 1);
  EXPECT_EQ(results.times.e2e.count(), 0);
  EXPECT_EQ(results.times.itl.count(), 0);
}

TEST_F(ResultsTest, LateRefusalsHaveTimesOfTheirOwn) {
  Results results({});
  results.AddRefusal(0.001, true, false);
  results.AddRefusal(2.0, false, true);
  EXPECT_EQ(results.refusals(), 2);
  EXPECT_EQ(results.refusals_with_hint(), 1);
  EXPECT_DOUBLE_EQ(results.refusal_times().Summarize().max, 0.001);
  EXPECT_DOUBLE_EQ(results.late_refusal_times().Summarize().max, 2.0);
}

TEST_F(ResultsTest, ReportsOfNothingHoldNoNonsense) {
  const Results results({.e2e = absl::Seconds(1)});
  const std::string json =
      ReportToJson(Options(), v1::ServerInfo(), results).dump();
  EXPECT_THAT(json, Not(HasSubstr("nan")));
  EXPECT_THAT(json, HasSubstr("\"output_tokens_per_second\":0"));
  EXPECT_THAT(ReportText(Options(), v1::ServerInfo(), results),
              Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace ttt::bench
