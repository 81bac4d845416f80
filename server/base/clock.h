#pragma once

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ttt {

// Where all times come from; tests put a FakeClock here. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The time of day when it was made and what has passed since: it never jumps.
class RealClock : public Clock {
 public:
  absl::Time Now() const override {
    return begin_ +
           absl::FromChrono(std::chrono::steady_clock::now() - steady_begin_);
  }

 private:
  const std::chrono::steady_clock::time_point steady_begin_ =
      std::chrono::steady_clock::now();
  const absl::Time begin_ = absl::Now();
};

}  // namespace ttt
