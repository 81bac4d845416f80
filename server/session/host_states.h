// States in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/session/state_pool.h"

namespace ttt {

class HostStates;

// One state in host memory, given back by the destructor. Move-only. Must not
// outlive its HostStates.
class HostState {
 public:
  HostState() = default;
  ~HostState();
  HostState(HostState&& other) noexcept;
  HostState& operator=(HostState&& other) noexcept;

  bool has_value() const { return owner_ != nullptr; }

 private:
  friend class HostStates;
  HostState(HostStates* owner, int32_t index) : owner_(owner), index_(index) {}

  HostStates* owner_ = nullptr;
  int32_t index_ = -1;
};

// Page-locked memory for states that leave the device, and come back.
//
// A parked state is the whole slot, as the device keeps it: parking and waking
// convert nothing, run beside the ops and go at the speed of the bus if several
// are under way. Export and Import, which only read and write host memory, turn
// it to and from the bytes that all devices understand (canonical_state.h).
//
// A place is free again once the device has passed the copies from and to it.
// Belongs on the thread of the backend. Must outlive its states; must not
// outlive pool and backend.
class HostStates {
 public:
  // Room for `num_states`, of the slots of `pool`. INVALID_ARGUMENT: it is not
  // >= 1. RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<HostStates>> Create(int64_t num_states,
                                                            StatePool* pool,
                                                            Backend* backend);
  ~HostStates();

  // Starts to copy a state here. The slot may be given up at once: the pool
  // keeps it until it has been read. RESOURCE_EXHAUSTED: all places are in use.
  absl::StatusOr<HostState> Park(const StateSlot& slot);
  // Starts to copy a state into a slot that nobody else has a share of
  // (FAILED_PRECONDITION; a copy under way has one). Ops of the model on that
  // slot come after it.
  absl::Status Wake(const HostState& state, const StateSlot& slot);
  // Returns once all copies of it have ended; or tells whether they have.
  absl::Status Wait(const HostState& state);
  absl::StatusOr<bool> HasEnded(const HostState& state);

  // The canonical bytes of a state of `tokens` tokens; waits for it. And a
  // state of such bytes: INVALID_ARGUMENT as FromCanonical has it.
  absl::StatusOr<std::vector<std::byte>> Export(const HostState& state,
                                                int64_t tokens);
  absl::StatusOr<HostState> Import(absl::Span<const std::byte> bytes,
                                   int64_t tokens);

 private:
  friend class HostState;

  // Copies of one place that may be under way.
  struct Place {
    DeviceCopy parked;
    DeviceCopy woken;  // the last
  };

  HostStates(int64_t num_states, std::unique_ptr<DeviceBuffer> memory,
             StatePool* pool, Backend* backend);

  absl::StatusOr<HostState> Acquire();
  void Release(int32_t index);
  absl::StatusOr<bool> HasEnded(int32_t index);
  std::byte* At(const HostState& state) const;

  StatePool* const pool_;
  Backend* const backend_;
  const std::unique_ptr<DeviceBuffer> memory_;
  std::vector<Place> places_;
  std::vector<int32_t> free_;
  std::vector<int32_t> given_up_;  // but perhaps not passed
};

}  // namespace ttt
