#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "server/base/mutex.h"

namespace ttt {

// Calls a function once a period, on a thread of its own, until it goes.
class Periodic {
 public:
  Periodic(std::chrono::milliseconds period, std::function<void()> task);
  ~Periodic();
  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  bool WaitForStop() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::chrono::milliseconds period_;
  const std::function<void()> task_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last, so that it sees the rest
};

}  // namespace ttt
