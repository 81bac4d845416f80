#include "server/base/executor.h"

#include <utility>

namespace ttt {

Executor::Executor() : thread_([this] { Run(); }) {}

Executor::~Executor() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void Executor::Post(std::function<void()> task) {
  bool is_first;
  {
    MutexLock lock(mutex_);
    is_first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  // Otherwise the thread is on its way.
  if (is_first) changed_.NotifyOne();
}

void Executor::Run() {
  while (true) {
    // All at once, so that it meets those who post but rarely.
    std::vector<std::function<void()>> tasks;
    {
      MutexLock lock(mutex_);
      while (tasks_.empty() && !stopping_) changed_.Wait(mutex_);
      if (tasks_.empty()) return;
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) std::exchange(task, nullptr)();
  }
}

}  // namespace ttt
