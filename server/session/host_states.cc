#include "server/session/host_states.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/status_macros.h"
#include "server/session/canonical_state.h"

namespace ttt {

HostState::~HostState() {
  if (owner_ != nullptr) owner_->Release(index_);
}

HostState::HostState(HostState&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)),
      index_(std::exchange(other.index_, -1)) {}

HostState& HostState::operator=(HostState&& other) noexcept {
  HostState taken(std::move(other));
  std::swap(owner_, taken.owner_);
  std::swap(index_, taken.index_);
  return *this;  // What was here goes with `taken`.
}

absl::StatusOr<std::unique_ptr<HostStates>> HostStates::Create(
    int64_t num_states, StatePool* pool, Backend* backend) {
  int64_t bytes = 0;
  if (num_states < 1 || num_states > std::numeric_limits<int32_t>::max() ||
      __builtin_mul_overflow(num_states, pool->layout().slot_bytes, &bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("HostStates: num_states is ", num_states));
  }
  TTT_ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> memory,
                       backend->AllocateHost(bytes));
  return std::unique_ptr<HostStates>(
      new HostStates(num_states, std::move(memory), pool, backend));
}

HostStates::HostStates(int64_t num_states, std::unique_ptr<DeviceBuffer> memory,
                       StatePool* pool, Backend* backend)
    : pool_(pool),
      backend_(backend),
      memory_(std::move(memory)),
      places_(num_states) {
  for (int64_t index = num_states - 1; index >= 0; --index) {
    free_.push_back(static_cast<int32_t>(index));
  }
}

HostStates::~HostStates() {
  TTT_CHECK(free_.size() + given_up_.size() == places_.size());
  for (const Place& place : places_) {  // A lost device copies nothing.
    backend_->Wait(place.parked).IgnoreError();
    backend_->Wait(place.woken).IgnoreError();
  }
}

absl::StatusOr<HostState> HostStates::Park(const StateSlot& slot) {
  TTT_ASSIGN_OR_RETURN(HostState state, Acquire());
  TTT_ASSIGN_OR_RETURN(places_[state.index_].parked,
                       pool_->StartExport(slot, At(state)));
  return state;
}

absl::Status HostStates::Wake(const HostState& state, const StateSlot& slot) {
  TTT_CHECK(state.owner_ == this);
  Place& place = places_[state.index_];
  TTT_RETURN_IF_ERROR(backend_->QueueAfter(place.parked));
  TTT_ASSIGN_OR_RETURN(place.woken, pool_->StartImport(slot, At(state)));
  return absl::OkStatus();
}

absl::Status HostStates::Wait(const HostState& state) {
  TTT_CHECK(state.owner_ == this);
  const Place& place = places_[state.index_];
  TTT_RETURN_IF_ERROR(backend_->Wait(place.parked));
  return backend_->Wait(place.woken);
}

absl::StatusOr<bool> HostStates::HasEnded(const HostState& state) {
  TTT_CHECK(state.owner_ == this);
  return HasEnded(state.index_);
}

absl::StatusOr<std::vector<std::byte>> HostStates::Export(
    const HostState& state, int64_t tokens) {
  TTT_RETURN_IF_ERROR(Wait(state));
  return ToCanonical(pool_->layout(), tokens, At(state));
}

absl::StatusOr<HostState> HostStates::Import(absl::Span<const std::byte> bytes,
                                             int64_t tokens) {
  TTT_ASSIGN_OR_RETURN(HostState state, Acquire());
  TTT_RETURN_IF_ERROR(FromCanonical(pool_->layout(), tokens, bytes, At(state)));
  return state;
}

absl::StatusOr<HostState> HostStates::Acquire() {
  const auto passed =
      std::partition(given_up_.begin(), given_up_.end(), [this](int32_t index) {
        const absl::StatusOr<bool> has_ended = HasEnded(index);
        // A device that fails copies nothing more.
        return has_ended.ok() && !*has_ended;
      });
  free_.insert(free_.end(), passed, given_up_.end());
  given_up_.erase(passed, given_up_.end());
  if (free_.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", places_.size(),
                     " places for states in host memory are in use"));
  }
  const int32_t index = free_.back();
  free_.pop_back();
  places_[index] = {};
  return HostState(this, index);
}

void HostStates::Release(int32_t index) { given_up_.push_back(index); }

absl::StatusOr<bool> HostStates::HasEnded(int32_t index) {
  TTT_ASSIGN_OR_RETURN(const bool is_parked,
                       backend_->HasEnded(places_[index].parked));
  if (!is_parked) return false;
  return backend_->HasEnded(places_[index].woken);
}

std::byte* HostStates::At(const HostState& state) const {
  return memory_->data() + state.index_ * pool_->layout().slot_bytes;
}

}  // namespace ttt
