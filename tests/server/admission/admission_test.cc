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

std::unique_ptr<Admission> Serving(const Admission::Options& options) {
  auto admission = Admission::Create(options).value();
  admission->SetState(Admission::State::kServing);
  return admission;
}

TEST(AdmissionTest, RefusesCallsUntilItServes) {
  const auto admission = Admission::Create({}).value();
  EXPECT_EQ(admission->state(), Admission::State::kStarting);
  EXPECT_THAT(admission->Admit(1), RefusesWith(kUnavailable, "STARTING"));
  admission->SetState(Admission::State::kServing);
  EXPECT_THAT(admission->Admit(1), IsOk());
}

TEST(AdmissionTest, RefusesCallsWhileItDrains) {
  const auto admission = Serving({});
  const Ticket running = admission->Admit(1).value();
  admission->SetState(Admission::State::kDraining);
  EXPECT_THAT(admission->Admit(1), RefusesWith(kUnavailable, "DRAINING"));
  EXPECT_EQ(admission->calls(), 1);
}

TEST(AdmissionTest, RefusesCallsPastTheLimit) {
  const auto admission = Serving({.max_calls = 2});
  const Ticket first = admission->Admit(1).value();
  const Ticket second = admission->Admit(1).value();
  EXPECT_THAT(admission->Admit(0), RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit(0), StatusIs(kExhausted, "2 calls"));
}

TEST(AdmissionTest, EndedCallMakesRoom) {
  const auto admission = Serving({.max_calls = 1});
  { const Ticket ticket = admission->Admit(1).value(); }
  EXPECT_EQ(admission->calls(), 0);
  EXPECT_THAT(admission->Admit(1), IsOk());
}

TEST(AdmissionTest, RefusesTokensPastTheLimit) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  const Ticket first = admission->Admit(6).value();
  EXPECT_THAT(admission->Admit(5), RefusesWith(kExhausted, "QUEUE_FULL"));
  EXPECT_THAT(admission->Admit(5),
              StatusIs(kExhausted, "5 input tokens, with 6"));
  EXPECT_THAT(admission->Admit(4), IsOk());
}

TEST(AdmissionTest, TokensOfAnEndedCallMakeRoom) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  const Ticket first = admission->Admit(4).value();
  { const Ticket second = admission->Admit(6).value(); }
  EXPECT_THAT(admission->Admit(6), IsOk());
}

TEST(AdmissionTest, LoneCallIsNeverTooLong) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  const Ticket huge =
      admission->Admit(std::numeric_limits<int64_t>::max()).value();
  EXPECT_THAT(admission->Admit(1), RefusesWith(kExhausted, "QUEUE_FULL"));
}

TEST(AdmissionTest, CallThatIsTooLongWaitsForOthersToEnd) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  {
    const Ticket small = admission->Admit(0).value();
    EXPECT_THAT(admission->Admit(11), RefusesWith(kExhausted, "QUEUE_FULL"));
  }
  EXPECT_THAT(admission->Admit(11), IsOk());
}

TEST(AdmissionTest, RefusedCallTakesNoRoom) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  const Ticket first = admission->Admit(6).value();
  EXPECT_THAT(admission->Admit(5), StatusIs(kExhausted));
  EXPECT_EQ(admission->calls(), 1);
  EXPECT_THAT(admission->Admit(4), IsOk());
}

absl::Duration HintAfter(int32_t calls) {
  const auto admission = Serving({.max_calls = calls});
  std::vector<Ticket> tickets;
  for (int i = 0; i < calls; ++i)
    tickets.push_back(admission->Admit(0).value());
  return RetryAfter(admission->Admit(0).status()).value();
}

TEST(AdmissionTest, RetryHintGrowsWithTheCallsWithinBounds) {
  EXPECT_EQ(HintAfter(1), absl::Milliseconds(50));
  EXPECT_GT(HintAfter(100), HintAfter(20));
  EXPECT_EQ(HintAfter(5000), absl::Seconds(2));
}

TEST(AdmissionTest, OptionsOutOfRangeAreRefusedWithTheirValue) {
  EXPECT_THAT(Admission::Create({.max_calls = 0}),
              StatusIs(kInvalid, "max_calls is 0"));
  EXPECT_THAT(Admission::Create({.max_queued_input_tokens = -1}),
              StatusIs(kInvalid, "max_queued_input_tokens is -1"));
}

TEST(TicketTest, MovedTicketIsGivenBackOnce) {
  const auto admission = Serving({});
  Ticket from = admission->Admit(3).value();
  {
    const Ticket to = std::move(from);
    EXPECT_EQ(admission->calls(), 1);
  }
  EXPECT_EQ(admission->calls(), 0);
}

TEST(TicketTest, AssignedTicketGivesBackTheOneItHad) {
  const auto admission = Serving({.max_queued_input_tokens = 10});
  Ticket ticket = admission->Admit(3).value();
  ticket = admission->Admit(7).value();
  EXPECT_EQ(admission->calls(), 1);
  EXPECT_THAT(admission->Admit(3), IsOk());
  EXPECT_THAT(admission->Admit(4), StatusIs(kExhausted));
}

TEST(TicketTest, TicketAssignedToItselfStays) {
  const auto admission = Serving({});
  Ticket ticket = admission->Admit(3).value();
  Ticket& same = ticket;
  ticket = std::move(same);
  EXPECT_EQ(admission->calls(), 1);
}

TEST(AdmissionThreadsTest, LimitsHoldForManyThreadsAtOnce) {
  const auto admission =
      Serving({.max_calls = 2, .max_queued_input_tokens = 3});
  std::atomic<int> inside = 0;
  std::atomic<bool> passed = false;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int round = 0; round < 3000; ++round) {
          const absl::StatusOr<Ticket> ticket = admission->Admit(1);
          if (!ticket.ok()) continue;
          if (++inside > 2) passed = true;
          --inside;
        }
      });
    }
  }
  EXPECT_FALSE(passed);
  EXPECT_EQ(admission->calls(), 0);
}

TEST(AdmissionDeathTest, AdmissionThatGoesBeforeATicketEndsTheProcess) {
  auto admission = Serving({});
  const Ticket ticket = admission->Admit(1).value();
  EXPECT_DEATH(admission.reset(), "check failed");
}

TEST(AdmissionTest, AServerThatDrainsNeverServesAgain) {
  const auto admission = Admission::Create({}).value();
  admission->SetState(Admission::State::kDraining);
  admission->SetState(Admission::State::kServing);
  EXPECT_EQ(admission->state(), Admission::State::kDraining);
}

TEST(AdmissionTest, CheckRefusesWhatAdmitWould) {
  const auto admission = Admission::Create({.max_calls = 1}).value();
  EXPECT_THAT(admission->Check(), StatusIs(absl::StatusCode::kUnavailable));
  admission->SetState(Admission::State::kServing);
  EXPECT_THAT(admission->Check(), IsOk());
  const Ticket ticket = admission->Admit(1).value();
  EXPECT_THAT(admission->Check(),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

}  // namespace
}  // namespace ttt
