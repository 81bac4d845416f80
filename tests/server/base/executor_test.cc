#include "server/base/executor.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace ttt {
namespace {

TEST(ExecutorTest, RunsTasksInTheOrderPosted) {
  std::vector<int> ran;
  {
    Executor executor;
    for (int i = 0; i < 100; ++i)
      executor.Post([&ran, i] { ran.push_back(i); });
  }
  ASSERT_EQ(ran.size(), 100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[i], i);
}

TEST(ExecutorTest, RunsTasksOnOneOtherThread) {
  std::vector<std::thread::id> threads;
  {
    Executor executor;
    for (int i = 0; i < 2; ++i) {
      executor.Post(
          [&threads] { threads.push_back(std::this_thread::get_id()); });
    }
  }
  ASSERT_EQ(threads.size(), 2);
  EXPECT_EQ(threads[0], threads[1]);
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(ExecutorTest, TaskMayPostAnotherWhileTheExecutorStops) {
  bool second_ran = false;
  {
    Executor executor;
    executor.Post([&] { executor.Post([&] { second_ran = true; }); });
  }
  EXPECT_TRUE(second_ran);
}

TEST(ExecutorTest, TaskIsDestroyedBeforeTheNextOneRuns) {
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  bool gone = false;
  {
    Executor executor;
    executor.Post([held = std::move(held)] {});
    executor.Post([&] { gone = watched.expired(); });
  }
  EXPECT_TRUE(gone);
}

TEST(ExecutorTest, TakesTasksFromManyThreadsAtOnce) {
  int64_t sum = 0;  // Of the executor's thread.
  {
    Executor executor;
    std::vector<std::jthread> posters;
    for (int i = 0; i < 4; ++i) {
      posters.emplace_back([&] {
        for (int n = 0; n < 1000; ++n) executor.Post([&sum] { ++sum; });
      });
    }
  }
  EXPECT_EQ(sum, 4000);
}

}  // namespace
}  // namespace ttt
