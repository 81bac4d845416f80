// The calls whose turns are not yet answered.
#pragma once

#include <memory>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/request/token_stream.h"

namespace ttt {

// Lets a drain wait for them, and end them. Thread-safe.
class ActiveCalls {
 public:
  using Stream = std::shared_ptr<TokenStream>;

  void Add(const Stream& stream) ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove(const Stream& stream) ABSL_LOCKS_EXCLUDED(mutex_);
  // False: there were still some after `timeout`.
  bool WaitUntilNone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels all, those that are added later too; the engine must be woken.
  void CancelAll() ABSL_LOCKS_EXCLUDED(mutex_);
  // True once CancelAll was called: a turn that ends CANCELLED ended for that.
  bool is_ending() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  absl::flat_hash_set<Stream> streams_ ABSL_GUARDED_BY(mutex_);
  bool is_ending_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ttt
