// Fork and join over the cores of the CPU device.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace ttt {

// Runs the tasks of one job at a time on `num_threads` threads, of which the
// caller is one (so one thread starts none). Which thread runs which task is
// left to chance: results must not depend on it.
//
// Workers spin for a moment after a job, because a step is a train of short
// jobs, and then sleep. Run is called by one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int32_t num_threads);  // >= 1
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t num_threads() const { return int32_t(workers_.size()) + 1; }

  // Calls function(task, thread) once for each task in [0, num_tasks), with
  // thread in [0, num_threads) naming the thread it runs on, and returns when
  // all have returned. Tasks must not call Run.
  using Function = absl::FunctionRef<void(int64_t task, int32_t thread)>;
  void Run(int64_t num_tasks, Function function);

 private:
  void Work(int32_t thread);
  // Runs tasks of the current job until none is left to take.
  void RunTasks(int32_t thread);
  void RunJob(int64_t num_tasks);
  // Returns when ticket_ no longer belongs to job `job`; false to stop.
  bool WaitForJobAfter(uint64_t job);

  // The current job's number, its tasks, and the next task to take, in one word
  // so that a late worker cannot take a task of a job it has not seen.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> num_done_{0};
  std::atomic<uint32_t> epoch_{
      0};  // changes with each job; sleepers wait on it
  std::atomic<int32_t> num_sleeping_{0};
  std::atomic<bool> stopping_{false};
  // Of the current job: written before its ticket, read after taking a task.
  const Function* function_ = nullptr;
  int64_t first_task_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace ttt
