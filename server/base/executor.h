#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "server/base/mutex.h"

namespace ttt {

// One thread that runs what is posted, in order. Thread-safe. The destructor
// runs what was posted before it, then joins.
class Executor {
 public:
  Executor();
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void Post(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last, so that it sees the rest
};

}  // namespace ttt
