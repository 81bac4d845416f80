#include "server/base/mutex.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace ttt {
namespace {

TEST(MutexTest, OneThreadAtATimeHoldsIt) {
  Mutex mutex;
  int64_t count = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 10000; ++n) {
          MutexLock lock(mutex);
          ++count;
        }
      });
    }
  }
  EXPECT_EQ(count, 40000);
}

TEST(CondVarTest, WaitReturnsHoldingTheMutexOnceNotified) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  bool seen = false;
  std::jthread waiter([&] {
    MutexLock lock(mutex);
    while (!ready) changed.Wait(mutex);
    seen = true;
  });
  {
    MutexLock lock(mutex);
    ready = true;
  }
  changed.NotifyAll();
  waiter.join();
  EXPECT_TRUE(seen);
}

TEST(CondVarTest, WaitForTellsThatTheTimeHasPassed) {
  Mutex mutex;
  CondVar changed;
  MutexLock lock(mutex);
  while (changed.WaitFor(mutex, std::chrono::microseconds(1))) {
    // Woken without cause.
  }
}

}  // namespace
}  // namespace ttt
