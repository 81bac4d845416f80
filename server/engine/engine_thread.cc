#include "server/engine/engine_thread.h"

#include <chrono>
#include <utility>

#include "server/base/error.h"

namespace ttt {
namespace {

// How long a deadline or a stall may pass unseen while no step runs.
constexpr std::chrono::milliseconds kPoll(10);

}  // namespace

EngineThread::EngineThread(Engine* engine, std::function<void()> on_device_lost)
    : engine_(engine),
      on_device_lost_(std::move(on_device_lost)),
      thread_([this] { Run(); }) {}

EngineThread::~EngineThread() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void EngineThread::Submit(std::unique_ptr<Turn> turn) {
  {
    MutexLock lock(mutex_);
    inbox_.push_back(std::move(turn));
  }
  changed_.NotifyOne();
}

void EngineThread::Wake() {
  {
    MutexLock lock(mutex_);
    woken_ = true;
  }
  changed_.NotifyOne();
}

void EngineThread::Run() {
  bool busy = false;
  bool is_device_lost = false;
  while (true) {
    std::vector<std::unique_ptr<Turn>> arrived;
    {
      MutexLock lock(mutex_);
      while (!busy && inbox_.empty() && !woken_ && !stopping_) {
        if (engine_->num_queued() + engine_->num_running() == 0) {
          changed_.Wait(mutex_);
        } else if (!changed_.WaitFor(mutex_, kPoll)) {
          break;
        }
      }
      if (stopping_) break;
      woken_ = false;
      arrived.swap(inbox_);
    }
    for (auto& turn : arrived) engine_->Add(std::move(turn));
    busy = engine_->Step();
    if (engine_->is_device_lost() && !std::exchange(is_device_lost, true)) {
      on_device_lost_();
    }
  }
  std::vector<std::unique_ptr<Turn>> left;
  {
    MutexLock lock(mutex_);
    left.swap(inbox_);
  }
  for (auto& turn : left) engine_->Add(std::move(turn));
  engine_->EndAll(
      Error(absl::StatusCode::kUnavailable, "DRAINING", "the server stops"));
}

}  // namespace ttt
