// May this call queue now: limits and drain.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"

namespace ttt {

class Admission;

// One admitted call, given back by the destructor. Move-only. Must not outlive
// its Admission.
class Ticket {
 public:
  Ticket() = default;
  ~Ticket();
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;

 private:
  friend class Admission;
  Ticket(Admission* admission, int64_t input_tokens)
      : admission_(admission), input_tokens_(input_tokens) {}

  Admission* admission_ = nullptr;
  int64_t input_tokens_ = 0;
};

// Thread-safe. Must outlive its tickets.
class Admission {
 public:
  enum class State { kStarting, kServing, kDraining };

  struct Options {
    int32_t max_calls = 1024;                    // queued and running, >= 1
    int64_t max_queued_input_tokens = 16 << 20;  // over all calls, >= 1
  };

  // Begins as kStarting. INVALID_ARGUMENT: an option out of range.
  static absl::StatusOr<std::unique_ptr<Admission>> Create(
      const Options& options);
  ~Admission();

  // `input_tokens` >= 0. UNAVAILABLE (STARTING, DRAINING). RESOURCE_EXHAUSTED
  // (QUEUE_FULL); a single call is never refused for its tokens alone when no
  // other is in. All with a retry hint.
  absl::StatusOr<Ticket> Admit(int64_t input_tokens)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // What Admit would say to a call without input, for refusing before the work
  // of reading it.
  absl::Status Check() const ABSL_LOCKS_EXCLUDED(mutex_);

  // A server that drains never serves again: kDraining stays.
  void SetState(State state) ABSL_LOCKS_EXCLUDED(mutex_);
  State state() const ABSL_LOCKS_EXCLUDED(mutex_);
  int32_t calls() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class Ticket;

  explicit Admission(const Options& options) : options_(options) {}
  absl::Status CheckCalls() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Return(int64_t input_tokens) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kStarting;
  int32_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t input_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ttt
