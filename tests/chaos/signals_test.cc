// Signals under load: what runs ends, what comes is refused, and every commit
// that a client was told of is one.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/chaos/tttd_process.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

constexpr absl::Duration kBound = absl::Seconds(30);
constexpr int kClients = 8;
constexpr int kTurnsBefore = 5 * kClients;  // of all, before the signal

class SignalsTest : public testing::Test {
 protected:
  std::vector<std::string> Args(int drain_seconds) const {
    return {absl::StrCat("--model=", model_.path()),
            "--load_format=dummy",
            "--precision=fp32",
            "--num_threads=1",
            "--device_state_bytes=4000000",
            absl::StrCat("--drain_seconds=", drain_seconds)};
  }

  const TinyModel model_;
};

// Clients that take turns on sessions of their own until they are refused, or
// until it is destroyed.
class Load {
 public:
  explicit Load(const TttdProcess& tttd) {
    for (int i = 0; i < kClients; ++i) {
      threads_.emplace_back(
          [this, i, address = tttd.address()] { Run(address, i); });
    }
  }
  ~Load() {
    stop_ = true;
    Join();
  }
  void Join() { threads_.clear(); }

  int64_t acknowledged() const { return acknowledged_; }
  int refused() const { return refused_; }

 private:
  void Run(const std::string& address, int number) {
    Client client(address);
    uint64_t revision = 0;
    while (!stop_) {
      const auto request = FromText<v1::CompleteRequest>(absl::StrCat(
          "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 20 } stop { "
          "ignore_eos: true } create_session: true session_id: 's",
          number, "'"));
      v1::CompleteResponse response;
      grpc::Status status;
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() +
                           absl::ToChronoSeconds(kBound));
      if (number % 2 == 0) {
        status = client.inference->Complete(&context, request, &response);
      } else {
        const auto reader = client.inference->StreamComplete(&context, request);
        v1::CompleteEvent event;
        while (reader->Read(&event)) {
          if (event.has_committed()) {
            response.set_revision(event.committed().revision());
          }
        }
        status = reader->Finish();
      }
      if (status.ok()) {
        EXPECT_EQ(response.revision(), ++revision);
        ++acknowledged_;
        continue;
      }
      // A turn that ran when the signal came has ended well; this one came
      // after it.
      ASSERT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE)
          << status.error_message();
      ASSERT_EQ(ErrorInfoOf(status).reason(), "DRAINING");
      EXPECT_TRUE(HasDetail<google::rpc::RetryInfo>(status));
      EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
      ++refused_;
      return;
    }
  }

  std::atomic<int64_t> acknowledged_{0};
  std::atomic<int> refused_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> threads_;
};

// A turn that runs until it is cancelled.
class LongTurn {
 public:
  explicit LongTurn(const TttdProcess& tttd, const std::string& session)
      : client_(tttd.address()),
        reader_(client_.inference->StreamComplete(
            &context_,
            FromText<v1::CompleteRequest>(EndlessRequest(session)))) {
    v1::CompleteEvent event;
    EXPECT_TRUE(reader_->Read(&event) && reader_->Read(&event));
  }
  void Cancel() { context_.TryCancel(); }
  grpc::Status Finish() {
    v1::CompleteEvent event;
    while (reader_->Read(&event)) {
    }
    return reader_->Finish();
  }

 private:
  Client client_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::CompleteEvent>> reader_;
};

double Committed(const TttdProcess& tttd) {
  return tttd.metrics()["ttt_turns_total{outcome=\"committed\"}"];
}

class DrainTest : public SignalsTest,
                  public testing::WithParamInterface<int> {};

TEST_P(DrainTest, UnderLoadEndsWhatRunsRefusesWhatComesAndLosesNoCommit) {
  TttdProcess tttd(Args(/*drain_seconds=*/60));
  LongTurn held(tttd, "");  // It keeps the server up until all was asked.
  Load load(tttd);
  ASSERT_TRUE(Eventually(kBound, [&] {
    return load.acknowledged() >= kTurnsBefore;
  })) << load.acknowledged();
  tttd.Signal(GetParam());
  load.Join();
  EXPECT_EQ(load.refused(), kClients);
  EXPECT_EQ(Committed(tttd), static_cast<double>(load.acknowledged()));
  const Series metrics = tttd.metrics();
  EXPECT_EQ(metrics.at("ttt_server_state{state=\"draining\"}"), 1);
  EXPECT_EQ(metrics.at("ttt_turns_total{outcome=\"failed\"}"), 0);
  EXPECT_EQ(metrics.at("ttt_turns_total{outcome=\"rolled_back\"}"), 0);
  const absl::Time begin = absl::Now();
  held.Cancel();
  held.Finish();
  EXPECT_EQ(tttd.Wait(), 0);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

INSTANTIATE_TEST_SUITE_P(Signals, DrainTest, testing::Values(SIGTERM, SIGINT),
                         [](const auto& info) {
                           return std::string(info.param == SIGTERM ? "Sigterm"
                                                                    : "Sigint");
                         });

TEST_F(SignalsTest, TurnsThatDoNotEndInTimeAreCutAndTheExitIs0) {
  TttdProcess tttd(Args(/*drain_seconds=*/1));
  std::vector<std::unique_ptr<LongTurn>> turns;
  for (int i = 0; i < kClients; ++i) {
    turns.push_back(std::make_unique<LongTurn>(tttd, absl::StrCat("long-", i)));
  }
  const absl::Time begin = absl::Now();
  tttd.Signal(SIGTERM);
  for (auto& turn : turns) {
    const grpc::Status status = turn->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(ErrorInfoOf(status).reason(), "DRAINING");
  }
  EXPECT_EQ(tttd.Wait(), 0);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

TEST_F(SignalsTest, ASecondOneUnderLoadEndsAtOnce) {
  TttdProcess tttd(Args(/*drain_seconds=*/3600));
  LongTurn held(tttd, "s");
  tttd.Signal(SIGTERM);
  ASSERT_NE(tttd.WaitForLine("draining"), "");
  const absl::Time begin = absl::Now();
  tttd.Signal(SIGINT);
  EXPECT_EQ(tttd.Wait(), 130);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_FALSE(held.Finish().ok());
}

TEST_F(SignalsTest, AnIdleServerThatWasJustProbedEndsAtOnce) {
  absl::Duration best = absl::InfiniteDuration();
  for (int i = 0; i < 3; ++i) {  // What else the machine does slows not all.
    TttdProcess tttd(Args(/*drain_seconds=*/60));
    EXPECT_EQ(HttpGet(tttd.http_port(), "/healthz").substr(0, 15),
              "HTTP/1.1 200 OK");
    const absl::Time begin = absl::Now();
    tttd.Signal(SIGTERM);
    EXPECT_EQ(tttd.Wait(), 0);
    best = std::min(best, absl::Now() - begin);
  }
  EXPECT_LT(best, absl::Seconds(1));
}

// More memory for states than there can be.
TEST_F(SignalsTest, AStartWithoutMemoryEndsWith69AndSaysWhy) {
  std::vector<std::string> args = Args(1);
  args.push_back("--device_state_bytes=1125899906842624");
  TttdProcess tttd(args);
  EXPECT_EQ(tttd.port(), 0);
  EXPECT_NE(tttd.WaitForLine("tttd: "), "");
  EXPECT_EQ(tttd.Wait(), 69);
}

}  // namespace
}  // namespace ttt
