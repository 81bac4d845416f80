// Drives a running daemon as the options say, and measures.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "client/bench/options.h"
#include "client/bench/results.h"
#include "client/bench/workload.h"

namespace ttt::bench {

// Where a run stands, for people.
struct Progress {
  double seconds = 0;   // since the start
  double fraction = 0;  // of what is asked for, as far as that can be told
  absl::string_view phase;
  int64_t running = 0;  // sessions
  int64_t ended = 0;    // requests that were measured
  int64_t refused = 0;
  double tokens_per_second = 0;  // since the last report
};

struct LoadHooks {
  std::function<bool()> is_interrupted;              // asked 20 times a second
  std::function<void(const Progress&)> on_progress;  // once a second
};

// Runs to the end on the calling thread; Ctrl-C and the drain end it early.
// All calls have ended and, unless they are to be kept, all sessions are
// deleted when it returns, as far as the server allows it within 10 s.
Results RunLoad(const Options& options, const Workload& workload,
                const LoadHooks& hooks);

}  // namespace ttt::bench
