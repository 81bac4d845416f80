#include "server/session/state_pool.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// A session that ends or expires makes room; that takes about a turn.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

constexpr std::byte kPoisonByte{0xFF};  // a word of these is a NaN

absl::Status CheckOptions(const StatePool::Options& options,
                          const StateLayout& layout) {
  if (options.session_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "StatePool: session_slots is ", options.session_slots, ", not >= 1"));
  }
  if (options.scratch_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "StatePool: scratch_slots is ", options.scratch_slots, ", not >= 1"));
  }
  const int64_t most_slots = std::numeric_limits<int32_t>::max();
  if (options.session_slots > most_slots - options.scratch_slots) {
    return absl::InvalidArgumentError(
        absl::StrCat("StatePool: session_slots is ", options.session_slots,
                     ", more than fit in 31 bits"));
  }
  if (layout.slot_bytes <= 0 || layout.slot_bytes % kLineBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("StatePool: slot_bytes is ", layout.slot_bytes,
                     ", not a positive multiple of ", kLineBytes));
  }
  return absl::OkStatus();
}

}  // namespace

StateSlot::~StateSlot() {
  if (pool_ != nullptr) pool_->DropShare(index_, epoch_);
}

StateSlot::StateSlot(StateSlot&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      index_(std::exchange(other.index_, -1)),
      epoch_(std::exchange(other.epoch_, 0)) {}

StateSlot& StateSlot::operator=(StateSlot&& other) noexcept {
  StateSlot taken(std::move(other));
  std::swap(pool_, taken.pool_);
  std::swap(index_, taken.index_);
  std::swap(epoch_, taken.epoch_);
  return *this;  // What was here goes with `taken`.
}

StateSlot StateSlot::Share() const {
  TTT_CHECK(has_value());
  pool_->AddShare(index_, epoch_);
  return StateSlot(pool_, index_, epoch_);
}

bool StateSlot::IsOnlyShare() const {
  TTT_CHECK(has_value());
  return pool_->HasOneShare(index_, epoch_);
}

StateReservation::~StateReservation() {
  if (pool_ != nullptr) pool_->DropReservation();
}

StateReservation::StateReservation(StateReservation&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)) {}

StateReservation& StateReservation::operator=(
    StateReservation&& other) noexcept {
  StateReservation taken(std::move(other));
  std::swap(pool_, taken.pool_);
  return *this;
}

absl::StatusOr<std::unique_ptr<StatePool>> StatePool::Create(
    const Options& options, StateLayout layout, Backend* backend) {
  TTT_RETURN_IF_ERROR(CheckOptions(options, layout));
  int64_t slab_bytes = 0;
  if (__builtin_mul_overflow(options.session_slots + options.scratch_slots,
                             layout.slot_bytes, &slab_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "StatePool: session_slots is ", options.session_slots, " of ",
        layout.slot_bytes, " bytes, more than fit in 63 bits"));
  }
  TTT_ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> slab,
                       backend->Allocate(slab_bytes));
  TTT_CHECK(slab->size_bytes() >= slab_bytes);
  return std::unique_ptr<StatePool>(
      new StatePool(options, std::move(layout), std::move(slab), backend));
}

StatePool::StatePool(const Options& options, StateLayout layout,
                     std::unique_ptr<DeviceBuffer> slab, Backend* backend)
    : options_(options),
      layout_(std::move(layout)),
      slab_(std::move(slab)),
      backend_(backend),
      poison_(options.poison_released ? layout_.slot_bytes : 0, kPoisonByte),
      shares_(num_slots(), 0),
      epochs_(num_slots(), 0) {
  // The slot that was freed last is the next given out; at first, slot 0.
  free_.reserve(num_slots());
  for (int64_t index = num_slots() - 1; index >= 0; --index) {
    free_.push_back(static_cast<int32_t>(index));
  }
}

StatePool::~StatePool() {
  std::vector<Passage> passages;
  {
    MutexLock lock(mutex_);
    passages.swap(passages_);
  }
  for (const Passage& passage : passages) {
    backend_->Wait(passage.copy)
        .IgnoreError();  // A lost device copies nothing.
  }
  passages.clear();
  MutexLock lock(mutex_);
  TTT_CHECK(static_cast<int64_t>(free_.size()) == num_slots());
  TTT_CHECK(reserved_ == 0);
}

absl::StatusOr<StateReservation> StatePool::Reserve() {
  {
    MutexLock lock(mutex_);
    if (reserved_ < options_.session_slots) {
      ++reserved_;
      return StateReservation(this);
    }
  }
  return RetryableError(
      absl::StatusCode::kResourceExhausted, "STATE_POOL_FULL",
      absl::StrCat("all ", options_.session_slots,
                   " states that the device holds belong to other sessions: "
                   "delete some, or serve with a larger --device_state_bytes"),
      kRetryAfter);
}

absl::StatusOr<StateSlot> StatePool::AcquireSlot() {
  Collect();
  StateSlot slot;
  {
    MutexLock lock(mutex_);
    if (!free_.empty()) {
      const int32_t index = free_.back();
      free_.pop_back();
      TTT_CHECK(shares_[index] == 0);
      shares_[index] = 1;
      slot = StateSlot(this, index, ++epochs_[index]);
    }
  }
  if (!slot.has_value()) {
    return RetryableError(
        absl::StatusCode::kResourceExhausted, "STATE_POOL_FULL",
        absl::StrCat("all ", num_slots(), " slots for states are in use"),
        kRetryAfter);
  }
  if (options_.poison_released) TTT_RETURN_IF_ERROR(Poison(slot.index()));
  return slot;
}

absl::StatusOr<DeviceCopy> StatePool::StartExport(const StateSlot& slot,
                                                  std::byte* host) {
  const int32_t index = slot.index();
  StateSlot share = slot.Share();
  TTT_RETURN_IF_ERROR(AwaitImports(absl::MakeConstSpan(&index, 1)));
  TTT_ASSIGN_OR_RETURN(const DeviceCopy copy,
                       backend_->StartCopyToHost(
                           host, slab_->data() + index * layout_.slot_bytes,
                           layout_.slot_bytes));
  MutexLock lock(mutex_);
  passages_.push_back({std::move(share), copy});
  return copy;
}

absl::StatusOr<DeviceCopy> StatePool::StartImport(const StateSlot& slot,
                                                  const std::byte* host) {
  Collect();
  if (!slot.IsOnlyShare()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "StartImport: slot ", slot.index(), " is shared, or being copied"));
  }
  StateSlot share = slot.Share();
  TTT_ASSIGN_OR_RETURN(const DeviceCopy copy,
                       backend_->StartCopyToDevice(
                           slab_->data() + slot.index() * layout_.slot_bytes,
                           host, layout_.slot_bytes));
  MutexLock lock(mutex_);
  passages_.push_back({std::move(share), copy});
  return copy;
}

absl::Status StatePool::Await(absl::Span<const int32_t> slots,
                              bool exports_too) const {
  std::vector<DeviceCopy> copies;
  {
    MutexLock lock(mutex_);
    for (const Passage& passage : passages_) {
      if (passage.copy.is_to_host && !exports_too) continue;
      if (std::find(slots.begin(), slots.end(), passage.slot.index()) !=
          slots.end()) {
        copies.push_back(passage.copy);
      }
    }
  }
  for (const DeviceCopy& copy : copies) {
    TTT_RETURN_IF_ERROR(backend_->QueueAfter(copy));
  }
  return absl::OkStatus();
}

void StatePool::Collect() {
  std::vector<Passage> passages;
  {
    MutexLock lock(mutex_);
    if (passages_.empty()) return;
    passages.swap(passages_);
  }
  // A device that fails copies nothing more.
  const auto is_under_way = [this](const Passage& passage) {
    const absl::StatusOr<bool> has_ended = backend_->HasEnded(passage.copy);
    return has_ended.ok() && !*has_ended;
  };
  const auto ended =
      std::partition(passages.begin(), passages.end(), is_under_way);
  passages.erase(ended, passages.end());
  MutexLock lock(mutex_);
  std::move(passages.begin(), passages.end(), std::back_inserter(passages_));
}

StatePool::Usage StatePool::usage() const {
  MutexLock lock(mutex_);
  return {.session_slots = options_.session_slots,
          .reserved = reserved_,
          .slots = num_slots(),
          .slots_in_use = num_slots() - static_cast<int64_t>(free_.size())};
}

absl::Status StatePool::Poison(int32_t index) {
  return backend_->CopyToDevice(slab_->data() + index * layout_.slot_bytes,
                                poison_.data(), layout_.slot_bytes);
}

void StatePool::AddShare(int32_t index, uint64_t epoch) {
  MutexLock lock(mutex_);
  CheckShared(index, epoch);
  ++shares_[index];
}

void StatePool::DropShare(int32_t index, uint64_t epoch) {
  {
    MutexLock lock(mutex_);
    CheckShared(index, epoch);
    if (--shares_[index] > 0) return;
    if (!options_.poison_released) {
      free_.push_back(index);
      return;
    }
  }
  Poison(index).IgnoreError();  // AcquireSlot tells of a device that fails.
  MutexLock lock(mutex_);
  free_.push_back(index);
}

bool StatePool::HasOneShare(int32_t index, uint64_t epoch) const {
  MutexLock lock(mutex_);
  CheckShared(index, epoch);
  return shares_[index] == 1;
}

void StatePool::CheckShared(int32_t index, uint64_t epoch) const {
  TTT_CHECK(index >= 0 && index < num_slots());
  TTT_CHECK(epochs_[index] == epoch);
  TTT_CHECK(shares_[index] > 0);
}

void StatePool::DropReservation() {
  MutexLock lock(mutex_);
  TTT_CHECK(reserved_ > 0);
  --reserved_;
}

}  // namespace ttt
