#include "server/session/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "server/base/error.h"
#include "tests/server/session/session_fixture.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

constexpr absl::Duration kForever = absl::InfiniteDuration();
constexpr absl::StatusCode kAborted = absl::StatusCode::kAborted;
constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

// Matches an error with a reason; one that may be tried again has a hint.
MATCHER_P2(FailsWith, code, reason, "") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString() << " " << ErrorReason(status);
  const bool may_retry = code == kAborted || code == kExhausted;
  return status.code() == code && ErrorReason(status) == reason &&
         RetryAfter(status).has_value() == may_retry;
}

class SessionStoreTest : public ::testing::Test {
 protected:
  SessionInfo Get(absl::string_view id) {
    return store_.GetSession(id).value();
  }

  SessionFixture f_{
      /*session_slots=*/4, /*scratch_slots=*/2, {.max_sessions = 8}};
  SessionStore& store_ = *f_.store;
  StatePool& pool_ = *f_.pool;
  FakeClock& clock_ = f_.clock;
};

// Creating, listing, deleting.

TEST_F(SessionStoreTest, NewSessionIsEmptyAndIdle) {
  const SessionInfo info = store_.CreateSession("a", absl::Hours(1)).value();
  EXPECT_EQ(info.id, "a");
  EXPECT_EQ(info.revision, 0);
  EXPECT_EQ(info.tokens, 0);
  EXPECT_FALSE(info.running);
  EXPECT_EQ(info.state_bytes, 0);
  EXPECT_EQ(info.digest, std::nullopt);
  EXPECT_EQ(info.parent_id, "");
  EXPECT_EQ(info.create_time, clock_.Now());
  EXPECT_EQ(info.last_used_time, clock_.Now());
  EXPECT_EQ(info.expire_time(), clock_.Now() + absl::Hours(1));
}

TEST_F(SessionStoreTest, EmptySessionsTakeNothingFromThePool) {
  for (const char* const id : {"a", "b", "c", "d", "e", "f"}) {
    EXPECT_THAT(store_.CreateSession(id, kForever), IsOk());
  }
  EXPECT_EQ(pool_.usage().reserved, 0);
  EXPECT_EQ(pool_.usage().slots_in_use, 0);
}

TEST_F(SessionStoreTest, SessionWithoutANameGetsARandomOne) {
  const std::string first = store_.CreateSession("", kForever).value().id;
  const std::string second = store_.CreateSession("", kForever).value().id;
  EXPECT_THAT(first, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_NE(first, second);
  EXPECT_THAT(store_.GetSession(first), IsOk());
}

TEST_F(SessionStoreTest, NamesMayUseLettersDigitsAndFourSigns) {
  EXPECT_THAT(store_.CreateSession("Az09._:-", kForever), IsOk());
  EXPECT_THAT(store_.CreateSession(std::string(128, 'x'), kForever), IsOk());
}

TEST_F(SessionStoreTest, OtherNamesAreRefusedAndShown) {
  for (const std::string& id :
       {std::string(129, 'x'), std::string("a b"), std::string("a/b"),
        std::string("\xc3\xa9"), std::string("a\0b", 3), std::string("a\n")}) {
    EXPECT_THAT(store_.CreateSession(id, kForever),
                FailsWith(kInvalid, "BAD_SESSION_ID"));
  }
  EXPECT_THAT(store_.CreateSession("a b", kForever),
              StatusIs(kInvalid, "\"a b\""));
  EXPECT_THAT(f_.List("", 100), IsEmpty());
}

TEST_F(SessionStoreTest, MessageHoldsAtMost128BytesOfAName) {
  const absl::Status status =
      store_.CreateSession(std::string(1 << 20, '\n'), kForever).status();
  EXPECT_LT(status.message().size(), 300);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1048576 bytes"));
}

TEST_F(SessionStoreTest, TimeToLiveMustBeAboveZero) {
  EXPECT_THAT(store_.CreateSession("a", absl::ZeroDuration()),
              FailsWith(kInvalid, "BAD_TTL"));
  EXPECT_THAT(store_.CreateSession("a", -absl::Seconds(1)),
              StatusIs(kInvalid, "-1s"));
}

TEST_F(SessionStoreTest, NameIsTakenOnce) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  EXPECT_THAT(store_.CreateSession("a", kForever),
              FailsWith(absl::StatusCode::kAlreadyExists, "SESSION_EXISTS"));
}

TEST_F(SessionStoreTest, SessionPastTheLimitIsRefused) {
  for (int i = 0; i < 8; ++i) {
    ASSERT_THAT(store_.CreateSession("", kForever), IsOk());
  }
  EXPECT_THAT(store_.CreateSession("", kForever),
              FailsWith(kExhausted, "TOO_MANY_SESSIONS"));
  EXPECT_THAT(f_.AcquireOrCreate("new"),
              FailsWith(kExhausted, "TOO_MANY_SESSIONS"));
  EXPECT_EQ(pool_.usage().reserved, 0);
}

TEST_F(SessionStoreTest, UnknownSessionIsNotFound) {
  EXPECT_THAT(store_.GetSession("a"),
              FailsWith(kNotFound, "SESSION_NOT_FOUND"));
  EXPECT_THAT(store_.DeleteSession("a"),
              FailsWith(kNotFound, "SESSION_NOT_FOUND"));
  EXPECT_THAT(f_.Acquire("a"), FailsWith(kNotFound, "SESSION_NOT_FOUND"));
  EXPECT_THAT(store_.View("a"), FailsWith(kNotFound, "SESSION_NOT_FOUND"));
  EXPECT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt),
              FailsWith(kNotFound, "SESSION_NOT_FOUND"));
}

TEST_F(SessionStoreTest, PagesOfTheListMeetEachSessionOnceInOrder) {
  for (const char* const id : {"d", "a", "c", "b", "e"}) {
    ASSERT_THAT(store_.CreateSession(id, kForever), IsOk());
  }
  EXPECT_THAT(f_.List("", 2), ElementsAre("a", "b"));
  EXPECT_THAT(f_.List("b", 2), ElementsAre("c", "d"));
  EXPECT_THAT(f_.List("d", 2), ElementsAre("e"));
  EXPECT_THAT(f_.List("e", 2), IsEmpty());
}

TEST_F(SessionStoreTest, PageGoesOnAfterASessionThatWasDeleted) {
  for (const char* const id : {"a", "b", "c"}) {
    ASSERT_THAT(store_.CreateSession(id, kForever), IsOk());
  }
  ASSERT_THAT(store_.DeleteSession("b"), IsOk());
  EXPECT_THAT(f_.List("b", 2), ElementsAre("c"));
}

TEST_F(SessionStoreTest, ListOfNoneIsEmpty) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  EXPECT_THAT(f_.List("", 0), IsEmpty());
  EXPECT_THAT(f_.List("", -1), IsEmpty());
}

TEST_F(SessionStoreTest, DeletedSessionGivesBackItsState) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  ASSERT_THAT(store_.DeleteSession("a"), IsOk());
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
  EXPECT_EQ(pool_.usage().reserved, 0);
  EXPECT_EQ(pool_.usage().slots_in_use, 0);
}

TEST_F(SessionStoreTest, LeasedSessionCannotBeDeleted) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_THAT(store_.DeleteSession("a"), FailsWith(kAborted, "SESSION_BUSY"));
  EXPECT_THAT(store_.GetSession("a"), IsOk());
}

TEST_F(SessionStoreTest, CountsFollowSessionsLeasesAndStates) {
  ASSERT_THAT(store_.CreateSession("empty", kForever), IsOk());
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  ASSERT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_EQ(store_.counts().sessions, 3);
  EXPECT_EQ(store_.counts().running, 1);
  EXPECT_EQ(store_.counts().with_state, 2);
  ASSERT_THAT(store_.DeleteSession("b"), IsOk());
  EXPECT_EQ(store_.counts().sessions, 2);
  EXPECT_EQ(store_.counts().with_state, 1);
}

TEST_F(SessionStoreTest, OptionOutOfRangeIsRefusedWithItsValue) {
  EXPECT_THAT(SessionStore::Create({.max_sessions = 0}, &clock_, &pool_),
              StatusIs(kInvalid, "max_sessions is 0"));
}

// Leases and commits.

TEST_F(SessionStoreTest, SecondLeaseOnASessionIsRefused) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_THAT(f_.Acquire("a"), FailsWith(kAborted, "SESSION_BUSY"));
}

TEST_F(SessionStoreTest, SessionRunsWhileItIsLeased) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  EXPECT_FALSE(Get("a").running);
  {
    const SessionLease lease = f_.Acquire("a").value();
    EXPECT_TRUE(Get("a").running);
  }
  EXPECT_FALSE(Get("a").running);
  EXPECT_THAT(f_.Acquire("a"), IsOk());
}

TEST_F(SessionStoreTest, LeaseShowsTheCommittedState) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const int32_t slot = f_.SlotOf("a");
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_EQ(lease.id(), "a");
  EXPECT_EQ(lease.revision(), 1);
  EXPECT_EQ(lease.tokens(), 3);
  EXPECT_EQ(lease.state().index(), slot);
}

TEST_F(SessionStoreTest, LeaseOfAnEmptySessionHasNoState) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_FALSE(lease.state().has_value());
  EXPECT_EQ(lease.revision(), 0);
}

TEST_F(SessionStoreTest, CommitPublishesTheTurn) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  clock_.Advance(absl::Seconds(5));
  SessionLease lease = f_.Acquire("a").value();
  StateSlot slot = pool_.AcquireSlot().value();
  const int32_t index = slot.index();
  clock_.Advance(absl::Seconds(5));

  EXPECT_EQ(lease.Commit(std::move(slot), 10, DigestOf(7)), 2);

  const SessionInfo info = Get("a");
  EXPECT_EQ(info.revision, 2);
  EXPECT_EQ(info.tokens, 10);
  EXPECT_EQ(info.digest, DigestOf(7));
  EXPECT_EQ(info.state_bytes, kSlotBytes);
  EXPECT_EQ(info.last_used_time, clock_.Now());
  EXPECT_EQ(f_.SlotOf("a"), index);
  EXPECT_FALSE(info.running);
  EXPECT_FALSE(lease.has_value());
}

TEST_F(SessionStoreTest, CommitFreesTheStateBefore) {
  for (int turn = 0; turn < 10; ++turn) {
    ASSERT_THAT(f_.Run("a", 3), IsOk());
    EXPECT_EQ(pool_.usage().slots_in_use, 1);
    EXPECT_EQ(pool_.usage().reserved, 1);
  }
}

TEST_F(SessionStoreTest, LeaseWithoutACommitLeavesTheSessionAsItWas) {
  ASSERT_THAT(f_.Run("a", 3, /*digest=*/7), IsOk());
  const int32_t slot = f_.SlotOf("a");
  { const SessionLease lease = f_.Acquire("a").value(); }
  const SessionInfo info = Get("a");
  EXPECT_EQ(info.revision, 1);
  EXPECT_EQ(info.tokens, 3);
  EXPECT_EQ(info.digest, DigestOf(7));
  EXPECT_EQ(f_.SlotOf("a"), slot);
}

TEST_F(SessionStoreTest, MovedLeaseEndsOnce) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  SessionLease from = f_.Acquire("a").value();
  {
    const SessionLease to = std::move(from);
    EXPECT_FALSE(from.has_value());
    EXPECT_EQ(to.id(), "a");
    EXPECT_TRUE(Get("a").running);
  }
  EXPECT_FALSE(Get("a").running);
}

TEST_F(SessionStoreTest, AssignedLeaseEndsTheOneItHad) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  ASSERT_THAT(f_.Run("b", 3), IsOk());
  SessionLease lease = f_.Acquire("a").value();
  lease = f_.Acquire("b").value();
  EXPECT_FALSE(Get("a").running);
  EXPECT_TRUE(Get("b").running);
  EXPECT_EQ(lease.id(), "b");
}

TEST_F(SessionStoreTest, LeaseAssignedToItselfStays) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  SessionLease lease = f_.Acquire("a").value();
  SessionLease& same = lease;
  lease = std::move(same);
  EXPECT_TRUE(lease.has_value());
  EXPECT_TRUE(Get("a").running);
}

TEST_F(SessionStoreTest, ExpectedRevisionMustBeTheCommittedOne) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const auto refused = store_.Acquire("a", {.expected_revision = 0});
  EXPECT_THAT(refused, FailsWith(absl::StatusCode::kFailedPrecondition,
                                 "REVISION_MISMATCH"));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition,
                                "is at revision 1, not at 0"));
  EXPECT_FALSE(Get("a").running);
  EXPECT_THAT(store_.Acquire("a", {.expected_revision = 1}), IsOk());
}

TEST_F(SessionStoreTest, BusySessionIsAbortedWhateverRevisionIsExpected) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  EXPECT_THAT(store_.Acquire("a", {.expected_revision = 9}),
              FailsWith(kAborted, "SESSION_BUSY"));
}

TEST_F(SessionStoreTest, ViewSharesTheCommittedStateOfALeasedSession) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const SessionLease lease = f_.Acquire("a").value();
  const SessionView view = store_.View("a").value();
  EXPECT_EQ(view.revision, 1);
  EXPECT_EQ(view.tokens, 3);
  EXPECT_EQ(view.state.index(), lease.state().index());
}

TEST_F(SessionStoreTest, ViewKeepsTheStateItWasTakenOf) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  {
    const SessionView view = store_.View("a").value();
    ASSERT_THAT(f_.Run("a", 3), IsOk());
    EXPECT_NE(view.state.index(), f_.SlotOf("a"));
    EXPECT_TRUE(view.state.IsOnlyShare());
  }
  EXPECT_EQ(pool_.usage().slots_in_use, 1);
}

TEST_F(SessionStoreTest, ViewOfAnEmptySessionHasNoState) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  EXPECT_FALSE(store_.View("a").value().state.has_value());
}

// Sessions that Acquire makes.

TEST_F(SessionStoreTest, AcquireMakesASessionOnlyIfAsked) {
  EXPECT_THAT(f_.Acquire("a"), FailsWith(kNotFound, "SESSION_NOT_FOUND"));
  const SessionLease lease = f_.AcquireOrCreate("a").value();
  EXPECT_EQ(lease.revision(), 0);
  EXPECT_EQ(Get("a").expire_time(), absl::InfiniteFuture());
}

TEST_F(SessionStoreTest, SessionMadeByAcquireStaysOnceCommitted) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  EXPECT_EQ(Get("a").revision, 1);
}

TEST_F(SessionStoreTest, SessionMadeByAcquireGoesIfItsFirstTurnFails) {
  { const SessionLease lease = f_.AcquireOrCreate("a").value(); }
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
  EXPECT_EQ(pool_.usage().reserved, 0);
  EXPECT_EQ(store_.counts().sessions, 0);
}

TEST_F(SessionStoreTest, SessionThatWasThereStaysIfItsFirstTurnFails) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  { const SessionLease lease = f_.AcquireOrCreate("a").value(); }
  EXPECT_THAT(store_.GetSession("a"), IsOk());
  EXPECT_EQ(pool_.usage().reserved, 0);
}

TEST_F(SessionStoreTest, SessionMadeByAcquireStaysIfALaterTurnFails) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  { const SessionLease lease = f_.AcquireOrCreate("a").value(); }
  EXPECT_THAT(store_.GetSession("a"), IsOk());
}

TEST_F(SessionStoreTest, AbsentSessionIsMadeOnlyForRevisionZero) {
  EXPECT_THAT(
      store_.Acquire("a", {.create_if_absent = true, .expected_revision = 1}),
      FailsWith(absl::StatusCode::kFailedPrecondition, "REVISION_MISMATCH"));
  EXPECT_EQ(store_.counts().sessions, 0);
  EXPECT_THAT(
      store_.Acquire("a", {.create_if_absent = true, .expected_revision = 0}),
      IsOk());
}

TEST_F(SessionStoreTest, AcquireMakesNoSessionWithoutAValidName) {
  EXPECT_THAT(f_.AcquireOrCreate(""), FailsWith(kInvalid, "BAD_SESSION_ID"));
  EXPECT_THAT(f_.AcquireOrCreate("a b"), FailsWith(kInvalid, "BAD_SESSION_ID"));
}

// The pool's room.

TEST_F(SessionStoreTest, FirstTurnIsRefusedWhenThePoolIsFull) {
  for (const char* const id : {"a", "b", "c", "d"}) {
    ASSERT_THAT(f_.Run(id, 3), IsOk());
  }
  ASSERT_THAT(store_.CreateSession("e", kForever), IsOk());
  EXPECT_THAT(f_.Acquire("e"), FailsWith(kExhausted, "STATE_POOL_FULL"));
  EXPECT_FALSE(Get("e").running);
  EXPECT_THAT(f_.AcquireOrCreate("f"),
              FailsWith(kExhausted, "STATE_POOL_FULL"));
  EXPECT_THAT(store_.GetSession("f"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, SessionsWithAStateGoOnWhenThePoolIsFull) {
  for (const char* const id : {"a", "b", "c", "d"}) {
    ASSERT_THAT(f_.Run(id, 3), IsOk());
  }
  for (const char* const id : {"a", "b", "c", "d"}) {
    EXPECT_THAT(f_.Run(id, 3), IsOk());
  }
  EXPECT_EQ(pool_.usage().slots_in_use, 4);
}

TEST_F(SessionStoreTest, RunningFirstTurnHoldsItsRoom) {
  const SessionLease lease = f_.AcquireOrCreate("a").value();
  EXPECT_EQ(pool_.usage().reserved, 1);
}

// Forks.

TEST_F(SessionStoreTest, ForkStartsWhereItsParentStands) {
  ASSERT_THAT(f_.Run("a", 3, /*digest=*/7), IsOk());
  clock_.Advance(absl::Seconds(5));
  const SessionInfo fork =
      store_.ForkSession("a", "b", absl::Hours(1), std::nullopt).value();
  EXPECT_EQ(fork.id, "b");
  EXPECT_EQ(fork.parent_id, "a");
  EXPECT_EQ(fork.revision, 1);
  EXPECT_EQ(fork.tokens, 3);
  EXPECT_EQ(fork.digest, DigestOf(7));
  EXPECT_EQ(fork.state_bytes, kSlotBytes);
  EXPECT_EQ(fork.create_time, clock_.Now());
  EXPECT_EQ(fork.expire_time(), clock_.Now() + absl::Hours(1));
}

TEST_F(SessionStoreTest, ForkSharesTheSlotAndHoldsRoomOfItsOwn) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  ASSERT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt), IsOk());
  EXPECT_EQ(f_.SlotOf("b"), f_.SlotOf("a"));
  EXPECT_EQ(pool_.usage().slots_in_use, 1);
  EXPECT_EQ(pool_.usage().reserved, 2);
}

TEST_F(SessionStoreTest, TurnOnAForkLeavesTheParentAlone) {
  ASSERT_THAT(f_.Run("a", 3, /*digest=*/7), IsOk());
  ASSERT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt), IsOk());
  ASSERT_THAT(f_.Run("b", 4, /*digest=*/8), IsOk());
  EXPECT_EQ(Get("a").revision, 1);
  EXPECT_EQ(Get("a").digest, DigestOf(7));
  EXPECT_EQ(Get("b").revision, 2);
  EXPECT_EQ(Get("b").tokens, 7);
  EXPECT_NE(f_.SlotOf("b"), f_.SlotOf("a"));
}

TEST_F(SessionStoreTest, ForkOutlivesItsParent) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const int32_t slot = f_.SlotOf("a");
  ASSERT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt), IsOk());
  ASSERT_THAT(store_.DeleteSession("a"), IsOk());
  EXPECT_EQ(f_.SlotOf("b"), slot);
  EXPECT_EQ(pool_.usage().reserved, 1);
}

TEST_F(SessionStoreTest, ForkOfALeasedSessionTakesTheCommittedState) {
  ASSERT_THAT(f_.Run("a", 3, /*digest=*/7), IsOk());
  SessionLease lease = f_.Acquire("a").value();
  ASSERT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt), IsOk());
  lease.Commit(pool_.AcquireSlot().value(), 9, DigestOf(8));
  EXPECT_EQ(Get("b").revision, 1);
  EXPECT_EQ(Get("b").digest, DigestOf(7));
  EXPECT_FALSE(Get("b").running);
  EXPECT_EQ(Get("a").revision, 2);
}

TEST_F(SessionStoreTest, ForkOfAnEmptySessionIsEmpty) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  const SessionInfo fork =
      store_.ForkSession("a", "b", kForever, std::nullopt).value();
  EXPECT_EQ(fork.revision, 0);
  EXPECT_EQ(fork.state_bytes, 0);
  EXPECT_EQ(pool_.usage().reserved, 0);
  EXPECT_THAT(f_.Run("b", 3), IsOk());
}

TEST_F(SessionStoreTest, ForkWithoutANameGetsARandomOne) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  EXPECT_THAT(store_.ForkSession("a", "", kForever, std::nullopt).value().id,
              MatchesRegex("[0-9a-f]{32}"));
}

TEST_F(SessionStoreTest, ForkNeedsAFreeValidNameAndTimeToLive) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  const auto fork = [this](absl::string_view id, absl::Duration ttl) {
    return store_.ForkSession("a", id, ttl, std::nullopt);
  };
  EXPECT_THAT(fork("a", kForever),
              FailsWith(absl::StatusCode::kAlreadyExists, "SESSION_EXISTS"));
  EXPECT_THAT(fork("a b", kForever), FailsWith(kInvalid, "BAD_SESSION_ID"));
  EXPECT_THAT(fork("b", absl::ZeroDuration()), FailsWith(kInvalid, "BAD_TTL"));
  EXPECT_EQ(pool_.usage().reserved, 1);
}

TEST_F(SessionStoreTest, ForkExpectsTheCommittedRevision) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  EXPECT_THAT(
      store_.ForkSession("a", "b", kForever, 2),
      FailsWith(absl::StatusCode::kFailedPrecondition, "REVISION_MISMATCH"));
  EXPECT_THAT(store_.ForkSession("a", "b", kForever, 1), IsOk());
}

TEST_F(SessionStoreTest, ForkPastAFullPoolIsRefused) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  for (const char* const id : {"b", "c", "d"}) {
    ASSERT_THAT(store_.ForkSession("a", id, kForever, std::nullopt), IsOk());
  }
  EXPECT_THAT(store_.ForkSession("a", "e", kForever, std::nullopt),
              FailsWith(kExhausted, "STATE_POOL_FULL"));
  EXPECT_THAT(store_.GetSession("e"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, ForkPastTheLimitOfSessionsKeepsNoRoom) {
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  for (int i = 0; i < 7; ++i) {
    ASSERT_THAT(store_.CreateSession("", kForever), IsOk());
  }
  EXPECT_THAT(store_.ForkSession("a", "b", kForever, std::nullopt),
              FailsWith(kExhausted, "TOO_MANY_SESSIONS"));
  EXPECT_EQ(pool_.usage().reserved, 1);
}

// Time to live.

TEST_F(SessionStoreTest, SessionExpiresOnceItsTimeHasPassed) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(10)), IsOk());
  clock_.Advance(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_THAT(store_.GetSession("a"), IsOk());
  clock_.Advance(absl::Nanoseconds(1));
  EXPECT_THAT(store_.GetSession("a"),
              FailsWith(kNotFound, "SESSION_NOT_FOUND"));
}

TEST_F(SessionStoreTest, SessionWithoutATimeToLiveStays) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  clock_.Advance(absl::Hours(24 * 365 * 100));
  EXPECT_THAT(store_.GetSession("a"), IsOk());
}

TEST_F(SessionStoreTest, ExpiredSessionIsAbsentForEveryCall) {
  for (const char* const id : {"a", "b", "c", "d", "e", "f"}) {
    ASSERT_THAT(store_.CreateSession(id, absl::Seconds(1)), IsOk());
  }
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(f_.List("", 9), IsEmpty());
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
  EXPECT_THAT(store_.View("b"), StatusIs(kNotFound));
  EXPECT_THAT(store_.DeleteSession("c"), StatusIs(kNotFound));
  EXPECT_THAT(f_.Acquire("d"), StatusIs(kNotFound));
  EXPECT_THAT(store_.ForkSession("e", "g", kForever, std::nullopt),
              StatusIs(kNotFound));
  EXPECT_THAT(store_.CreateSession("f", kForever), IsOk());
}

TEST_F(SessionStoreTest, TurnBeginsTheTimeToLiveAnew) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(10)), IsOk());
  clock_.Advance(absl::Seconds(9));
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  clock_.Advance(absl::Seconds(9));
  EXPECT_THAT(store_.GetSession("a"), IsOk());
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, LookingAtASessionDoesNotKeepIt) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(10)), IsOk());
  clock_.Advance(absl::Seconds(9));
  EXPECT_THAT(store_.GetSession("a"), IsOk());
  EXPECT_THAT(store_.View("a"), IsOk());
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, LeasedSessionOutlivesItsTimeToLive) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(10)), IsOk());
  {
    SessionLease lease = f_.Acquire("a").value();
    lease.TurnBegins();
    clock_.Advance(absl::Hours(1));
    EXPECT_EQ(store_.DropExpired(), 0);
    EXPECT_THAT(store_.GetSession("a"), IsOk());
  }
  EXPECT_THAT(store_.GetSession("a"), IsOk());
  clock_.Advance(absl::Seconds(10));
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, ATurnThatBeganIsAUseOfTheSession) {
  ASSERT_THAT(store_.CreateSession("a", kForever), IsOk());
  clock_.Advance(absl::Seconds(3));
  {
    SessionLease lease = f_.Acquire("a").value();
    lease.TurnBegins();
    EXPECT_EQ(Get("a").last_used_time, clock_.Now());
    clock_.Advance(absl::Seconds(3));
  }
  EXPECT_EQ(Get("a").last_used_time, clock_.Now());
}

TEST_F(SessionStoreTest, ALeaseWhoseTurnDidNotBeginIsNoUse) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(10)), IsOk());
  const absl::Time created = clock_.Now();
  clock_.Advance(absl::Seconds(3));
  { const SessionLease lease = f_.Acquire("a").value(); }
  EXPECT_EQ(Get("a").last_used_time, created);
  clock_.Advance(absl::Seconds(7));
  EXPECT_THAT(store_.GetSession("a"), StatusIs(kNotFound));
}

TEST_F(SessionStoreTest, DropExpiredDropsOnlyWhatHasExpired) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(1)), IsOk());
  ASSERT_THAT(store_.CreateSession("b", absl::Seconds(2)), IsOk());
  ASSERT_THAT(store_.CreateSession("c", absl::Seconds(3)), IsOk());
  ASSERT_THAT(store_.CreateSession("d", kForever), IsOk());
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(store_.DropExpired(), 2);
  EXPECT_EQ(store_.counts().sessions, 2);
  EXPECT_EQ(store_.DropExpired(), 0);
}

TEST_F(SessionStoreTest, DroppedSessionsGiveBackTheirStates) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(1)), IsOk());
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(store_.DropExpired(), 1);
  EXPECT_EQ(pool_.usage().reserved, 0);
  EXPECT_EQ(pool_.usage().slots_in_use, 0);
  EXPECT_EQ(store_.counts().with_state, 0);
}

TEST_F(SessionStoreTest, ExpiredSessionsMakeRoomForNewOnes) {
  for (const char* const id : {"a", "b", "c", "d"}) {
    ASSERT_THAT(store_.CreateSession(id, absl::Seconds(1)), IsOk());
    ASSERT_THAT(f_.Run(id, 3), IsOk());
  }
  for (int i = 0; i < 4; ++i) {
    ASSERT_THAT(store_.CreateSession("", kForever), IsOk());
  }
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(f_.Run("new", 3), IsOk());
}

TEST_F(SessionStoreTest, ExpiredNameMayBeUsedAnew) {
  ASSERT_THAT(store_.CreateSession("a", absl::Seconds(1)), IsOk());
  ASSERT_THAT(f_.Run("a", 3), IsOk());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(store_.CreateSession("a", absl::Seconds(5)).value().revision, 0);
  clock_.Advance(absl::Seconds(4));
  EXPECT_EQ(store_.DropExpired(), 0);
}

TEST(SessionStoreLimitsTest, DropExpiredDropsThousandsAtOnce) {
  SessionFixture f(1, 1, {.max_sessions = 2000});
  for (int i = 0; i < 1000; ++i) {
    ASSERT_THAT(f.store->CreateSession("", absl::Seconds(1 + i)), IsOk());
  }
  f.clock.Advance(absl::Seconds(900));
  EXPECT_EQ(f.store->DropExpired(), 900);
  EXPECT_EQ(f.store->counts().sessions, 100);
}

// Broken rules.

using SessionStoreDeathTest = SessionStoreTest;

TEST_F(SessionStoreDeathTest, StoreThatGoesBeforeALeaseEndsTheProcess) {
  const SessionLease lease = f_.AcquireOrCreate("a").value();
  EXPECT_DEATH(f_.store.reset(), "check failed");
}

TEST_F(SessionStoreDeathTest, CommitWithoutAStateEndsTheProcess) {
  SessionLease lease = f_.AcquireOrCreate("a").value();
  EXPECT_DEATH(lease.Commit(StateSlot(), 1, DigestOf(1)), "check failed");
}

TEST_F(SessionStoreDeathTest, SecondCommitEndsTheProcess) {
  SessionLease lease = f_.AcquireOrCreate("a").value();
  lease.Commit(pool_.AcquireSlot().value(), 1, DigestOf(1));
  EXPECT_DEATH(lease.Commit(pool_.AcquireSlot().value(), 2, DigestOf(1)),
               "check failed");
}

}  // namespace
}  // namespace ttt
