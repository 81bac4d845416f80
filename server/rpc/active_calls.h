// The calls whose answers have not left.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/request/token_stream.h"

namespace ttt {

// One of them. Its owner tells when it waits for its client.
class ActiveCall {
 public:
  // `stream` is that of its turn; null: it runs none. `cancel` ends the call;
  // it may come from any thread, and the call may go while it runs.
  ActiveCall(std::shared_ptr<TokenStream> stream, std::function<void()> cancel)
      : stream_(std::move(stream)), cancel_(std::move(cancel)) {}

  TokenStream* stream() const { return stream_.get(); }
  void CancelTurn() {
    if (stream_ != nullptr) stream_->Cancel();
  }
  // Something is being written to the client since `now`. Who reads
  // kSlowestRead a second has time for all of its bytes.
  void WriteBegins(absl::Time now, int64_t bytes = 0) {
    writing_since_ =
        absl::ToUnixNanos(now + absl::Seconds(1) * bytes / kSlowestRead);
  }
  void WriteEnds() { writing_since_ = kNoWrite; }

 private:
  friend class ActiveCalls;
  static constexpr int64_t kNoWrite = INT64_MAX;
  static constexpr int64_t kSlowestRead = 1 << 20;

  const std::shared_ptr<TokenStream> stream_;
  const std::function<void()> cancel_;
  std::atomic<int64_t> writing_since_ = kNoWrite;  // nanoseconds, Unix
};

// Lets a drain wait for them, and ends those whose client does not read.
// Thread-safe.
class ActiveCalls {
 public:
  // `call` stays until Remove.
  void Add(ActiveCall* call) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns when nobody uses the call any more.
  void Remove(ActiveCall* call) ABSL_LOCKS_EXCLUDED(mutex_);
  // False: there were still some after `timeout`.
  bool WaitUntilNone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels the turns of all, those that are added later too; the engine must
  // be woken.
  void CancelAll() ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels the calls whose write began before `time`. How many there were.
  // One thread at a time.
  int CancelWritingSince(absl::Time time) ABSL_LOCKS_EXCLUDED(mutex_);
  // True once CancelAll was called: a turn that ends CANCELLED ended for that.
  bool is_ending() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  absl::flat_hash_set<ActiveCall*> calls_ ABSL_GUARDED_BY(mutex_);
  bool is_ending_ ABSL_GUARDED_BY(mutex_) = false;
  // Of CancelWritingSince: the call that is being cancelled, and by whom.
  ActiveCall* cancelling_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread::id canceller_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ttt
