#include <utility>

#include "server/base/check.h"
#include "server/session/session_store.h"

namespace ttt {

SessionLease::~SessionLease() { Release(); }

SessionLease::SessionLease(SessionLease&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      id_(std::move(other.id_)),
      revision_(other.revision_),
      tokens_(other.tokens_),
      state_(std::move(other.state_)),
      reservation_(std::move(other.reservation_)),
      created_here_(other.created_here_),
      turn_began_(other.turn_began_) {}

SessionLease& SessionLease::operator=(SessionLease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  store_ = std::exchange(other.store_, nullptr);
  id_ = std::move(other.id_);
  revision_ = other.revision_;
  tokens_ = other.tokens_;
  state_ = std::move(other.state_);
  reservation_ = std::move(other.reservation_);
  created_here_ = other.created_here_;
  turn_began_ = other.turn_began_;
  return *this;
}

void SessionLease::TurnBegins() {
  TTT_CHECK(has_value());
  store_->BeginTurn(id_);
  turn_began_ = true;
}

uint64_t SessionLease::Commit(StateSlot state, int64_t tokens,
                              const StateDigest& digest) {
  TTT_CHECK(has_value() && state.has_value() && tokens >= 0);
  const uint64_t revision =
      std::exchange(store_, nullptr)
          ->CommitTurn(id_, std::move(state), std::move(reservation_), tokens,
                       digest);
  state_ = StateSlot();
  return revision;
}

void SessionLease::Release() {
  if (store_ == nullptr) return;
  // The slot first: whoever takes the room over finds it free.
  state_ = StateSlot();
  reservation_ = StateReservation();
  std::exchange(store_, nullptr)->AbandonTurn(id_, turn_began_, created_here_);
}

}  // namespace ttt
