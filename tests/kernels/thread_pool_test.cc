#include "kernels/cpu/thread_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace ttt {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int32_t> {};

TEST_P(ThreadPoolTest, RunsEachTaskOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (const int num_tasks : {0, 1, 2, 3, 100, 5000}) {
    std::vector<std::atomic<int>> counts(num_tasks);
    pool.Run(num_tasks, [&](int64_t task, int32_t thread) {
      EXPECT_GE(thread, 0);
      EXPECT_LT(thread, GetParam());
      counts[task].fetch_add(1);
    });
    for (const std::atomic<int>& count : counts) EXPECT_EQ(count.load(), 1);
  }
}

TEST_P(ThreadPoolTest, HasDoneAllWhenRunReturns) {
  ThreadPool pool(GetParam());
  // More jobs than a ticket can number, with plain memory between them.
  std::vector<int64_t> sums(3);
  for (int64_t job = 0; job < 70000; ++job) {
    pool.Run(3, [&](int64_t task, int32_t) { sums[task] += job; });
    for (const int64_t sum : sums) ASSERT_EQ(sum, job * (job + 1) / 2);
  }
}

TEST_P(ThreadPoolTest, WaitsForTasksOfOtherThreads) {
  if (GetParam() == 1) return;
  ThreadPool pool(GetParam());
  // The two tasks meet, so they are on two threads; the caller's returns at
  // once.
  std::atomic<int> arrived = 0;
  bool done[2] = {};
  pool.Run(2, [&](int64_t task, int32_t thread) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
    for (int i = 0; thread != 0 && i < 1000; ++i) std::this_thread::yield();
    done[task] = true;
  });
  EXPECT_TRUE(done[0]);
  EXPECT_TRUE(done[1]);
}

TEST_P(ThreadPoolTest, GivesEachThreadItsOwnPlace) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> counts(GetParam());  // Not atomic.
  for (int job = 0; job < 200; ++job) {
    pool.Run(50, [&](int64_t, int32_t thread) { ++counts[thread]; });
  }
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  EXPECT_EQ(total, 200 * 50);
}

TEST_P(ThreadPoolTest, WakesWorkersThatSleep) {
  if (GetParam() == 1) return;
  ThreadPool pool(GetParam());
  for (int round = 0; round < 3; ++round) {
    // Ends only if two tasks run at once.
    std::atomic<int> arrived = 0;
    pool.Run(2, [&](int64_t, int32_t) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    // Longer than workers spin.
    for (int i = 0; i < 2000; ++i) std::this_thread::yield();
  }
}

INSTANTIATE_TEST_SUITE_P(NumThreads, ThreadPoolTest, testing::Values(1, 2, 3));

}  // namespace
}  // namespace ttt
