#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace ttt {

// Keeps a line that a client can cause as often as it likes from filling the
// log. Used by one thread at a time.
class LogLimit {
 public:
  explicit LogLimit(absl::Duration interval) : interval_(interval) {}

  // Whether to log at `now`: then, how often it was to be logged since it last
  // was, this time included.
  std::optional<int64_t> Count(absl::Time now) {
    ++count_;
    if (now < next_) return std::nullopt;
    next_ = now + interval_;
    const int64_t count = count_;
    count_ = 0;
    return count;
  }

 private:
  const absl::Duration interval_;
  absl::Time next_ = absl::InfinitePast();
  int64_t count_ = 0;
};

}  // namespace ttt
