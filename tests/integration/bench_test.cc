// ttt bench against whole servers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/base/check.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// A run of `ttt bench`, with both outputs in one pipe.
class BenchProgram {
 public:
  BenchProgram(const std::string& address, std::vector<std::string> args) {
    args.insert(args.begin(), {TTT_PROGRAM, "--server", address, "bench"});
    int ends[2];
    TTT_CHECK(pipe(ends) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    TTT_CHECK(posix_spawn(&pid_, TTT_PROGRAM, &actions, nullptr, argv.data(),
                          environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~BenchProgram() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    std::fclose(output_);
  }

  // Reads until a line holds `text`. False: the output ended before.
  bool WaitForLine(const std::string& text) {
    char line[16384];
    while (std::fgets(line, sizeof(line), output_) != nullptr) {
      last_line_ = line;
      said_ += line;
      if (last_line_.find(text) != std::string::npos) return true;
    }
    return false;
  }
  void Interrupt() { kill(pid_, SIGINT); }
  // The exit code.
  int Wait() {
    WaitForLine("there is no such line");
    int status = 0;
    TTT_CHECK(waitpid(pid_, &status, 0) == pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  const std::string& last_line() const { return last_line_; }
  const std::string& said() const { return said_; }

 private:
  pid_t pid_ = 0;
  std::FILE* output_ = nullptr;
  std::string last_line_;
  std::string said_;
};

json RunJson(const TestServer& server, std::vector<std::string> args) {
  args.push_back("--json");
  BenchProgram program(server.address(), args);
  EXPECT_EQ(program.Wait(), 0) << program.said();
  return json::parse(program.last_line());
}

// Of all outcomes.
int64_t Outcomes(const json& report) {
  int64_t sum = 0;
  for (const char* const outcome :
       {"ok", "refused", "cancelled", "deadline_exceeded", "failed",
        "unfinished"}) {
    sum += report["requests"][outcome].get<int64_t>();
  }
  return sum;
}

int64_t NumSessions(TestServer& server) {
  grpc::ClientContext context;
  v1::ListSessionsResponse response;
  EXPECT_TRUE(server.sessions()
                  .ListSessions(&context, v1::ListSessionsRequest(), &response)
                  .ok());
  return response.sessions_size();
}

TEST(BenchTest, ClosedLoopMeasuresEveryRequestOnce) {
  TestServer server;
  const json report =
      RunJson(server, {"--concurrency=3", "--requests=20", "--input-tokens=4:9",
                       "--output-tokens=6"});
  EXPECT_EQ(report["requests"]["sent"], 20);
  EXPECT_EQ(report["requests"]["ok"], 20);
  EXPECT_EQ(Outcomes(report), 20);
  EXPECT_EQ(report["tokens"]["output"], 20 * 6);
  EXPECT_EQ(report["times"]["ttft"]["count"], 20);
  EXPECT_EQ(report["times"]["e2e"]["count"], 20);
  EXPECT_EQ(report["times"]["itl"]["count"].get<int>() + 20,
            report["tokens"]["events"]);
  EXPECT_GT(report["client"]["cpu_seconds"], 0);
}

TEST(BenchTest, PoissonArrivalsAreAllAccountedFor) {
  TestServer server;
  const json report = RunJson(
      server, {"--rate=200", "--requests=60", "--input-tokens=4",
               "--output-tokens=8", "--cancel-fraction=0.3",
               "--slow-reader-fraction=0.2", "--slow-reader-delay=1ms"});
  EXPECT_EQ(report["requests"]["sent"], 60);
  EXPECT_EQ(Outcomes(report), 60);
  EXPECT_EQ(report["requests"]["failed"], 0);
  EXPECT_GT(report["requests"]["ok"], 20);
  EXPECT_GT(report["requests"]["slow_readers"], 0);
  EXPECT_EQ(report["times"]["send_lag"]["count"], 60);
}

TEST(BenchTest, RefusalsAreMeasuredWithTheirHints) {
  TestServer server({.adjust = [](ServerOptions* options) {
    options->max_queue = 2;
    options->max_batch_rows = 1;
  }});
  const json report =
      RunJson(server, {"--rate=2000", "--requests=100", "--input-tokens=64",
                       "--output-tokens=64", "--max-outstanding=12"});
  EXPECT_EQ(report["requests"]["sent"], 100);
  EXPECT_EQ(Outcomes(report), 100);
  EXPECT_GT(report["requests"]["refused"], 0);
  EXPECT_EQ(report["refusals"]["attempts"], report["requests"]["refused"]);
  EXPECT_EQ(report["refusals"]["with_retry_hint"],
            report["refusals"]["attempts"]);
  EXPECT_EQ(report["errors"][0]["code"], "RESOURCE_EXHAUSTED");
}

TEST(BenchTest, ArrivalsBeyondTheBoundAreDroppedAndCounted) {
  TestServer server;
  const json report =
      RunJson(server, {"--rate=5000", "--requests=10", "--input-tokens=64",
                       "--output-tokens=64", "--max-outstanding=1"});
  EXPECT_EQ(report["requests"]["ok"], 10);
  EXPECT_GT(report["requests"]["dropped_by_client"], 0);
}

TEST(BenchTest, SessionsAndHistoryGiveTheSameTokens) {
  TestServer server;
  const auto run = [&](const std::string& mode) {
    return RunJson(server, {"--concurrency=3", "--sessions=5", "--turns=3",
                            "--input-tokens=3:20", "--output-tokens=2:20",
                            "--mode=" + mode});
  };
  const json stateful = run("stateful");
  const json history = run("history");
  EXPECT_EQ(stateful["requests"]["ok"], 15);
  EXPECT_EQ(history["requests"]["ok"], 15);
  EXPECT_EQ(stateful["tokens"]["tokens_digest"],
            history["tokens"]["tokens_digest"]);
  // That is not so of turns that know nothing of each other.
  EXPECT_NE(stateful["tokens"]["tokens_digest"],
            run("stateless")["tokens"]["tokens_digest"]);
  EXPECT_GT(history["tokens"]["input"], stateful["tokens"]["input"]);
}

TEST(BenchTest, UnaryGivesTheSameTokensAsTheStream) {
  TestServer server;
  const std::vector<std::string> args = {"--requests=6", "--concurrency=2"};
  std::vector<std::string> unary = args;
  unary.push_back("--unary");
  const json report = RunJson(server, unary);
  EXPECT_EQ(report["tokens"]["tokens_digest"],
            RunJson(server, args)["tokens"]["tokens_digest"]);
  EXPECT_EQ(report["times"]["ttft"]["count"], 0);
  EXPECT_EQ(report["times"]["e2e"]["count"], 6);
}

TEST(BenchTest, SessionsAreDeletedUnlessTheyAreKept) {
  TestServer server;
  const json report =
      RunJson(server, {"--sessions=4", "--turns=2", "--output-tokens=4",
                       "--cancel-fraction=0.5", "--concurrency=2"});
  EXPECT_EQ(report["sessions"]["started"], 4);
  EXPECT_EQ(report["sessions"]["left"], 0);
  EXPECT_EQ(NumSessions(server), 0);
  RunJson(server, {"--sessions=2", "--turns=2", "--output-tokens=4",
                   "--keep-sessions"});
  EXPECT_EQ(NumSessions(server), 2);
}

TEST(BenchTest, DeadlinesAreCountedApart) {
  TestServer server;
  const json report =
      RunJson(server, {"--requests=3", "--output-tokens=100000000",
                       "--timeout=50ms", "--concurrency=3"});
  EXPECT_EQ(report["requests"]["deadline_exceeded"], 3);
}

TEST(BenchTest, BackgroundPromptsAreReportedApart) {
  TestServer server;
  const json report = RunJson(
      server, {"--duration=500ms", "--concurrency=1", "--output-tokens=8",
               "--background-prompt-tokens=100", "--background-prompts=2"});
  const json& background = report["background"];
  EXPECT_GT(background["sent"], 0);
  EXPECT_EQ(background["sent"],
            background["ok"].get<int>() + background["unfinished"].get<int>());
  EXPECT_EQ(background["input_tokens"], 100 * background["ok"].get<int>());
  EXPECT_EQ(report["times"]["itl"]["count"],
            report["times"]["itl_beside_background"]["count"].get<int>() +
                report["times"]["itl_without_background"]["count"].get<int>());
  EXPECT_EQ(report["requests"]["ok"], report["requests"]["sent"]);
}

TEST(BenchTest, TextIsSentInPiecesOfAboutTheLength) {
  TestServer server;
  const json report = RunJson(
      server, {"--requests=10", "--input-tokens=40", "--output-tokens=2",
               "--text-file=" TTT_SOURCE_DIR "/README.md"});
  EXPECT_EQ(report["requests"]["ok"], 10);
  EXPECT_GT(report["tokens"]["input"], 10 * 20);
  EXPECT_LT(report["tokens"]["input"], 10 * 80);
}

TEST(BenchTest, InterruptEndsItWithWhatWasMeasured) {
  TestServer server;
  BenchProgram program(
      server.address(),
      {"--turns=3", "--output-tokens=100000000", "--concurrency=2",
       "--duration=1h", "--progress", "--json"});
  ASSERT_TRUE(program.WaitForLine("measuring"));
  program.Interrupt();
  EXPECT_EQ(program.Wait(), 130);
  const json report = json::parse(program.last_line());
  EXPECT_EQ(report["interrupted"], true);
  EXPECT_EQ(report["requests"]["unfinished"], 2);
  EXPECT_GT(report["tokens"]["output"], 0);
  EXPECT_EQ(NumSessions(server), 0);
}

TEST(BenchTest, TableTellsPeopleTheSame) {
  TestServer server;
  BenchProgram program(server.address(), {"--requests=4", "--slo-e2e=1h"});
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.said(), HasSubstr("4 sent: 4 ok, 0 refused"));
  EXPECT_THAT(program.said(), HasSubstr("4 of 4 good (100.0 %)"));
  EXPECT_THAT(program.said(), HasSubstr("\nttft "));
}

TEST(BenchTest, JsonHoldsTheDocumentedNames) {
  TestServer server;
  const json report = RunJson(server, {"--requests=2", "--output-tokens=2"});
  for (const char* const pointer : {"/options/concurrency",
                                    "/server/version",
                                    "/server/device",
                                    "/server/precision",
                                    "/server/model/name",
                                    "/server/limits/max_queue",
                                    "/window_seconds",
                                    "/interrupted",
                                    "/requests/sent",
                                    "/requests/ok",
                                    "/requests/refused",
                                    "/requests/cancelled",
                                    "/requests/deadline_exceeded",
                                    "/requests/failed",
                                    "/requests/unfinished",
                                    "/requests/slow_readers",
                                    "/requests/retries",
                                    "/requests/dropped_by_client",
                                    "/errors",
                                    "/rates/requests_per_second",
                                    "/rates/output_tokens_per_second",
                                    "/rates/input_tokens_per_second",
                                    "/tokens/output",
                                    "/tokens/input",
                                    "/tokens/events",
                                    "/tokens/per_event",
                                    "/tokens/tokens_digest",
                                    "/times/ttft/p50",
                                    "/times/itl/p90",
                                    "/times/tpot/p95",
                                    "/times/e2e/p99",
                                    "/times/queue/max",
                                    "/times/prefill/mean",
                                    "/times/decode/count",
                                    "/times/send_lag/exact",
                                    "/refusals/attempts",
                                    "/refusals/with_retry_hint",
                                    "/refusals/late",
                                    "/refusals/latency/p99",
                                    "/refusals/late_latency/p50",
                                    "/goodput/slo_ttft_seconds",
                                    "/goodput/slo_tpot_seconds",
                                    "/goodput/slo_itl_p99_seconds",
                                    "/goodput/slo_e2e_seconds",
                                    "/goodput/judged",
                                    "/goodput/good",
                                    "/goodput/share",
                                    "/goodput/requests_per_second",
                                    "/goodput/output_tokens_per_second",
                                    "/background",
                                    "/sessions/started",
                                    "/sessions/deleted",
                                    "/sessions/left",
                                    "/client/cpu_seconds",
                                    "/client/cpu_share_of_one_core",
                                    "/client/cpu_microseconds_per_output_token",
                                    "/client/context_switches",
                                    "/client/max_resident_bytes"}) {
    EXPECT_TRUE(report.contains(json::json_pointer(pointer))) << pointer;
  }
}

TEST(BenchTest, NoServerIsUnavailable) {
  BenchProgram program("127.0.0.1:1", {"--requests=1"});
  EXPECT_EQ(program.Wait(), 69);
}

}  // namespace
}  // namespace ttt
