// Where texts become token ids.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "server/base/executor.h"

namespace ttt {

// A text takes about a second a megabyte: only a tiny one is read on the
// thread of its call, and a long one does not hold up the others. Thread-safe.
// The destructor waits for what was given to it.
class TextThreads {
 public:
  // Runs `task`, which reads a text of that many bytes: now if it is tiny, else
  // on a thread of its own.
  void Run(size_t text_bytes, std::function<void()> task) {
    if (text_bytes <= kTinyBytes) return task();
    (text_bytes <= kShortBytes ? short_ : long_).Post(std::move(task));
  }

  static bool IsTiny(size_t text_bytes) { return text_bytes <= kTinyBytes; }

 private:
  static constexpr size_t kTinyBytes = 4 << 10;
  static constexpr size_t kShortBytes = 256 << 10;

  Executor short_;
  Executor long_;
};

}  // namespace ttt
