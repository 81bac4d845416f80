// May this call queue now: limits, the expected wait, and drain.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace ttt {

class Admission;

// RESOURCE_EXHAUSTED (QUEUE_TIMEOUT) of a call that waited that long.
absl::Status QueueTimeout(absl::Duration wait);

// Of what a call may generate, what counts before it has begun: most stop
// earlier than they may.
inline constexpr int64_t kMostCountedOutput = 1024;

// What a call would take.
struct CallCost {
  // To read, about, and to generate, at most kMostCountedOutput of that; >= 0.
  int64_t tokens = 0;
  int64_t bytes = 0;  // of its request and, about, of its answer; >= 0
  absl::Time deadline = absl::InfiniteFuture();
};

// The place of one admitted call, with the bytes it holds, from Admit until its
// answer has left. Given back by the destructor. Move-only. Must not outlive
// its Admission.
class Ticket {
 public:
  Ticket() = default;
  ~Ticket();
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;

 private:
  friend class Admission;
  Ticket(Admission* admission, int64_t bytes)
      : admission_(admission), bytes_(bytes) {}

  Admission* admission_ = nullptr;
  int64_t bytes_ = 0;
};

// The tokens of one admitted call: they wait until Start, then are done one by
// one, or all at once by the destructor. Move-only; used by one thread at a
// time. Must not outlive its Admission.
class CallWork {
 public:
  CallWork() = default;
  ~CallWork();
  CallWork(CallWork&& other) noexcept;
  CallWork& operator=(CallWork&& other) noexcept;

  void Start();               // once
  void Done(int64_t tokens);  // after Start; more than there are is all

 private:
  friend class Admission;
  CallWork(Admission* admission, int64_t tokens)
      : admission_(admission), tokens_(tokens) {}

  Admission* admission_ = nullptr;
  int64_t tokens_ = 0;  // not yet done
  bool started_ = false;
};

// Thread-safe. Must outlive what it admits.
class Admission {
 public:
  enum class State { kStarting, kServing, kDraining };

  struct Options {
    int32_t max_calls = 1024;  // queued and running, >= 1
    int32_t num_rows = 0;  // calls that run at once; while some are free none
                           // is expected to wait
    int64_t max_queued_tokens = 4 << 20;     // of calls not yet started, >= 1
    int64_t max_bytes = int64_t{256} << 20;  // of all calls, >= 1
    // A call that is expected to wait for three quarters of it is refused, as
    // some then wait for all of it. How long it will wait
    // is told from the tokens before it and from how fast such were done while
    // others waited. > 0
    absl::Duration max_wait = absl::InfiniteDuration();
  };
  struct Load {
    int32_t calls = 0;    // with a place
    int32_t queued = 0;   // whose work has not started
    int32_t running = 0;  // whose work has
  };
  struct Admitted {
    Ticket ticket;
    CallWork work;
  };

  // Begins as kStarting. `clock` must outlive it. INVALID_ARGUMENT: an option
  // out of range.
  static absl::StatusOr<std::unique_ptr<Admission>> Create(
      const Options& options, const Clock* clock);
  ~Admission();

  // UNAVAILABLE (STARTING, DRAINING). RESOURCE_EXHAUSTED (QUEUE_FULL); a call
  // is never refused for its tokens alone when no other waits or rows are free,
  // nor for its bytes when no other is in. RESOURCE_EXHAUSTED
  // (DEADLINE_INFEASIBLE): it would still wait at its deadline. All with a
  // retry hint.
  absl::StatusOr<Admitted> Admit(const CallCost& cost)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // What Admit says of the server's state alone: UNAVAILABLE (STARTING,
  // DRAINING). For what takes room without a turn.
  absl::Status CheckServing() const ABSL_LOCKS_EXCLUDED(mutex_);

  // A server that drains never serves again: kDraining stays.
  void SetState(State state) ABSL_LOCKS_EXCLUDED(mutex_);
  State state() const ABSL_LOCKS_EXCLUDED(mutex_);
  Load load() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class Ticket;
  friend class CallWork;

  Admission(const Options& options, const Clock* clock)
      : options_(options), clock_(clock) {}
  absl::Status CheckState() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckLocked(const CallCost& cost) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Full(absl::string_view what) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether calls may wait for a row, and not only for their texts.
  bool IsBusy() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration ExpectedWait() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave(int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Start(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void End(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void Drop(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void Done(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void Count(int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RestartWindow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeFromQueue(int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kStarting;
  int32_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t queued_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t running_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t queued_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  // While busy: since when tokens are counted, and how many were done.
  absl::Time window_begin_ ABSL_GUARDED_BY(mutex_);
  int64_t window_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  double tokens_per_second_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: not known
};

}  // namespace ttt
