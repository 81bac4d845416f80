// What is to be done at what time.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

namespace ttt::bench {

// Times are nanoseconds of any clock. Not thread-safe.
class Timers {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  void At(int64_t time, std::function<void()> action) {
    queue_.push({time, next_order_++, std::move(action)});
  }
  int64_t next() const { return queue_.empty() ? kNever : queue_.top().time; }
  // Runs what is due, in order; what that adds and is due too.
  void Run(int64_t now) {
    while (next() <= now) {
      const std::function<void()> action = queue_.top().action;
      queue_.pop();
      action();
    }
  }

 private:
  struct Timer {
    int64_t time;
    int64_t order;
    std::function<void()> action;
    bool operator<(const Timer& other) const {  // The first is the greatest.
      return std::pair(other.time, other.order) < std::pair(time, order);
    }
  };
  std::priority_queue<Timer> queue_;
  int64_t next_order_ = 0;
};

}  // namespace ttt::bench
