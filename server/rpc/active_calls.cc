#include "server/rpc/active_calls.h"

#include <chrono>
#include <vector>

namespace ttt {

void ActiveCalls::Add(ActiveCall* call) {
  MutexLock lock(mutex_);
  calls_.insert(call);
  if (is_ending_) call->CancelTurn();
}

void ActiveCalls::Remove(ActiveCall* call) {
  {
    MutexLock lock(mutex_);
    calls_.erase(call);
    // Cancelling a call may end it on the same thread, from within.
    while (cancelling_ == call && canceller_ != std::this_thread::get_id()) {
      changed_.Wait(mutex_);
    }
    if (!calls_.empty()) return;
  }
  changed_.NotifyAll();
}

bool ActiveCalls::WaitUntilNone(absl::Duration timeout) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
  MutexLock lock(mutex_);
  while (!calls_.empty()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    changed_.WaitFor(mutex_, left);
  }
  return true;
}

void ActiveCalls::CancelAll() {
  MutexLock lock(mutex_);
  is_ending_ = true;
  for (ActiveCall* const call : calls_) call->CancelTurn();
}

int ActiveCalls::CancelWritingSince(absl::Time time) {
  const int64_t since = absl::ToUnixNanos(time);
  std::vector<ActiveCall*> stalled;
  {
    MutexLock lock(mutex_);
    for (ActiveCall* const call : calls_) {
      if (call->writing_since_ < since) stalled.push_back(call);
    }
  }
  for (ActiveCall* const call : stalled) {
    {
      MutexLock lock(mutex_);
      // Another call may stand where the one that was found has gone.
      if (!calls_.contains(call) || call->writing_since_ >= since) continue;
      cancelling_ = call;
      canceller_ = std::this_thread::get_id();
    }
    call->cancel_();
    {
      MutexLock lock(mutex_);
      cancelling_ = nullptr;
    }
    changed_.NotifyAll();
  }
  return static_cast<int>(stalled.size());
}

bool ActiveCalls::is_ending() const {
  MutexLock lock(mutex_);
  return is_ending_;
}

}  // namespace ttt
