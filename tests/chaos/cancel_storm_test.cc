// Calls that are cancelled, late or lost at random moments: a session is as
// before or as committed, to the bit, and nothing is left of the call.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/chaos/tttd_process.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

constexpr int kThreads = 12;  // of which the server runs kRows at once
constexpr int kRows = 4;
constexpr int kTurns = 4;
constexpr int kInput = 40;      // in three steps, kRows of them at once
constexpr int kGenerated = 24;  // a step each
constexpr int kLength = kInput + kGenerated;
constexpr absl::Duration kBound = absl::Seconds(30);

int32_t TokenId(int turn, int index) {
  return 3 + (turn * 7919 + index * 104729) % (kTinyVocabSize - 3);
}

// Reads `num_input` tokens, then generates.
v1::CompleteRequest Request(const std::string& session, int turn,
                            int num_input = kInput,
                            int num_generated = kGenerated) {
  v1::CompleteRequest request;
  request.set_session_id(session);
  for (int i = 0; i < num_input; ++i) {
    request.mutable_token_ids()->add_ids(TokenId(turn, i));
  }
  request.mutable_sampling()->set_max_tokens(num_generated);
  request.mutable_sampling()->set_temperature(0.9f);
  request.mutable_sampling()->set_seed(turn);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

// Refused at the door, as it would still wait at its deadline.
bool IsInfeasible(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         absl::StrContains(status.error_message(), "its deadline is before");
}

// How a call is broken off.
enum class Way {
  kStreamAfterEvents,
  kUnaryAfterTime,
  kStreamAfterTime,
  kUnaryDeadline,
  kStreamDeadline,
  kNoTimeAtAll,
  kTenYears,  // not at all
};
constexpr int kWays = 7;

struct Counts {
  std::atomic<int64_t> calls{0};
  std::atomic<int64_t> commits{0};     // the turns of this test only
  std::atomic<int64_t> ok{0};          // answered so
  std::atomic<int64_t> wrong{0};       // a state that is none of a turn's
  std::atomic<int64_t> unexpected{0};  // a code that does not belong there
  // Commits in part by their tokens: each step of prefill and decode is met.
  std::array<std::atomic<int64_t>, kLength + 1> at{};
};

class CancelStormTest : public testing::Test {
 protected:
  CancelStormTest()
      : tttd_({absl::StrCat("--model=", model_.path()), "--load_format=dummy",
               "--precision=fp32", "--num_threads=1",
               absl::StrCat("--max_batch_rows=", kRows),
               "--max_batch_tokens=16", "--device_state_bytes=4000000"}) {}

  v1::Session Fork(Client& client, const std::string& id) {
    v1::ForkSessionRequest request;
    request.set_session_id("base");
    request.set_new_session_id(id);
    v1::Session session;
    grpc::ClientContext context;
    const grpc::Status status =
        client.sessions->ForkSession(&context, request, &session);
    if (!status.ok()) ADD_FAILURE() << status.error_message();
    return session;
  }

  // The session once no turn runs on it, and it is deleted.
  v1::Session Take(Client& client, const std::string& id) {
    v1::Session session;
    EXPECT_TRUE(Eventually(kBound, [&] {
      grpc::ClientContext get_context;
      v1::GetSessionRequest get;
      get.set_session_id(id);
      if (!client.sessions->GetSession(&get_context, get, &session).ok() ||
          session.tier() == v1::TIER_RUNNING) {
        return false;
      }
      grpc::ClientContext delete_context;
      v1::DeleteSessionRequest request;
      request.set_session_id(id);
      v1::DeleteSessionResponse response;
      return client.sessions->DeleteSession(&delete_context, request, &response)
          .ok();
    })) << id;
    return session;
  }

  // What a session holds after `length` tokens of each turn.
  void LearnDigests() {
    Client client(tttd_.address());
    v1::CompleteRequest request = Request("base", 99, 5, 3);
    request.set_create_session(true);
    base_ = Complete(client, request);
    for (int turn = 0; turn < kTurns; ++turn) {
      for (int length = 1; length <= kLength; ++length) {
        Fork(client, "learn");
        digests_[turn][length] =
            Complete(client, Request("learn", turn, std::min(length, kInput),
                                     std::max(0, length - kInput)))
                .state_digest();
        Take(client, "learn");
      }
      digests_[turn][0] = base_.state_digest();
    }
  }

  v1::CompleteResponse Complete(Client& client,
                                const v1::CompleteRequest& request) {
    v1::CompleteResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        client.inference->Complete(&context, request, &response);
    if (!status.ok()) ADD_FAILURE() << status.error_message();
    ++learnt_;
    return response;
  }

  // How long a turn takes with all rows in use, and a fifth more.
  void LearnTurnTime() {
    constexpr int kTimes = 8;
    const absl::Time begin = absl::Now();
    {
      std::vector<std::jthread> threads;
      for (int row = 0; row < kRows; ++row) {
        threads.emplace_back([this, row] {
          Client client(tttd_.address());
          const std::string id = absl::StrCat("time-", row);
          for (int i = 0; i < kTimes; ++i) {
            Fork(client, id);
            Complete(client, Request(id, i % kTurns));
            Take(client, id);
          }
        });
      }
    }
    turn_micros_ = static_cast<uint64_t>(
        absl::ToInt64Microseconds((absl::Now() - begin) / kTimes * 12 / 10));
  }

  // One call, broken off; whether it said OK.
  grpc::Status Break(Client& client, const v1::CompleteRequest& request,
                     Way way, std::mt19937_64& random) {
    grpc::ClientContext context;
    const std::chrono::microseconds time(random() % turn_micros_);
    const auto now = std::chrono::system_clock::now();
    switch (way) {
      case Way::kUnaryDeadline:
      case Way::kStreamDeadline:
        context.set_deadline(now + time);
        break;
      case Way::kNoTimeAtAll:
        context.set_deadline(now);
        break;
      case Way::kTenYears:
        context.set_deadline(now + std::chrono::hours(24 * 3652));
        break;
      default:
        break;
    }
    if (way == Way::kStreamAfterEvents || way == Way::kStreamDeadline ||
        way == Way::kStreamAfterTime) {
      const auto reader = client.inference->StreamComplete(&context, request);
      std::jthread later;
      if (way == Way::kStreamAfterTime) {
        later = std::jthread([&context, time] {
          std::this_thread::sleep_for(time);  // The moment is the test.
          context.TryCancel();
        });
      }
      const int events = way == Way::kStreamAfterEvents
                             ? static_cast<int>(random() % kGenerated)
                             : 1 << 20;
      v1::CompleteEvent event;
      for (int i = 0; i < events && reader->Read(&event); ++i) {
      }
      if (way == Way::kStreamAfterEvents) context.TryCancel();
      while (reader->Read(&event)) {
      }
      return reader->Finish();
    }
    v1::CompleteResponse response;
    std::promise<grpc::Status> done;
    client.inference->async()->Complete(
        &context, &request, &response,
        [&done](grpc::Status status) { done.set_value(std::move(status)); });
    if (way == Way::kUnaryAfterTime) {
      std::this_thread::sleep_for(time);
      context.TryCancel();
    }
    return done.get_future().get();
  }

  void Storm(int thread, int64_t calls, uint64_t seed, Counts* counts) {
    std::mt19937_64 random(seed * 1000 + static_cast<uint64_t>(thread));
    Client client(tttd_.address());
    for (int64_t call = 0; call < calls && !HasFailure(); ++call) {
      const std::string id = absl::StrCat("s-", thread, "-", call);
      const int turn = static_cast<int>(random() % kTurns);
      const bool partial = random() % 2 == 0;
      const Way way = static_cast<Way>(random() % kWays);
      Fork(client, id);
      v1::CompleteRequest request = Request(id, turn);
      if (partial) request.set_on_cancel(v1::ON_CANCEL_COMMIT_PARTIAL);
      const grpc::Status status = Break(client, request, way, random);
      Check(Take(client, id), turn, partial, way, status, counts);
    }
  }

  void Check(const v1::Session& after, int turn, bool partial, Way way,
             const grpc::Status& status, Counts* counts) {
    ++counts->calls;
    if (status.ok()) ++counts->ok;
    const int64_t grown = after.tokens() - base_.usage().session_tokens();
    const bool committed = after.revision() == base_.revision() + 1;
    if (committed) ++counts->commits;
    const bool is_state_right =
        grown >= 0 && grown <= kLength && committed == (grown > 0) &&
        (committed || after.revision() == base_.revision()) &&
        after.state_digest() == digests_[turn][std::max<int64_t>(0, grown)] &&
        (partial || grown == 0 || grown == kLength) &&
        (!status.ok() || partial || committed);
    if (!is_state_right) {
      ++counts->wrong;
      ADD_FAILURE() << "way " << static_cast<int>(way) << ", partial "
                    << partial << ", revision " << after.revision()
                    << ", grown by " << grown << ", status "
                    << status.error_message();
    }
    const grpc::StatusCode code = status.error_code();
    const bool is_late = way == Way::kUnaryDeadline ||
                         way == Way::kStreamDeadline ||
                         way == Way::kNoTimeAtAll;
    const bool is_code_right =
        code == grpc::StatusCode::OK ||
        (is_late && (code == grpc::StatusCode::DEADLINE_EXCEEDED ||
                     IsInfeasible(status))) ||
        (!is_late && way != Way::kTenYears &&
         code == grpc::StatusCode::CANCELLED);
    if (!is_code_right) {
      ++counts->unexpected;
      ADD_FAILURE() << "way " << static_cast<int>(way) << ": code " << code
                    << ", " << status.error_message();
    }
    EXPECT_TRUE(committed || way != Way::kTenYears);
    if (committed) ++counts->at[grown];
  }

  void RunThreads(int64_t calls, uint64_t seed, Counts* counts) {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      const int64_t share = (calls + kThreads - 1 - i) / kThreads;
      threads.emplace_back(
          [this, i, share, seed, counts] { Storm(i, share, seed, counts); });
    }
  }

  // Decode steps after which a turn was committed.
  static int StepsMet(const Counts& counts) {
    return static_cast<int>(
        std::count_if(counts.at.begin() + kInput + 1, counts.at.end(),
                      [](const auto& turns) { return turns > 0; }));
  }

  void Run(int64_t calls, uint64_t seed) {
    LearnDigests();
    LearnTurnTime();
    ASSERT_FALSE(HasFailure());
    Counts counts;
    // The library's pools grow to what the load wants of them, once.
    const int64_t part = calls / 5;
    RunThreads(part, seed + 1000, &counts);
    ASSERT_FALSE(HasFailure());
    const ProcessUse before = UseWhenAllHaveLeft();
    RunThreads(calls - part, seed, &counts);
    // A step that was not met yet is met in a few more calls.
    for (int i = 0; i < 10 && !HasFailure() && StepsMet(counts) < kGenerated;
         ++i) {
      RunThreads(part, seed + 2000 + i, &counts);
      calls += part;
    }
    const int steps_met = StepsMet(counts);
    std::printf(
        "%lld calls, %lld answered OK, %lld committed, %d of %d decode "
        "steps met by a cancel; a turn takes %lld us\n",
        static_cast<long long>(counts.calls), static_cast<long long>(counts.ok),
        static_cast<long long>(counts.commits), steps_met, kGenerated,
        static_cast<long long>(turn_micros_));
    EXPECT_EQ(counts.calls, calls);
    EXPECT_EQ(counts.wrong, 0);
    EXPECT_EQ(counts.unexpected, 0);
    EXPECT_EQ(steps_met, kGenerated);
    {
      Client client(tttd_.address());
      Take(client, "base");
    }
    CheckNothingIsLeft(before, counts);
  }

  // What it holds when clients have come and gone.
  ProcessUse UseWhenAllHaveLeft() {
    ProcessUse use;
    EXPECT_TRUE(Eventually(kBound,
                           [&] {
                             use = tttd_.use();
                             return use.descriptors <= at_start_.descriptors;
                           }))
        << use.descriptors << " descriptors, at the start "
        << at_start_.descriptors;
    return use;
  }

  void CheckNothingIsLeft(const ProcessUse& before, const Counts& counts) {
    Series metrics;
    EXPECT_TRUE(Eventually(kBound, [&] {
      metrics = tttd_.metrics();
      return metrics["ttt_state_slots{use=\"committed\"}"] == 0 &&
             metrics["ttt_state_slots{use=\"scratch\"}"] == 0;
    }));
    EXPECT_EQ(metrics["ttt_running_turns"], 0);
    EXPECT_EQ(metrics["ttt_queue_requests"], 0);
    EXPECT_EQ(SumOf(metrics, "ttt_sessions{"), 0);
    EXPECT_EQ(metrics["ttt_turns_total{outcome=\"committed\"}"],
              static_cast<double>(counts.commits + learnt_));
    EXPECT_EQ(metrics["ttt_turns_total{outcome=\"failed\"}"], 0);
    // Each call of a session is one turn, however it ended; one that never
    // left its client is none.
    double calls = 0;
    for (const auto& [name, value] : metrics) {
      if (name.find("ttt_requests_total{") == 0 &&
          (name.find("\"Complete\"") != std::string::npos ||
           name.find("\"StreamComplete\"") != std::string::npos)) {
        calls += value;
      }
    }
    const double turns = SumOf(metrics, "ttt_turns_total{");
    EXPECT_LE(turns, calls);
    EXPECT_LE(calls, static_cast<double>(counts.calls + learnt_));
    const ProcessUse after = UseWhenAllHaveLeft();
    // A thread of the library may come and go; one a call may not stay.
    EXPECT_LE(after.threads, before.threads + 4);
    std::printf(
        "resident %lld KiB before, %lld after; descriptors %lld, %lld; "
        "threads %lld, %lld\n",
        static_cast<long long>(before.resident_bytes / 1024),
        static_cast<long long>(after.resident_bytes / 1024),
        static_cast<long long>(before.descriptors),
        static_cast<long long>(after.descriptors),
        static_cast<long long>(before.threads),
        static_cast<long long>(after.threads));
    if (kMeasuresMemory) {
      EXPECT_LE(after.resident_bytes - before.resident_bytes, 64 << 20);
    }
  }

  const TinyModel model_;
  TttdProcess tttd_;
  const ProcessUse at_start_ = tttd_.use();
  uint64_t turn_micros_ = 0;
  v1::CompleteResponse base_;
  std::string digests_[kTurns][kLength + 1];
  std::atomic<int64_t> learnt_{0};  // turns that are not of the storm
};

TEST_F(CancelStormTest, LeavesSessionsAsBeforeOrCommittedAndNothingBehind) {
  Run(10000, 1);
}

}  // namespace
}  // namespace ttt
