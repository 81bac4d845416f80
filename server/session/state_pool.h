// The slots that hold hidden states on the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/base/mutex.h"
#include "server/session/state_layout.h"

namespace ttt {

class StatePool;

// A share of one slot, given back by the destructor; the slot is free when its
// last share is. Move-only. Must not outlive its pool.
class StateSlot {
 public:
  StateSlot() = default;
  ~StateSlot();
  StateSlot(StateSlot&& other) noexcept;
  StateSlot& operator=(StateSlot&& other) noexcept;

  bool has_value() const { return pool_ != nullptr; }
  // -1 without a value.
  int32_t index() const { return index_; }
  // Grows each time the slot is given out anew.
  uint64_t epoch() const { return epoch_; }
  // Another share of the same slot. Needs a value.
  StateSlot Share() const;
  // True if nobody else can read the slot, so that its holder may write to it.
  // Stays true until the holder shares it, exports it or imports into it: a
  // copy under way has a share. Needs a value.
  bool IsOnlyShare() const;

 private:
  friend class StatePool;
  StateSlot(StatePool* pool, int32_t index, uint64_t epoch)
      : pool_(pool), index_(index), epoch_(epoch) {}

  StatePool* pool_ = nullptr;
  int32_t index_ = -1;
  uint64_t epoch_ = 0;
};

// The right of one session to keep a state, given back by the destructor.
// Move-only. Must not outlive its pool.
class StateReservation {
 public:
  StateReservation() = default;
  ~StateReservation();
  StateReservation(StateReservation&& other) noexcept;
  StateReservation& operator=(StateReservation&& other) noexcept;

  bool has_value() const { return pool_ != nullptr; }

 private:
  friend class StatePool;
  explicit StateReservation(StatePool* pool) : pool_(pool) {}

  StatePool* pool_ = nullptr;
};

// One slab of equal slots: `session_slots` that sessions may reserve, and
// `scratch_slots` for running turns. A session with a state (a fork too, though
// it shares its parent's slot until its first commit) holds one reservation, so
// a commit never fails for lack of a slot, and idle sessions never starve a
// turn. A slot that outlives its session's interest in it (a view, while the
// session goes on) is taken from the scratch ones until its last share goes.
//
// A slot may be given out again while the device still works on the step that
// used it last: ops run in the order of the calls, so its next user comes
// after. Exports and imports run beside the ops; each keeps a share of its slot
// until AcquireSlot or Collect finds that the device has passed it.
//
// Thread-safe, save what touches exports and imports, which belongs on the
// thread of the backend: starting, awaiting and collecting them, and
// AcquireSlot while there are any; its lock is a leaf. Must outlive its slots
// and reservations; must not outlive the backend.
class StatePool {
 public:
  struct Options {
    int64_t session_slots = 0;  // >= 1
    int32_t scratch_slots = 0;  // >= 1
    // For tests: every slot is full of NaN from when its last share goes, and
    // when AcquireSlot gives it out, so that nothing left by its last user can
    // be read. Both then copy to the device, and belong on the thread of the
    // backend.
    bool poison_released = false;
  };
  struct Usage {
    int64_t session_slots;  // capacity
    int64_t reserved;       // of these, by sessions
    int64_t slots;          // in the slab, scratch slots too
    int64_t slots_in_use;   // physically
  };

  // INVALID_ARGUMENT: an option or the layout is out of range.
  // RESOURCE_EXHAUSTED: the device has not that much memory.
  static absl::StatusOr<std::unique_ptr<StatePool>> Create(
      const Options& options, StateLayout layout, Backend* backend);
  ~StatePool();

  // Room for one more session. RESOURCE_EXHAUSTED (STATE_POOL_FULL).
  absl::StatusOr<StateReservation> Reserve() ABSL_LOCKS_EXCLUDED(mutex_);
  // A slot with no defined content. RESOURCE_EXHAUSTED (STATE_POOL_FULL): none
  // is free. INTERNAL: the device failed to poison it.
  absl::StatusOr<StateSlot> AcquireSlot() ABSL_LOCKS_EXCLUDED(mutex_);

  // Starts to copy the whole slot, as the device keeps it, to `host`; or from
  // it to the slot, of which nobody else may have a share (FAILED_PRECONDITION;
  // a copy under way has one). `host` is of Backend::AllocateHost and stays
  // until the copy has ended. INTERNAL, UNAVAILABLE.
  absl::StatusOr<DeviceCopy> StartExport(const StateSlot& slot, std::byte* host)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<DeviceCopy> StartImport(const StateSlot& slot,
                                         const std::byte* host)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Has ops that are queued from now on wait for the imports into these slots,
  // so that they may read them; or for the exports too, so that they may write.
  absl::Status AwaitImports(absl::Span<const int32_t> slots) const
      ABSL_LOCKS_EXCLUDED(mutex_) {
    return Await(slots, /*exports_too=*/false);
  }
  absl::Status AwaitCopies(absl::Span<const int32_t> slots) const
      ABSL_LOCKS_EXCLUDED(mutex_) {
    return Await(slots, /*exports_too=*/true);
  }
  // Gives up the shares of exports and imports that have ended.
  void Collect() ABSL_LOCKS_EXCLUDED(mutex_);

  const StateLayout& layout() const { return layout_; }
  StatePlane slots() const { return {slab_->data(), layout_.slot_bytes}; }
  Usage usage() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class StateSlot;
  friend class StateReservation;

  // A copy that may still be under way.
  struct Passage {
    StateSlot slot;  // a share of it
    DeviceCopy copy;
  };

  StatePool(const Options& options, StateLayout layout,
            std::unique_ptr<DeviceBuffer> slab, Backend* backend);

  int64_t num_slots() const {
    return options_.session_slots + options_.scratch_slots;
  }
  absl::Status Await(absl::Span<const int32_t> slots, bool exports_too) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Poison(int32_t index);
  void AddShare(int32_t index, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mutex_);
  void DropShare(int32_t index, uint64_t epoch) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasOneShare(int32_t index, uint64_t epoch) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the process if a handle of that epoch has no share of the slot.
  void CheckShared(int32_t index, uint64_t epoch) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropReservation() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const StateLayout layout_;
  const std::unique_ptr<DeviceBuffer> slab_;
  Backend* const backend_;
  const std::vector<std::byte> poison_;  // of a slot's size, or empty
  mutable Mutex mutex_;
  std::vector<int32_t> free_ ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> shares_ ABSL_GUARDED_BY(mutex_);   // [slots]
  std::vector<uint64_t> epochs_ ABSL_GUARDED_BY(mutex_);  // [slots]
  int64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Passage> passages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ttt
