#include "server/rpc/active_calls.h"

#include <gtest/gtest.h>

#include <thread>

namespace ttt {
namespace {

ActiveCalls::Stream NewStream() {
  return std::make_shared<TokenStream>(1, [] {});
}

TEST(ActiveCallsTest, NothingIsWaitedForWithoutCalls) {
  ActiveCalls calls;
  EXPECT_TRUE(calls.WaitUntilNone(absl::ZeroDuration()));
}

TEST(ActiveCallsTest, ACallIsWaitedForNoLongerThanAsked) {
  ActiveCalls calls;
  calls.Add(NewStream());
  EXPECT_FALSE(calls.WaitUntilNone(absl::Milliseconds(1)));
}

TEST(ActiveCallsTest, TheLastCallToGoEndsTheWait) {
  ActiveCalls calls;
  const ActiveCalls::Stream first = NewStream();
  const ActiveCalls::Stream second = NewStream();
  calls.Add(first);
  calls.Add(second);
  calls.Remove(first);
  std::jthread remover([&] { calls.Remove(second); });
  EXPECT_TRUE(calls.WaitUntilNone(absl::Minutes(1)));
}

TEST(ActiveCallsTest, CancelAllReachesEachCall) {
  ActiveCalls calls;
  const ActiveCalls::Stream stream = NewStream();
  calls.Add(stream);
  EXPECT_FALSE(calls.is_ending());
  calls.CancelAll();
  EXPECT_TRUE(calls.is_ending());
  EXPECT_TRUE(stream->IsCancelled());
}

TEST(ActiveCallsTest, ACallThatComesAfterCancelAllIsCancelledToo) {
  ActiveCalls calls;
  calls.CancelAll();
  const ActiveCalls::Stream stream = NewStream();
  calls.Add(stream);
  EXPECT_TRUE(stream->IsCancelled());
}

TEST(ActiveCallsTest, ARemovedCallIsLeftAlone) {
  ActiveCalls calls;
  const ActiveCalls::Stream stream = NewStream();
  calls.Add(stream);
  calls.Remove(stream);
  calls.CancelAll();
  EXPECT_FALSE(stream->IsCancelled());
}

}  // namespace
}  // namespace ttt
