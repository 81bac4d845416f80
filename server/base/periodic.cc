#include "server/base/periodic.h"

#include <utility>

namespace ttt {

Periodic::Periodic(std::chrono::milliseconds period, std::function<void()> task)
    : period_(period), task_(std::move(task)), thread_([this] { Run(); }) {}

Periodic::~Periodic() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void Periodic::Run() {
  while (!WaitForStop()) task_();
}

bool Periodic::WaitForStop() {
  MutexLock lock(mutex_);
  if (!stopping_) changed_.WaitFor(mutex_, period_);
  return stopping_;
}

}  // namespace ttt
