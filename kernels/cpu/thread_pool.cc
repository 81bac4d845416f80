#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>

namespace ttt {
namespace {

// A ticket: job number | number of tasks | next task.
constexpr int kTaskBits = 24;
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;
// Leaves room above it for the takes that come too late.
constexpr int64_t kMaxTasks = int64_t{1} << (kTaskBits - 1);

constexpr uint64_t Job(uint64_t ticket) { return ticket >> (2 * kTaskBits); }
constexpr uint64_t NumTasks(uint64_t ticket) {
  return ticket >> kTaskBits & kTaskMask;
}
constexpr uint64_t NextTask(uint64_t ticket) { return ticket & kTaskMask; }

// About 50 us of waiting before a worker sleeps, and a few before a waiter
// offers its core to whom it waits for.
constexpr int kSpinsBeforeSleep = 2000;
constexpr int kSpinsBeforeYield = 200;

}  // namespace

ThreadPool::ThreadPool(int32_t num_threads) {
  workers_.reserve(num_threads - 1);
  for (int32_t thread = 1; thread < num_threads; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t num_tasks, Function function) {
  if (workers_.empty() || num_tasks <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) function(task, 0);
    return;
  }
  for (first_task_ = 0; first_task_ < num_tasks; first_task_ += kMaxTasks) {
    function_ = &function;
    RunJob(std::min(num_tasks - first_task_, kMaxTasks));
  }
}

void ThreadPool::RunJob(int64_t num_tasks) {
  num_done_.store(0, std::memory_order_relaxed);
  const uint64_t job = Job(ticket_.load(std::memory_order_relaxed)) + 1;
  ticket_.store(job << (2 * kTaskBits) | uint64_t(num_tasks) << kTaskBits,
                std::memory_order_seq_cst);
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  if (num_sleeping_.load(std::memory_order_seq_cst) > 0) epoch_.notify_all();
  RunTasks(0);
  for (int spins = 0; num_done_.load(std::memory_order_acquire) < num_tasks;
       ++spins) {
    if (spins < kSpinsBeforeYield) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }
}

void ThreadPool::RunTasks(int32_t thread) {
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (NextTask(ticket) >= NumTasks(ticket)) return;
    ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    if (NextTask(ticket) >= NumTasks(ticket)) return;
    // The job lives until this task is counted.
    (*function_)(first_task_ + int64_t(NextTask(ticket)), thread);
    num_done_.fetch_add(1, std::memory_order_release);
  }
}

bool ThreadPool::WaitForJobAfter(uint64_t job) {
  for (int spins = 0; spins < kSpinsBeforeSleep; ++spins) {
    if (Job(ticket_.load(std::memory_order_acquire)) != job) return true;
    if (stopping_.load(std::memory_order_relaxed)) return false;
    _mm_pause();
  }
  num_sleeping_.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
    const bool is_new = Job(ticket_.load(std::memory_order_seq_cst)) != job;
    if (is_new || stopping_.load()) {
      num_sleeping_.fetch_sub(1, std::memory_order_relaxed);
      return is_new;
    }
    epoch_.wait(epoch, std::memory_order_seq_cst);
  }
}

void ThreadPool::Work(int32_t thread) {
  uint64_t job = 0;
  while (WaitForJobAfter(job)) {
    job = Job(ticket_.load(std::memory_order_acquire));
    RunTasks(thread);
  }
}

}  // namespace ttt
