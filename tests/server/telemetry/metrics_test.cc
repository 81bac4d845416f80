#include "server/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace ttt {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::StartsWith;

std::vector<std::string> LinesOf(const Metrics& metrics) {
  return absl::StrSplit(metrics.Scrape(), '\n', absl::SkipEmpty());
}

// The value of one series, named as on the page.
double Value(const Metrics& metrics, absl::string_view series) {
  for (const std::string& line : LinesOf(metrics)) {
    const size_t space = line.rfind(' ');
    if (absl::string_view(line).substr(0, space) != series) continue;
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    return value;
  }
  ADD_FAILURE() << "no series " << series;
  return -1;
}

std::set<std::string> NamesOf(const Metrics& metrics) {
  std::set<std::string> names;
  for (const std::string& line : LinesOf(metrics)) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[1] == "TYPE") names.insert(words[2]);
  }
  return names;
}

Metrics::Gauges SomeGauges() {
  return {.queued_requests = 1,
          .running_turns = 2,
          .sessions_running = 3,
          .sessions_device = 4,
          .slots_free = 5,
          .slots_committed = 6,
          .slots_scratch = 7,
          .session_slots = 16,
          .session_slots_reserved = 4,
          .slot_bytes = 100,
          .weight_bytes = 9,
          .pool_bytes = 10,
          .workspace_bytes = 11,
          .driver_bytes = 15,
          .backend_bytes = 16,
          .reserve_bytes = 17,
          .bytes_to_device = 12,
          .bytes_to_host = 13,
          .graph_launches = 14,
          .state = "serving"};
}

TEST(MetricsTest, EveryMetricIsThereFromTheStart) {
  Metrics metrics;
  metrics.SetInfo("0.1.0", "cpu", "abc");
  EXPECT_THAT(
      NamesOf(metrics),
      ::testing::UnorderedElementsAre(
          "ttt_requests_total", "ttt_queue_requests", "ttt_running_turns",
          "ttt_queue_seconds", "ttt_time_to_first_token_seconds",
          "ttt_inter_token_seconds", "ttt_request_seconds", "ttt_input_tokens",
          "ttt_output_tokens", "ttt_tokens_total", "ttt_step_seconds",
          "ttt_batch_rows", "ttt_batch_tokens", "ttt_turns_total",
          "ttt_commit_seconds", "ttt_sessions", "ttt_session_bytes",
          "ttt_state_slots", "ttt_state_pool_utilization_ratio",
          "ttt_numeric_faults_total", "ttt_device_memory_bytes",
          "ttt_device_copy_bytes_total", "ttt_device_graph_launches_total",
          "ttt_server_state", "ttt_build_info", "ttt_model_info",
          "process_cpu_seconds_total", "process_resident_memory_bytes",
          "process_open_fds", "process_start_time_seconds"));
}

TEST(MetricsTest, CountersOfAllLabelsBeginAtZero) {
  const Metrics metrics;
  for (const char* const series :
       {"ttt_requests_total{code=\"OK\",method=\"Complete\"}",
        "ttt_requests_total{code=\"RESOURCE_EXHAUSTED\",method=\"Score\"}",
        "ttt_requests_total{code=\"UNKNOWN\",method=\"other\"}",
        "ttt_tokens_total{kind=\"input\"}", "ttt_tokens_total{kind=\"reused\"}",
        "ttt_tokens_total{kind=\"generated\"}",
        "ttt_tokens_total{kind=\"replayed\"}",
        "ttt_tokens_total{kind=\"discarded\"}",
        "ttt_turns_total{outcome=\"committed\"}",
        "ttt_turns_total{outcome=\"rolled_back\"}",
        "ttt_turns_total{outcome=\"repeated\"}",
        "ttt_turns_total{outcome=\"failed\"}",
        "ttt_step_seconds_count{kind=\"decode\"}",
        "ttt_step_seconds_count{kind=\"prefill\"}",
        "ttt_step_seconds_count{kind=\"mixed\"}", "ttt_numeric_faults_total"}) {
    EXPECT_EQ(Value(metrics, series), 0) << series;
  }
}

TEST(MetricsTest, RequestsAreCountedByMethodAndCode) {
  Metrics metrics;
  metrics.RecordRequest("Score", "CANCELLED", absl::Seconds(2));
  metrics.RecordRequest("Score", "CANCELLED", absl::Seconds(2));
  metrics.RecordRequest("Score", "OK", absl::Seconds(2));
  EXPECT_EQ(
      Value(metrics, "ttt_requests_total{code=\"CANCELLED\",method=\"Score\"}"),
      2);
  EXPECT_EQ(Value(metrics, "ttt_requests_total{code=\"OK\",method=\"Score\"}"),
            1);
}

TEST(MetricsTest, OnlyCallsThatRunATurnAreTimed) {
  Metrics metrics;
  for (const char* const method :
       {"Complete", "StreamComplete", "Score", "AttachTurn", "Tokenize"}) {
    metrics.RecordRequest(method, "OK", absl::Seconds(2));
  }
  EXPECT_EQ(Value(metrics, "ttt_request_seconds_count"), 3);
  EXPECT_EQ(Value(metrics, "ttt_request_seconds_sum"), 6);
}

TEST(MetricsTest, UnlistedLabelsMakeNoSeries) {
  Metrics metrics;
  const size_t before = LinesOf(metrics).size();
  metrics.RecordRequest("Complete\n# \"x\"", "OK", absl::Seconds(1));
  metrics.RecordRequest("Complete", "TEAPOT", absl::Seconds(1));
  EXPECT_EQ(LinesOf(metrics).size(), before);
  EXPECT_EQ(Value(metrics, "ttt_requests_total{code=\"OK\",method=\"other\"}"),
            1);
  EXPECT_EQ(Value(metrics,
                  "ttt_requests_total{code=\"UNKNOWN\",method=\"Complete\"}"),
            1);
}

TEST(MetricsTest, TokensAndTurnsAreCountedByKind) {
  Metrics metrics;
  metrics.RecordTokens(TokenKind::kReused, 5);
  metrics.RecordTokens(TokenKind::kDiscarded, 7);
  metrics.RecordTurn(TurnOutcome::kRolledBack);
  metrics.RecordTurn(TurnOutcome::kFailed);
  metrics.RecordNumericFault();
  EXPECT_EQ(Value(metrics, "ttt_tokens_total{kind=\"reused\"}"), 5);
  EXPECT_EQ(Value(metrics, "ttt_tokens_total{kind=\"discarded\"}"), 7);
  EXPECT_EQ(Value(metrics, "ttt_tokens_total{kind=\"input\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_turns_total{outcome=\"rolled_back\"}"), 1);
  EXPECT_EQ(Value(metrics, "ttt_turns_total{outcome=\"failed\"}"), 1);
  EXPECT_EQ(Value(metrics, "ttt_turns_total{outcome=\"committed\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_numeric_faults_total"), 1);
}

TEST(MetricsTest, StepIsRecordedWithItsRowsAndTokens) {
  Metrics metrics;
  metrics.RecordStep(StepKind::kPrefill, absl::Milliseconds(250), 3, 100);
  EXPECT_EQ(Value(metrics, "ttt_step_seconds_sum{kind=\"prefill\"}"), 0.25);
  EXPECT_EQ(Value(metrics, "ttt_step_seconds_count{kind=\"decode\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_batch_rows_sum"), 3);
  EXPECT_EQ(Value(metrics, "ttt_batch_tokens_sum"), 100);
}

TEST(MetricsTest, EachTimeGoesToItsOwnHistogram) {
  Metrics metrics;
  metrics.RecordQueue(absl::Seconds(1));
  metrics.RecordFirstToken(absl::Seconds(2));
  metrics.RecordInterToken(absl::Seconds(4));
  metrics.RecordCommit(absl::Seconds(8));
  metrics.RecordLengths(16, 32);
  EXPECT_EQ(Value(metrics, "ttt_queue_seconds_sum"), 1);
  EXPECT_EQ(Value(metrics, "ttt_time_to_first_token_seconds_sum"), 2);
  EXPECT_EQ(Value(metrics, "ttt_inter_token_seconds_sum"), 4);
  EXPECT_EQ(Value(metrics, "ttt_commit_seconds_sum"), 8);
  EXPECT_EQ(Value(metrics, "ttt_input_tokens_sum"), 16);
  EXPECT_EQ(Value(metrics, "ttt_output_tokens_sum"), 32);
}

TEST(MetricsTest, TimeOfAClockSetBackCountsAsZero) {
  Metrics metrics;
  metrics.RecordQueue(-absl::Seconds(5));
  EXPECT_EQ(Value(metrics, "ttt_queue_seconds_sum"), 0);
  EXPECT_EQ(Value(metrics, "ttt_queue_seconds_count"), 1);
}

TEST(MetricsTest, BucketsTellStepsOfATenthOfAMillisecondApart) {
  Metrics metrics;
  metrics.RecordInterToken(absl::Microseconds(120));
  EXPECT_EQ(Value(metrics, "ttt_inter_token_seconds_bucket{le=\"0.0001\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_inter_token_seconds_bucket{le=\"0.00015\"}"),
            1);
}

TEST(MetricsTest, BucketsReachTenMinutesAndAMillionTokens) {
  Metrics metrics;
  metrics.RecordRequest("Complete", "OK", absl::Seconds(599));
  metrics.RecordLengths(1 << 20, 0);
  EXPECT_EQ(Value(metrics, "ttt_request_seconds_bucket{le=\"300\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_request_seconds_bucket{le=\"600\"}"), 1);
  EXPECT_EQ(Value(metrics, "ttt_input_tokens_bucket{le=\"262144\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_input_tokens_bucket{le=\"1048576\"}"), 1);
}

TEST(MetricsTest, GaugesAreReadAtEachScrape) {
  Metrics metrics;
  Metrics::Gauges gauges = SomeGauges();
  metrics.SetGaugeSource([&gauges] { return gauges; });
  EXPECT_EQ(Value(metrics, "ttt_queue_requests"), 1);
  gauges.queued_requests = 20;
  EXPECT_EQ(Value(metrics, "ttt_queue_requests"), 20);
}

TEST(MetricsTest, GaugesGoToTheirSeries) {
  Metrics metrics;
  metrics.SetGaugeSource(SomeGauges);
  const std::map<std::string, double> expected = {
      {"ttt_queue_requests", 1},
      {"ttt_running_turns", 2},
      {"ttt_sessions{tier=\"running\"}", 3},
      {"ttt_sessions{tier=\"device\"}", 4},
      {"ttt_session_bytes{tier=\"running\"}", 700},
      {"ttt_session_bytes{tier=\"device\"}", 600},
      {"ttt_state_slots{use=\"free\"}", 5},
      {"ttt_state_slots{use=\"committed\"}", 6},
      {"ttt_state_slots{use=\"scratch\"}", 7},
      {"ttt_state_pool_utilization_ratio", 0.25},
      {"ttt_device_memory_bytes{use=\"weights\"}", 9},
      {"ttt_device_memory_bytes{use=\"state_pool\"}", 10},
      {"ttt_device_memory_bytes{use=\"workspace\"}", 11},
      {"ttt_device_memory_bytes{use=\"driver\"}", 15},
      {"ttt_device_memory_bytes{use=\"backend\"}", 16},
      {"ttt_device_memory_bytes{use=\"reserve\"}", 17},
      {"ttt_device_copy_bytes_total{direction=\"to_device\"}", 12},
      {"ttt_device_copy_bytes_total{direction=\"to_host\"}", 13},
      {"ttt_device_graph_launches_total", 14},
      {"ttt_server_state{state=\"starting\"}", 0},
      {"ttt_server_state{state=\"serving\"}", 1},
      {"ttt_server_state{state=\"draining\"}", 0}};
  for (const auto& [series, value] : expected) {
    EXPECT_EQ(Value(metrics, series), value) << series;
  }
}

TEST(MetricsTest, ServerIsStartingUntilThereIsAGaugeSource) {
  const Metrics metrics;
  EXPECT_EQ(Value(metrics, "ttt_server_state{state=\"starting\"}"), 1);
  EXPECT_EQ(Value(metrics, "ttt_server_state{state=\"serving\"}"), 0);
  EXPECT_EQ(Value(metrics, "ttt_state_pool_utilization_ratio"), 0);
}

TEST(MetricsTest, GaugeSourceMayBeTakenAway) {
  Metrics metrics;
  metrics.SetGaugeSource(SomeGauges);
  metrics.SetGaugeSource(nullptr);
  EXPECT_EQ(Value(metrics, "ttt_queue_requests"), 0);
}

TEST(MetricsTest, InfoTellsBuildAndModel) {
  Metrics metrics;
  metrics.SetInfo("0.1.0", "cuda:0", "abc");
  EXPECT_EQ(
      Value(metrics, "ttt_build_info{device=\"cuda:0\",version=\"0.1.0\"}"), 1);
  EXPECT_EQ(Value(metrics, "ttt_model_info{fingerprint=\"abc\"}"), 1);
}

TEST(MetricsTest, ProcessMetricsAreThoseOfThisProcess) {
  const Metrics metrics;
  const double now = static_cast<double>(std::time(nullptr));
  EXPECT_THAT(Value(metrics, "process_start_time_seconds"),
              AllOf(Ge(now - 3600), Le(now + 2)));
  EXPECT_THAT(Value(metrics, "process_resident_memory_bytes"),
              AllOf(Ge(1 << 20), Le(int64_t{1} << 40)));
  EXPECT_GT(Value(metrics, "process_cpu_seconds_total"), 0);
}

TEST(MetricsTest, OpenFilesAreCounted) {
  const Metrics metrics;
  const double before = Value(metrics, "process_open_fds");
  std::FILE* const file = std::tmpfile();
  EXPECT_EQ(Value(metrics, "process_open_fds"), before + 1);
  std::fclose(file);
}

TEST(MetricsTest, LabelValuesAreEscaped) {
  Metrics metrics;
  metrics.SetInfo("a\"b\nc", "cpu", "abc");
  EXPECT_THAT(metrics.Scrape(), HasSubstr("version=\"a\\\"b\\nc\""));
}

TEST(MetricsTest, EveryLineIsACommentOrAFiniteValue) {
  Metrics metrics;
  metrics.SetGaugeSource(SomeGauges);
  for (const std::string& line : LinesOf(metrics)) {
    if (line[0] == '#') continue;
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value))
        << line;
    EXPECT_TRUE(std::isfinite(value)) << line;
  }
}

TEST(MetricsTest, FamiliesStandInOrderOfName) {
  const Metrics metrics;
  std::vector<std::string> names;
  for (const std::string& line : LinesOf(metrics)) {
    if (absl::StartsWith(line, "# TYPE ")) names.push_back(line);
  }
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
}

// Whether `promtool check metrics` takes the page without a word.
TEST(MetricsTest, PromtoolFindsNoFault) {
  if (absl::string_view(TTT_PROMTOOL).empty()) GTEST_SKIP() << "no promtool";
  Metrics metrics;
  metrics.SetInfo("0.1.0", "cpu", "abc");
  metrics.SetGaugeSource(SomeGauges);
  metrics.RecordStep(StepKind::kDecode, absl::Microseconds(900), 3, 3);
  const std::string page =
      ::testing::TempDir() + absl::StrCat("/page.", getpid());
  std::ofstream(page) << metrics.Scrape();
  std::FILE* const promtool = popen(
      absl::StrCat(TTT_PROMTOOL, " check metrics < '", page, "' 2>&1").c_str(),
      "r");
  ASSERT_NE(promtool, nullptr);
  std::string said;
  for (int c = std::fgetc(promtool); c != EOF; c = std::fgetc(promtool))
    said += static_cast<char>(c);
  EXPECT_EQ(pclose(promtool), 0);
  EXPECT_EQ(said, "");
  std::remove(page.c_str());
}

TEST(MetricsThreadsTest, RecordingAndScrapingGoOnAtOnce) {
  Metrics metrics;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&metrics] {
        for (int round = 0; round < 1000; ++round) {
          metrics.RecordStep(StepKind::kDecode, absl::Milliseconds(1), 2, 2);
          metrics.RecordRequest("Complete", "OK", absl::Milliseconds(1));
          metrics.RecordTokens(TokenKind::kGenerated, 2);
        }
      });
    }
    threads.emplace_back([&metrics] {
      for (int round = 0; round < 20; ++round) {
        metrics.SetGaugeSource(SomeGauges);
        metrics.SetInfo("0.1.0", "cpu", "abc");
        EXPECT_THAT(LinesOf(metrics),
                    Contains(StartsWith("ttt_batch_rows_sum")));
      }
    });
  }
  EXPECT_EQ(Value(metrics, "ttt_batch_rows_sum"), 6000);
  EXPECT_EQ(Value(metrics, "ttt_tokens_total{kind=\"generated\"}"), 6000);
}

}  // namespace
}  // namespace ttt
