#include "server/rpc/active_calls.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "absl/time/clock.h"

namespace ttt {
namespace {

std::shared_ptr<TokenStream> NewStream() {
  return std::make_shared<TokenStream>(TokenStream::Options(), [] {});
}

// A call that counts how often it is cancelled.
struct Call {
  int cancelled = 0;
  ActiveCall active{NewStream(), [this] { ++cancelled; }};
};

TEST(ActiveCallsTest, NothingIsWaitedForWithoutCalls) {
  ActiveCalls calls;
  EXPECT_TRUE(calls.WaitUntilNone(absl::ZeroDuration()));
}

TEST(ActiveCallsTest, ACallIsWaitedForNoLongerThanAsked) {
  ActiveCalls calls;
  Call call;
  calls.Add(&call.active);
  EXPECT_FALSE(calls.WaitUntilNone(absl::Milliseconds(1)));
}

TEST(ActiveCallsTest, TheLastCallToGoEndsTheWait) {
  ActiveCalls calls;
  Call first, second;
  calls.Add(&first.active);
  calls.Add(&second.active);
  calls.Remove(&first.active);
  std::jthread remover([&] { calls.Remove(&second.active); });
  EXPECT_TRUE(calls.WaitUntilNone(absl::Minutes(1)));
}

TEST(ActiveCallsTest, CancelAllReachesEachTurn) {
  ActiveCalls calls;
  Call call;
  calls.Add(&call.active);
  EXPECT_FALSE(calls.is_ending());
  calls.CancelAll();
  EXPECT_TRUE(calls.is_ending());
  EXPECT_TRUE(call.active.stream()->IsCancelled());
}

TEST(ActiveCallsTest, ACallThatComesAfterCancelAllIsCancelledToo) {
  ActiveCalls calls;
  calls.CancelAll();
  Call call;
  calls.Add(&call.active);
  EXPECT_TRUE(call.active.stream()->IsCancelled());
}

TEST(ActiveCallsTest, ACallWithoutATurnIsWaitedForAndCutAsOthers) {
  ActiveCalls calls;
  int cancelled = 0;
  ActiveCall call(nullptr, [&cancelled] { ++cancelled; });
  calls.CancelAll();
  calls.Add(&call);
  calls.CancelAll();
  EXPECT_FALSE(calls.WaitUntilNone(absl::ZeroDuration()));
  call.WriteBegins(absl::UnixEpoch());
  EXPECT_EQ(calls.CancelWritingSince(absl::Now()), 1);
  EXPECT_EQ(cancelled, 1);
}

TEST(ActiveCallsTest, ARemovedCallIsLeftAlone) {
  ActiveCalls calls;
  Call call;
  calls.Add(&call.active);
  call.active.WriteBegins(absl::UnixEpoch());
  calls.Remove(&call.active);
  calls.CancelAll();
  EXPECT_FALSE(call.active.stream()->IsCancelled());
  EXPECT_EQ(calls.CancelWritingSince(absl::Now()), 0);
  EXPECT_EQ(call.cancelled, 0);
}

TEST(ActiveCallsTest, CutsTheCallsWhoseWriteHasLastedTooLong) {
  const absl::Time begin = absl::FromUnixSeconds(1000);
  ActiveCalls calls;
  Call early, late, idle, ended;
  for (Call* call : {&early, &late, &idle, &ended}) calls.Add(&call->active);
  early.active.WriteBegins(begin);
  late.active.WriteBegins(begin + absl::Seconds(10));
  ended.active.WriteBegins(begin);
  ended.active.WriteEnds();
  EXPECT_EQ(calls.CancelWritingSince(begin + absl::Seconds(5)), 1);
  EXPECT_EQ(early.cancelled, 1);
  EXPECT_EQ(late.cancelled + idle.cancelled + ended.cancelled, 0);
}

TEST(ActiveCallsTest, ALargeAnswerMayTakeASecondMoreForEachMebibyte) {
  const absl::Time begin = absl::FromUnixSeconds(1000);
  ActiveCalls calls;
  Call call;
  calls.Add(&call.active);
  call.active.WriteBegins(begin, 10 << 20);
  EXPECT_EQ(calls.CancelWritingSince(begin + absl::Seconds(9)), 0);
  EXPECT_EQ(calls.CancelWritingSince(begin + absl::Seconds(11)), 1);
}

TEST(ActiveCallsTest, ACallMayEndWithinItsCancel) {
  ActiveCalls calls;
  std::unique_ptr<ActiveCall> call;
  call = std::make_unique<ActiveCall>(NewStream(),
                                      [&] { calls.Remove(call.get()); });
  calls.Add(call.get());
  call->WriteBegins(absl::UnixEpoch());
  EXPECT_EQ(calls.CancelWritingSince(absl::Now()), 1);
  EXPECT_TRUE(calls.WaitUntilNone(absl::ZeroDuration()));
}

TEST(ActiveCallsTest, RemoveWaitsForACancelOnAnotherThread) {
  ActiveCalls calls;
  std::atomic<bool> began = false, may_end = false, ended = false;
  ActiveCall call(NewStream(), [&] {
    began = true;
    began.notify_one();
    may_end.wait(false);
    ended = true;
  });
  calls.Add(&call);
  call.WriteBegins(absl::UnixEpoch());
  std::jthread canceller([&] { calls.CancelWritingSince(absl::Now()); });
  began.wait(false);
  std::jthread release([&] {
    may_end = true;
    may_end.notify_one();
  });
  calls.Remove(&call);
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace ttt
