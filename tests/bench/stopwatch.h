#pragma once

#include <chrono>

namespace ttt {

// Seconds that function() took.
template <typename Function>
double TimeToRun(const Function& function) {
  const auto begin = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

}  // namespace ttt
