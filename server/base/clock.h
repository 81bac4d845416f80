#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ttt {

// Where all times come from; tests put a FakeClock here. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace ttt
