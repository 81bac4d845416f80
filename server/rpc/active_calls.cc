#include "server/rpc/active_calls.h"

#include <chrono>

namespace ttt {

void ActiveCalls::Add(const Stream& stream) {
  bool cancel = false;
  {
    MutexLock lock(mutex_);
    streams_.insert(stream);
    cancel = is_ending_;
  }
  if (cancel) stream->Cancel();
}

void ActiveCalls::Remove(const Stream& stream) {
  {
    MutexLock lock(mutex_);
    streams_.erase(stream);
    if (!streams_.empty()) return;
  }
  changed_.NotifyAll();
}

bool ActiveCalls::WaitUntilNone(absl::Duration timeout) {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
  MutexLock lock(mutex_);
  while (!streams_.empty()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    changed_.WaitFor(mutex_, left);
  }
  return true;
}

void ActiveCalls::CancelAll() {
  std::vector<Stream> streams;
  {
    MutexLock lock(mutex_);
    is_ending_ = true;
    streams.assign(streams_.begin(), streams_.end());
  }
  for (const Stream& stream : streams) stream->Cancel();
}

bool ActiveCalls::is_ending() const {
  MutexLock lock(mutex_);
  return is_ending_;
}

}  // namespace ttt
