// Sessions that stay on the device, and what a server does with their states.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/model/ttt_model.h"
#include "server/session/state_pool.h"

namespace ttt {

// A model with random weights and sessions whose tokens are random, the same
// for a session and a position at all times. Not thread-safe.
class ResidentSessions {
 public:
  struct Options {
    std::string model_dir;
    int32_t max_rows = 64;
    int32_t scratch_slots = 64;  // and sequences of a step
    int64_t sessions = 0;        // 0: as many as the device has room for
  };

  // `backend` must outlive it. INVALID_ARGUMENT: sessions is 0 on a device that
  // does not tell its memory. Errors of the config and the backend.
  static absl::StatusOr<std::unique_ptr<ResidentSessions>> Create(
      const Options& options, Backend* backend);

  int64_t count() const { return static_cast<int64_t>(sessions_.size()); }
  int64_t tokens(int64_t session) const { return sessions_[session].tokens; }
  const StatePool& pool() const { return *pool_; }
  StatePool& pool() { return *pool_; }
  const TttModel& model() const { return *model_; }

  // Makes all sessions empty.
  absl::Status Clear();
  // A turn: each of these reads as many tokens on, in one step, in a scratch
  // slot, which becomes its state.
  struct Turn {
    int64_t session;
    int32_t tokens;  // >= 1
  };
  absl::Status Run(absl::Span<const Turn> turns);
  // Of the first `count` sessions. INTERNAL: a state is not finite.
  absl::StatusOr<std::vector<StateDigest>> Digests(int64_t count);

  // Takes a state from a session, and gives it one back.
  StateSlot TakeState(int64_t session) {
    return std::move(sessions_[session].state);
  }
  const StateSlot& state(int64_t session) const {
    return sessions_[session].state;
  }
  void GiveState(int64_t session, StateSlot state) {
    sessions_[session].state = std::move(state);
  }

 private:
  struct Session {
    StateSlot state;
    int64_t tokens = 0;
  };

  ResidentSessions(const ModelConfig& config, int32_t scratch_slots)
      : config_(config), scratch_slots_(scratch_slots) {}

  const ModelConfig config_;
  const int32_t scratch_slots_;
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::vector<Session> sessions_;
};

}  // namespace ttt
