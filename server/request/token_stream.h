// Where the tokens of one turn wait for their reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/request/request.h"

namespace ttt {

// The engine's thread pushes, one reader takes. What is pushed within an
// interval after a chunk that could be taken waits for the next push or the
// end, so that fast steps do not cost an event each. A turn whose stream holds
// `capacity_bytes` or more is not run until its reader takes some. Thread-safe;
// shared by the turn and its reader.
class TokenStream {
 public:
  // All that gathered since the last Take.
  struct Chunk {
    int64_t index = 0;  // of the first token among the turn's generated ones
    std::vector<TokenPosition> tokens;
    std::string text;            // complete UTF-8
    int64_t bytes = 0;           // of tokens and text, see Bytes
    std::optional<TurnEnd> end;  // the last chunk has it
  };

  // What a token and its text count against the capacity.
  static int64_t Bytes(const TokenPosition& token, absl::string_view text) {
    return Bytes(static_cast<int64_t>(token.top.size())) +
           static_cast<int64_t>(text.size());
  }
  // Of a token with as many candidates, without its text.
  static int64_t Bytes(int64_t num_candidates) {
    return static_cast<int64_t>(sizeof(TokenPosition)) +
           num_candidates * static_cast<int64_t>(sizeof(TokenLogprob));
  }

  struct Options {
    int64_t capacity_bytes = 256 << 10;  // >= 1
    // Least time between two chunks that can be taken, but for the first, the
    // last, and a full one. Infinite: the reader wants only those.
    absl::Duration interval = absl::ZeroDuration();
  };

  // `on_ready` is called, without a lock, on the engine's thread (or the one
  // that ends the turn) when a chunk can be taken after a Take in vain or at
  // first; it must only post.
  TokenStream(const Options& options, std::function<void()> on_ready);

  // The engine's side.
  // Or will be, with `ahead_bytes` that are to come.
  bool IsFull(int64_t ahead_bytes = 0) const {
    return gathered_bytes_.load(std::memory_order_relaxed) + ahead_bytes >=
           options_.capacity_bytes;
  }
  // `token`: none, or one.
  void Push(std::optional<TokenPosition> token, absl::string_view text,
            absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // Once, last; nothing is pushed after it.
  void End(TurnEnd end) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsCancelled() const {
    return cancelled_.load(std::memory_order_relaxed);
  }

  // The reader's side. No value: not yet, on_ready will be called.
  std::optional<Chunk> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  // The reader wants no more. The turn ends with the steps that are under way,
  // and End still comes.
  void Cancel() { cancelled_ = true; }

 private:
  const Options options_;
  const std::function<void()> on_ready_;
  mutable Mutex mutex_;
  Chunk gathered_ ABSL_GUARDED_BY(mutex_);
  bool is_ready_ ABSL_GUARDED_BY(mutex_) = false;  // gathered_ can be taken
  absl::Time last_ready_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool reader_waits_ ABSL_GUARDED_BY(mutex_) = true;
  // Of gathered_; written under the lock.
  std::atomic<int64_t> gathered_bytes_ = 0;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace ttt
