// Many threads on one pool and one store; meant for ThreadSanitizer.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/session/session_fixture.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 3000;

void RunThreads(const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(body, i);
}

TEST(StatePoolThreadsTest, EverySlotHasOneOwnerAtATime) {
  SessionFixture f(3, 2, {});
  std::vector<std::atomic<int>> owners(5);
  std::atomic<bool> shared_by_two = false;
  RunThreads([&](int) {
    for (int round = 0; round < kRounds; ++round) {
      absl::StatusOr<StateSlot> slot = f.pool->AcquireSlot();
      if (!slot.ok()) continue;
      if (++owners[slot->index()] != 1) shared_by_two = true;
      const StateSlot share = slot->Share();
      *slot = StateSlot();
      --owners[share.index()];
    }
  });
  EXPECT_FALSE(shared_by_two);
  EXPECT_EQ(f.pool->usage().slots_in_use, 0);
}

TEST(StatePoolThreadsTest, OneSlotIsSharedByManyThreadsAtOnce) {
  SessionFixture f(1, 1, {});
  const StateSlot slot = f.pool->AcquireSlot().value();
  RunThreads([&slot](int) {
    for (int round = 0; round < kRounds; ++round) {
      const StateSlot share = slot.Share();
      EXPECT_FALSE(slot.IsOnlyShare());
    }
  });
  EXPECT_TRUE(slot.IsOnlyShare());
}

TEST(StatePoolThreadsTest, ReservationsNeverPassTheLimit) {
  SessionFixture f(2, 1, {});
  std::atomic<int> held = 0;
  std::atomic<bool> passed = false;
  RunThreads([&](int) {
    for (int round = 0; round < kRounds; ++round) {
      const absl::StatusOr<StateReservation> reservation = f.pool->Reserve();
      if (!reservation.ok()) continue;
      if (++held > 2) passed = true;
      --held;
    }
  });
  EXPECT_FALSE(passed);
  EXPECT_EQ(f.pool->usage().reserved, 0);
}

TEST(SessionStoreThreadsTest, OneThreadAtATimeLeasesASession) {
  SessionFixture f(4, kThreads, {});
  std::atomic<int> holders = 0;
  std::atomic<int64_t> commits = 0;
  std::atomic<bool> leased_twice = false;
  ASSERT_THAT(f.Run("a", 0), IsOk());
  RunThreads([&](int) {
    for (int round = 0; round < kRounds; ++round) {
      absl::StatusOr<SessionLease> lease = f.Acquire("a");
      if (!lease.ok()) continue;
      if (++holders != 1) leased_twice = true;
      StateSlot slot = f.pool->AcquireSlot().value();
      const int64_t tokens = lease->tokens() + 1;
      --holders;
      lease->Commit(std::move(slot), tokens, DigestOf(1));
      ++commits;
    }
  });
  EXPECT_FALSE(leased_twice);
  const SessionInfo info = f.store->GetSession("a").value();
  EXPECT_EQ(info.tokens, commits);
  EXPECT_EQ(info.revision, commits + 1);
  EXPECT_EQ(f.pool->usage().slots_in_use, 1);
}

// All calls at once, on few names, with sessions that expire: whatever comes of
// each, nothing is lost in the end.
TEST(SessionStoreThreadsTest, AccountsBalanceAfterAnythingAtOnce) {
  SessionFixture f(4, kThreads, {.max_sessions = 6});
  RunThreads([&](int thread) {
    std::minstd_rand random(thread + 1);
    const auto name = [&random] { return absl::StrCat("s", random() % 8); };
    for (int round = 0; round < kRounds; ++round) {
      switch (random() % 9) {
        case 0:
          (void)f.store->CreateSession(name(), absl::Milliseconds(3));
          break;
        case 1:
          (void)f.store->DeleteSession(name());
          break;
        case 2:
          (void)f.store->ForkSession(name(), name(), absl::Milliseconds(3),
                                     std::nullopt);
          break;
        case 3:
          (void)f.store->View(name());
          break;
        case 4:
          (void)f.store->ListSessions(name(), 3);
          break;
        case 5:
          f.clock.Advance(absl::Milliseconds(1));
          f.store->DropExpired();
          break;
        case 6:
          (void)f.AcquireOrCreate(name());  // A turn that fails.
          break;
        default:
          (void)f.Run(name(), 1);
      }
      (void)f.store->counts();
    }
  });
  const SessionStore::Counts counts = f.store->counts();
  EXPECT_EQ(counts.running, 0);
  EXPECT_EQ(counts.with_state, f.pool->usage().reserved);
  EXPECT_LE(f.pool->usage().slots_in_use, counts.with_state);
  for (const SessionInfo& info : f.store->ListSessions("", 100)) {
    EXPECT_THAT(f.store->DeleteSession(info.id), IsOk());
  }
  f.clock.Advance(absl::Seconds(1));
  f.store->DropExpired();
  EXPECT_EQ(f.store->counts().sessions, 0);
  EXPECT_EQ(f.pool->usage().reserved, 0);
  EXPECT_EQ(f.pool->usage().slots_in_use, 0);
}

}  // namespace
}  // namespace ttt
