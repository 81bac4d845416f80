#include "server/base/periodic.h"

#include <gtest/gtest.h>

#include <semaphore>

namespace ttt {
namespace {

TEST(PeriodicTest, CallsAgainAndAgain) {
  std::counting_semaphore<> called(0);
  Periodic periodic(std::chrono::milliseconds(1), [&] { called.release(); });
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(called.try_acquire_for(std::chrono::seconds(30)));
  }
}

TEST(PeriodicTest, GoesWithoutWaitingForThePeriod) {
  int calls = 0;
  {
    Periodic periodic(std::chrono::hours(1), [&] { ++calls; });
  }
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace ttt
