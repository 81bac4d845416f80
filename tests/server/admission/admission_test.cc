#include "server/admission/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/error.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;
constexpr absl::StatusCode kUnavailable = absl::StatusCode::kUnavailable;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// Matches an error with a reason and a hint when to try again.
MATCHER_P2(RefusesWith, code, reason, "") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString() << " " << ErrorReason(status);
  return status.code() == code && ErrorReason(status) == reason &&
         RetryAfter(status).has_value();
}

class AdmissionTest : public testing::Test {
 protected:
  std::unique_ptr<Admission> Create(const Admission::Options& options) {
    return Admission::Create(options, &clock_).value();
  }
  std::unique_ptr<Admission> Serving(const Admission::Options& options) {
    auto admission = Create(options);
    admission->SetState(Admission::State::kServing);
    return admission;
  }
  absl::Duration HintAfter(int32_t calls);

  FakeClock clock_;
};
using CallWorkTest = AdmissionTest;
using TicketTest = AdmissionTest;
using AdmissionThreadsTest = AdmissionTest;
using AdmissionDeathTest = AdmissionTest;

TEST_F(AdmissionTest, RefusesCallsUntilItServes) {
  const auto admission = Create({});
  EXPECT_EQ(admission->state(), Admission::State::kStarting);
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kUnavailable, "STARTING"));
  admission->SetState(Admission::State::kServing);
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

TEST_F(AdmissionTest, RefusesCallsWhileItDrains) {
  const auto admission = Serving({});
  const auto running = admission->Admit({.tokens = 1}).value();
  admission->SetState(Admission::State::kDraining);
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kUnavailable, "DRAINING"));
  EXPECT_EQ(admission->load().calls, 1);
}

TEST_F(AdmissionTest, RefusesCallsPastTheLimit) {
  const auto admission = Serving({.max_calls = 2});
  const auto first = admission->Admit({.tokens = 1}).value();
  const auto second = admission->Admit({.tokens = 1}).value();
  EXPECT_THAT(admission->Admit({.tokens = 0}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit({.tokens = 0}), StatusIs(kExhausted, "2 calls"));
}

TEST_F(AdmissionTest, EndedCallMakesRoom) {
  const auto admission = Serving({.max_calls = 1});
  { const auto ticket = admission->Admit({.tokens = 1}).value(); }
  EXPECT_EQ(admission->load().calls, 0);
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

TEST_F(AdmissionTest, RefusesTokensPastTheLimit) {
  const auto admission = Serving({.max_queued_tokens = 10});
  const auto first = admission->Admit({.tokens = 6}).value();
  EXPECT_THAT(admission->Admit({.tokens = 5}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit({.tokens = 5}),
              StatusIs(kExhausted, "5 tokens, with 6"));
  EXPECT_THAT(admission->Admit({.tokens = 4}), IsOk());
}

TEST_F(AdmissionTest, TokensOfAStartedCallMakeRoom) {
  const auto admission = Serving({.max_queued_tokens = 10});
  const auto first = admission->Admit({.tokens = 4}).value();
  auto second = admission->Admit({.tokens = 6}).value();
  second.work.Start();
  EXPECT_THAT(admission->Admit({.tokens = 6}), IsOk());
}

TEST_F(AdmissionTest, CallThatAloneWaitsIsNeverTooLong) {
  const auto admission = Serving({.max_queued_tokens = 10});
  const auto huge =
      admission->Admit({.tokens = std::numeric_limits<int64_t>::max()}).value();
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
}

TEST_F(AdmissionTest, RefusesBytesPastTheLimitUntilAnswersHaveLeft) {
  const auto admission = Serving({.max_bytes = 100});
  auto first = admission->Admit({.bytes = 60}).value();
  first.work.Start();
  first.work = CallWork();
  EXPECT_THAT(admission->Admit({.bytes = 41}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit({.bytes = 41}),
              StatusIs(kExhausted, "41 bytes, with 60"));
  first.ticket = Ticket();
  EXPECT_THAT(admission->Admit({.bytes = 41}), IsOk());
}

TEST_F(AdmissionTest, LoneCallIsNeverTooLarge) {
  const auto admission = Serving({.max_bytes = 100});
  EXPECT_THAT(admission->Admit({.bytes = std::numeric_limits<int64_t>::max()}),
              IsOk());
}

TEST_F(AdmissionTest, RefusedCallTakesNoRoom) {
  const auto admission = Serving({.max_queued_tokens = 10});
  const auto first = admission->Admit({.tokens = 6}).value();
  EXPECT_THAT(admission->Admit({.tokens = 5}), StatusIs(kExhausted));
  EXPECT_EQ(admission->load().calls, 1);
  EXPECT_THAT(admission->Admit({.tokens = 4}), IsOk());
}

// A server that does 100 tokens a second, and has `queued` tokens waiting.
struct BusyServer {
  BusyServer(Admission* admission, FakeClock* clock, int64_t queued)
      : running(admission->Admit({.tokens = 1000}).value()) {
    running.work.Start();
    waiting = admission->Admit({.tokens = queued}).value();
    for (int i = 0; i < 10; ++i) {
      clock->Advance(absl::Milliseconds(100));
      running.work.Done(10);
    }
  }

  Admission::Admitted running;
  Admission::Admitted waiting;
};

TEST_F(AdmissionTest, RefusesACallThatWouldWaitTooLong) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  const BusyServer busy(admission.get(), &clock_, 350);
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              StatusIs(kExhausted, "1 call waits, for about 3.5s"));
}

TEST_F(AdmissionTest, AdmitsACallThatWouldNotWaitTooLong) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  const BusyServer busy(admission.get(), &clock_, 250);
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

TEST_F(AdmissionTest, ACallWaitsForNobodyWhenNobodyWaits) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  BusyServer busy(admission.get(), &clock_, 350);
  busy.waiting.work.Start();
  EXPECT_THAT(admission->Admit({.tokens = 1000000}), IsOk());
}

TEST_F(AdmissionTest, RefusesACallThatWouldWaitAtItsDeadline) {
  const auto admission = Serving({});
  const BusyServer busy(admission.get(), &clock_, 350);
  EXPECT_THAT(admission->Admit(
                  {.tokens = 1, .deadline = clock_.Now() + absl::Seconds(3)}),
              RefusesWith(kExhausted, "DEADLINE_INFEASIBLE"));
  EXPECT_THAT(admission->Admit(
                  {.tokens = 1, .deadline = clock_.Now() + absl::Seconds(4)}),
              IsOk());
}

TEST_F(AdmissionTest, WhatACallDidNotNeedCountsAsDone) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  auto running = admission->Admit({.tokens = 1000}).value();
  running.work.Start();
  const auto waiting = admission->Admit({.tokens = 3000}).value();
  clock_.Advance(absl::Seconds(1));
  running = {};  // It stopped early: a thousand a second.
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

absl::Duration AdmissionTest::HintAfter(int32_t calls) {
  const auto admission = Serving({.max_calls = calls});
  std::vector<Admission::Admitted> admitted;
  for (int i = 0; i < calls; ++i) {
    admitted.push_back(admission->Admit({}).value());
  }
  return RetryAfter(admission->Admit({}).status()).value();
}

TEST_F(AdmissionTest, RetryHintGrowsWithTheCallsWithinBounds) {
  EXPECT_EQ(HintAfter(1), absl::Milliseconds(50));
  EXPECT_GT(HintAfter(100), HintAfter(20));
  EXPECT_EQ(HintAfter(5000), absl::Seconds(10));
}

TEST_F(AdmissionTest, OptionsOutOfRangeAreRefusedWithTheirValue) {
  EXPECT_THAT(Admission::Create({.max_calls = 0}, &clock_),
              StatusIs(kInvalid, "max_calls is 0"));
  EXPECT_THAT(Admission::Create({.max_queued_tokens = -1}, &clock_),
              StatusIs(kInvalid, "max_queued_tokens is -1"));
  EXPECT_THAT(Admission::Create({.max_bytes = 0}, &clock_),
              StatusIs(kInvalid, "max_bytes is 0"));
  EXPECT_THAT(Admission::Create({.max_wait = absl::ZeroDuration()}, &clock_),
              StatusIs(kInvalid, "max_wait is 0"));
}

TEST_F(TicketTest, MovedTicketIsGivenBackOnce) {
  const auto admission = Serving({});
  Ticket from = std::move(admission->Admit({})->ticket);
  {
    const Ticket to = std::move(from);
    EXPECT_EQ(admission->load().calls, 1);
  }
  EXPECT_EQ(admission->load().calls, 0);
}

TEST_F(TicketTest, AssignedTicketGivesBackTheOneItHad) {
  const auto admission = Serving({.max_bytes = 10});
  Ticket ticket = std::move(admission->Admit({.bytes = 3})->ticket);
  ticket = std::move(admission->Admit({.bytes = 7})->ticket);
  EXPECT_EQ(admission->load().calls, 1);
  EXPECT_THAT(admission->Admit({.bytes = 3}), IsOk());
  EXPECT_THAT(admission->Admit({.bytes = 4}), StatusIs(kExhausted));
}

TEST_F(TicketTest, TicketAssignedToItselfStays) {
  const auto admission = Serving({});
  Ticket ticket = std::move(admission->Admit({})->ticket);
  Ticket& same = ticket;
  ticket = std::move(same);
  EXPECT_EQ(admission->load().calls, 1);
}

TEST_F(CallWorkTest, WorkThatIsDroppedBeforeItStartsLeavesTheQueue) {
  const auto admission = Serving({.max_queued_tokens = 10});
  const auto first = admission->Admit({.tokens = 4}).value();
  auto second = admission->Admit({.tokens = 6}).value();
  second.work = CallWork();
  EXPECT_THAT(admission->Admit({.tokens = 6}), IsOk());
}

TEST_F(CallWorkTest, MoreThanThereIsIsAll) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  auto running = admission->Admit({.tokens = 100}).value();
  running.work.Start();
  const auto waiting = admission->Admit({.tokens = 350}).value();
  clock_.Advance(absl::Seconds(1));
  running.work.Done(1000000);  // A hundred a second.
  EXPECT_THAT(admission->Admit({.tokens = 1}), StatusIs(kExhausted));
}

TEST_F(AdmissionThreadsTest, LimitsHoldForManyThreadsAtOnce) {
  const auto admission = Serving({.max_calls = 2, .max_bytes = 3});
  std::atomic<int> inside = 0;
  std::atomic<bool> passed = false;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int round = 0; round < 3000; ++round) {
          auto admitted = admission->Admit({.tokens = 5, .bytes = 1});
          if (!admitted.ok()) continue;
          admitted->work.Start();
          admitted->work.Done(2);
          if (++inside > 2) passed = true;
          --inside;
        }
      });
    }
  }
  EXPECT_FALSE(passed);
  EXPECT_EQ(admission->load().calls, 0);
}

TEST_F(AdmissionDeathTest, AdmissionThatGoesBeforeATicketEndsTheProcess) {
  auto admission = Serving({});
  const auto ticket = admission->Admit({.tokens = 1}).value();
  EXPECT_DEATH(admission.reset(), "check failed");
}

TEST_F(AdmissionTest, AServerThatDrainsNeverServesAgain) {
  const auto admission = Create({});
  admission->SetState(Admission::State::kDraining);
  admission->SetState(Admission::State::kServing);
  EXPECT_EQ(admission->state(), Admission::State::kDraining);
}

TEST_F(AdmissionTest, NoCallIsExpectedToWaitWhileRowsAreFree) {
  const auto admission = Serving({.num_rows = 4, .max_wait = absl::Seconds(4)});
  const auto first = admission->Admit({.tokens = 1000000}).value();
  auto second = admission->Admit({.tokens = 1}).value();
  const BusyServer busy(admission.get(), &clock_, 1000000);
  EXPECT_THAT(admission->Admit({.tokens = 1}), StatusIs(kExhausted));
  second = {};
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

TEST_F(AdmissionTest, HowFastAServerWithFreeRowsIsSaysNothingOfABusyOne) {
  const auto admission = Serving({.num_rows = 3, .max_wait = absl::Seconds(4)});
  const BusyServer idle(admission.get(), &clock_, 1000000);
  const auto third = admission->Admit({.tokens = 1}).value();
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

TEST_F(AdmissionTest, TokensAreNotRefusedWhileRowsAreFree) {
  const auto admission = Serving({.num_rows = 3, .max_queued_tokens = 10});
  const auto first = admission->Admit({.tokens = 1000}).value();
  const auto second = admission->Admit({.tokens = 1000}).value();
  const auto third = admission->Admit({.tokens = 1000}).value();
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_EQ(admission->load().queued, 3);
  EXPECT_EQ(admission->load().running, 0);
}

TEST_F(AdmissionTest, TokensThatCannotBeAddedAreRefused) {
  const auto admission = Serving({.num_rows = 3});
  const auto first =
      admission->Admit({.tokens = std::numeric_limits<int64_t>::max()}).value();
  EXPECT_THAT(admission->Admit({.tokens = 1}),
              RefusesWith(kExhausted, "QUEUE_FULL"));
}

TEST_F(AdmissionTest, WhatACancelledCallHadNotReadIsNotCountedAsDone) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  auto running = admission->Admit({.tokens = 1000000}).value();
  running.work.Start();
  const auto waiting = admission->Admit({.tokens = 10000}).value();
  clock_.Advance(absl::Seconds(1));
  running = {};  // About a thousand a second, not a million.
  EXPECT_THAT(admission->Admit({.tokens = 1}), StatusIs(kExhausted));
}

TEST_F(AdmissionTest, AServerThatStoodStillIsNotTakenForASlowOne) {
  const auto admission = Serving({.max_wait = absl::Seconds(4)});
  auto running = admission->Admit({.tokens = 1000}).value();
  running.work.Start();
  const auto waiting = admission->Admit({.tokens = 1000}).value();
  clock_.Advance(absl::Seconds(20));
  running.work.Done(10);
  EXPECT_THAT(admission->Admit({.tokens = 1}), IsOk());
}

}  // namespace
}  // namespace ttt
