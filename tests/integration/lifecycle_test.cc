// A server from its start to its end: health, drain, ports, metrics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Minutes(1);
// grpc.health.v1.HealthCheckResponse, by hand.
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

std::string Health(TestServer* server, const std::string& service) {
  std::string request;
  if (!service.empty()) {
    request =
        absl::StrCat("\x0A", std::string(1, char(service.size())), service);
  }
  std::string response;
  const grpc::Status status =
      server->CallRaw("/grpc.health.v1.Health/Check", request, &response);
  return status.ok() ? response : status.error_message();
}

grpc::Status CompleteOnce(TestServer* server) {
  v1::CompleteResponse response;
  return server->Complete(
      FromText<v1::CompleteRequest>(
          "token_ids { ids: 5 } sampling { max_tokens: 1 }"),
      &response);
}

void Drain(TestServer* server) {
  grpc::ClientContext context;
  v1::DrainResponse response;
  ASSERT_TRUE(server->admin().Drain(&context, {}, &response).ok());
}

v1::ServerInfo Info(TestServer* server) {
  grpc::ClientContext context;
  v1::ServerInfo info;
  EXPECT_TRUE(server->admin().GetServerInfo(&context, {}, &info).ok());
  return info;
}

void WithHttp(ServerOptions* options) { options->http_listen = "127.0.0.1:0"; }

TEST(LifecycleTest, BeforeItServesCallsAreRefusedAsStarting) {
  TestServer server({.adjust = WithHttp, .set_serving = false});
  EXPECT_EQ(Health(&server, ""), kNotServing);
  EXPECT_EQ(Health(&server, "ttt.v1.Inference"), kNotServing);
  EXPECT_EQ(Info(&server).state(), "starting");
  const grpc::Status status = CompleteOnce(&server);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "STARTING");
  EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(status));
  const int port = server.server().http_port().value();
  EXPECT_THAT(HttpGet(port, "/healthz"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(port, "/readyz"), HasSubstr("503 "));
}

TEST(LifecycleTest, ServingShowsInHealthAndReadiness) {
  TestServer server({.adjust = WithHttp});
  EXPECT_EQ(Health(&server, ""), kServing);
  EXPECT_EQ(Health(&server, "ttt.v1.Inference"), kServing);
  EXPECT_TRUE(CompleteOnce(&server).ok());
  EXPECT_THAT(HttpGet(server.server().http_port().value(), "/readyz"),
              HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(server.server().http_port().value(), "/other"),
              HasSubstr("404 "));
}

TEST(LifecycleTest, ADrainRefusesNewCallsAndLetsRunningTurnsEnd) {
  TestServer server({.adjust = WithHttp});
  StreamCall running(
      &server,
      "token_ids { ids: 5 } sampling { max_tokens: 2000 } session_id: "
      "'s' create_session: true stop { ignore_eos: true }");
  running.ReadTokens(1);
  Drain(&server);
  EXPECT_EQ(Health(&server, ""), kNotServing);
  EXPECT_EQ(Health(&server, "ttt.v1.Inference"), kNotServing);
  EXPECT_THAT(HttpGet(server.server().http_port().value(), "/readyz"),
              HasSubstr("503 "));
  EXPECT_THAT(HttpGet(server.server().http_port().value(), "/healthz"),
              HasSubstr("200 OK"));
  const grpc::Status refused = CompleteOnce(&server);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(refused).reason(), "DRAINING");
  EXPECT_TRUE(running.Finish().ok());
  EXPECT_EQ(running.ids().size(), 2000);
  EXPECT_TRUE(running.committed().has_value());
  EXPECT_TRUE(server.server().WaitUntilIdle(kLong));
}

TEST(LifecycleTest, AShutdownEndsWhatIsLeftAsDraining) {
  TestServer server;
  StreamCall running(&server, EndlessRequest(""));
  running.ReadTokens(1);
  EXPECT_FALSE(server.server().WaitUntilIdle(absl::Milliseconds(1)));
  std::jthread shutdown([&] { server.server().Shutdown(); });
  const grpc::Status status = running.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "DRAINING");
}

TEST(LifecycleTest, AShutdownWaitsForNoReader) {
  TestServer server;
  StreamCall stuck(&server, EndlessRequest("", "top_logprobs: 20"));
  stuck.ReadTokens(1);
  server.Stop();
  EXPECT_FALSE(stuck.Finish().ok());
}

TEST(LifecycleTest, ASecondServerOnThePortIsRefused) {
  TestServer first({.adjust = WithHttp});
  ServerOptions options = first.options();
  options.listen = first.address();
  const auto second = Server::Create(options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(ExitCode(second.status()), kExitUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--listen"));
  options.listen = "127.0.0.1:0";
  options.http_listen = absl::StrCat("127.0.0.1:", *first.server().http_port());
  const auto third = Server::Create(options);
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(ExitCode(third.status()), kExitUnavailable);
  EXPECT_THAT(std::string(third.status().message()),
              HasSubstr("--http_listen"));
}

TEST(LifecycleTest, InfoTellsModelLimitsAndLoad) {
  TestServer server;
  StreamCall running(&server, EndlessRequest("s"));
  running.ReadTokens(2);  // The load is told between steps.
  const v1::ServerInfo info = Info(&server);
  EXPECT_EQ(info.state(), "serving");
  EXPECT_EQ(info.device(), "cpu");
  EXPECT_EQ(info.precision(), "fp32");
  EXPECT_EQ(info.model().vocab_size(), kTinyVocabSize);
  EXPECT_EQ(info.model().ttt_layer_type(), "linear");
  EXPECT_EQ(info.model().head_dim(), 32);
  EXPECT_TRUE(info.model().has_tokenizer());
  EXPECT_GT(info.model().parameters(), 0);
  EXPECT_EQ(info.limits().max_batch_rows(), 4);
  EXPECT_EQ(info.limits().state_slots(),
            (4 << 20) / info.limits().state_bytes_per_session());
  EXPECT_EQ(info.load().running_turns(), 1);
  EXPECT_EQ(info.load().sessions(), 1);
  EXPECT_NE(info.numerics_fingerprint(), "");
}

// Reflection's answer to "list_services".
grpc::Status ListServices(TestServer* server, std::string* response) {
  return server->CallRaw(
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      "\x3A\x01*", response);
}

TEST(LifecycleTest, ReflectionIsServedOnlyIfAskedFor) {
  std::string response;
  TestServer without;
  EXPECT_EQ(ListServices(&without, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  TestServer with(
      {.adjust = [](ServerOptions* options) { options->reflection = true; }});
  EXPECT_TRUE(ListServices(&with, &response).ok());
  EXPECT_THAT(response, HasSubstr("ttt.v1.Inference"));
  EXPECT_THAT(response, HasSubstr("ttt.v1.Sessions"));
  EXPECT_THAT(response, HasSubstr("grpc.health.v1.Health"));
}

// Runs turns of all outcomes on several connections until it is destroyed.
class Load {
 public:
  explicit Load(TestServer* server) : server_(server) {
    for (int i = 0; i < 3; ++i) {
      threads_.emplace_back([this, i](std::stop_token stop) { Run(stop, i); });
    }
  }

 private:
  void Run(std::stop_token stop, int number) {
    while (!stop.stop_requested()) {
      v1::CompleteResponse response;
      server_->Complete(
          FromText<v1::CompleteRequest>(absl::StrCat(
              "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 20 } "
              "create_session: true session_id: 's",
              number % 2, "'")),
          &response);
    }
  }

  TestServer* const server_;
  std::vector<std::jthread> threads_;
};

TEST(LifecycleTest, AScrapeUnderLoadIsSoundAndHasTheNames) {
  TestServer server({.adjust = WithHttp});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(CompleteOnce(&server).ok());
  std::string page;
  {
    Load load(&server);
    for (int i = 0; i < 20; ++i) {
      page = HttpGet(server.server().http_port().value(), "/metrics");
    }
  }
  const std::vector<std::string> parts =
      absl::StrSplit(page, absl::MaxSplits("\r\n\r\n", 1));
  ASSERT_EQ(parts.size(), 2);
  EXPECT_THAT(parts[0], HasSubstr("text/plain; version=0.0.4"));
  for (const char* name :
       {"ttt_requests_total{code=\"OK\",method=\"Complete\"}",
        "ttt_queue_requests",
        "ttt_running_turns",
        "ttt_queue_seconds_bucket",
        "ttt_time_to_first_token_seconds_bucket",
        "ttt_inter_token_seconds_bucket",
        "ttt_request_seconds_bucket",
        "ttt_input_tokens_bucket",
        "ttt_output_tokens_bucket",
        "ttt_tokens_total{kind=\"generated\"}",
        "ttt_step_seconds_bucket",
        "ttt_batch_rows_bucket",
        "ttt_batch_tokens_bucket",
        "ttt_turns_total{outcome=\"committed\"}",
        "ttt_commit_seconds_bucket",
        "ttt_sessions{tier=",
        "ttt_session_bytes{tier=",
        "ttt_state_slots{use=",
        "ttt_state_pool_utilization_ratio",
        "ttt_numeric_faults_total",
        "ttt_device_memory_bytes{use=",
        "ttt_server_state{state=\"serving\"} 1",
        "ttt_build_info",
        "ttt_model_info{fingerprint="}) {
    EXPECT_TRUE(absl::StrContains(parts[1], name)) << name;
  }
  for (const absl::string_view line : absl::StrSplit(parts[1], '\n')) {
    if (!absl::StrContains(line, "UNKNOWN")) continue;
    EXPECT_TRUE(absl::EndsWith(line, " 0")) << line;
  }
  if (absl::string_view(TTT_PROMTOOL).empty()) GTEST_SKIP() << "no promtool";
  const std::string file =
      absl::StrCat(testing::TempDir(), "/scrape.", getpid());
  std::ofstream(file) << parts[1];
  EXPECT_EQ(
      std::system(
          absl::StrCat(TTT_PROMTOOL, " check metrics < '", file, "'").c_str()),
      0);
  std::remove(file.c_str());
}

// The calls of the method that the page counts with `code`, or with any.
int CountOf(const std::string& page, const std::string& method,
            const std::string& code = "") {
  int count = 0;
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    int calls = 0;
    if (absl::StartsWith(line, "ttt_requests_total{") &&
        absl::StrContains(line, absl::StrCat("method=\"", method, "\"")) &&
        absl::StrContains(line, absl::StrCat("code=\"", code)) &&
        absl::SimpleAtoi(line.substr(line.rfind(' ') + 1), &calls)) {
      count += calls;
    }
  }
  return count;
}

TEST(LifecycleTest, EveryMethodIsCountedOnce) {
  TestServer server({.adjust = WithHttp});
  CompleteOnce(&server).ok();
  StreamCall(&server, "token_ids { ids: 5 } sampling { max_tokens: 1 }")
      .Finish();
  v1::ScoreResponse scores;
  server.Score(FromText<v1::ScoreRequest>("token_ids { ids: 5 }"), &scores);
  std::string response;
  for (const char* method :
       {"Inference/AttachTurn", "Inference/CancelTurn",
        "Sessions/CreateSession", "Sessions/GetSession",
        "Sessions/ListSessions", "Sessions/DeleteSession",
        "Sessions/ForkSession", "Sessions/RewindSession", "Sessions/ListTurns",
        "Sessions/GetTurn", "Sessions/ExportSession", "Sessions/ImportSession",
        "Tokenizer/Tokenize", "Tokenizer/Detokenize", "Admin/GetServerInfo",
        "Admin/Drain"}) {
    server.CallRaw(absl::StrCat("/ttt.v1.", method), "", &response);
  }
  const std::string page =
      HttpGet(server.server().http_port().value(), "/metrics");
  for (const char* method :
       {"Complete", "StreamComplete", "Score", "AttachTurn", "CancelTurn",
        "CreateSession", "GetSession", "ListSessions", "DeleteSession",
        "ForkSession", "RewindSession", "ListTurns", "GetTurn", "ExportSession",
        "ImportSession", "Tokenize", "Detokenize", "GetServerInfo", "Drain"}) {
    EXPECT_EQ(CountOf(page, method), 1) << method;
  }
}

// The deadline of the client and that of the server pass at about the same
// time. Where the client's is first the server learns of a cancel, so it takes
// a few late calls until one is late to the server too.
TEST(LifecycleTest, ALateCallIsCountedAsLateAndACancelledOneAsCancelled) {
  TestServer server({.adjust = WithHttp});
  const std::string method = "StreamComplete";
  const int port = server.server().http_port().value();
  StreamCall cancelled(&server, EndlessRequest(""));
  cancelled.ReadTokens(1);
  cancelled.Cancel();
  cancelled.Finish();
  ASSERT_TRUE(server.server().WaitUntilIdle(kLong));
  std::string page = HttpGet(port, "/metrics");
  EXPECT_EQ(CountOf(page, method, "CANCELLED"), 1);
  EXPECT_EQ(CountOf(page, method), 1);

  int sent = 1;
  int reached = 1;  // the server, for certain
  while (sent <= 50 && CountOf(page, method, "DEADLINE_EXCEEDED") == 0) {
    StreamCall late(&server, EndlessRequest(""),
                    std::chrono::milliseconds(100));
    late.Finish();
    ++sent;
    if (!late.accepted().turn_id().empty()) ++reached;
    ASSERT_TRUE(server.server().WaitUntilIdle(kLong));
    page = HttpGet(port, "/metrics");
    const int counted = CountOf(page, method);
    EXPECT_GE(counted, reached);
    EXPECT_LE(counted, sent);
    EXPECT_EQ(CountOf(page, method, "DEADLINE_EXCEEDED") +
                  CountOf(page, method, "CANCELLED"),
              counted);
  }
  EXPECT_EQ(CountOf(page, method, "DEADLINE_EXCEEDED"), 1) << sent;
}

}  // namespace
}  // namespace ttt
