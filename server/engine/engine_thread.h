// The thread around an Engine.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "server/base/mutex.h"
#include "server/engine/engine.h"

namespace ttt {

// Gives an Engine its thread and an inbox. Submit and Wake may be called from
// any thread and wait for nothing. `engine` must outlive it.
class EngineThread {
 public:
  // `on_device_lost` is called at most once, on the engine's thread, and waits
  // for nothing; turns that come after it end with UNAVAILABLE (DRAINING).
  EngineThread(Engine* engine, std::function<void()> on_device_lost);
  // Ends the turns that are left with UNAVAILABLE (DRAINING), and joins.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  void Submit(std::unique_ptr<Turn> turn) ABSL_LOCKS_EXCLUDED(mutex_);
  // Something that a turn waits for has changed: its reader took tokens, or
  // cancelled.
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  Engine* const engine_;
  const std::function<void()> on_device_lost_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::unique_ptr<Turn>> inbox_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last, so that it sees the rest
};

}  // namespace ttt
