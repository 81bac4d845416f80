// The sessions of one server: which exist, what they hold, which are in use.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/session/state_pool.h"

namespace ttt {

using StateDigest = std::array<uint8_t, kDigestBytes>;

// What is known of a session between its turns.
struct SessionInfo {
  std::string id;
  uint64_t revision = 0;  // 0: empty; grows by one a commit
  int64_t tokens = 0;     // read and generated, over all turns
  bool running = false;   // leased
  int64_t state_bytes = 0;
  std::optional<StateDigest> digest;  // of the last commit
  std::string parent_id;              // of a fork
  absl::Time create_time;
  absl::Time last_used_time;
  absl::Duration ttl = absl::InfiniteDuration();

  absl::Time expire_time() const { return last_used_time + ttl; }
};

class SessionStore;

// The right to run one turn on a session, given back by the destructor. Without
// a Commit the session is as it was; one that Acquire had made is deleted again.
// Move-only; used by one thread at a time. Must not outlive its store.
class SessionLease {
 public:
  SessionLease() = default;
  ~SessionLease();
  SessionLease(SessionLease&& other) noexcept;
  SessionLease& operator=(SessionLease&& other) noexcept;

  bool has_value() const { return store_ != nullptr; }
  const std::string& id() const { return id_; }
  uint64_t revision() const { return revision_; }  // committed
  int64_t tokens() const { return tokens_; }       // committed
  // The committed state; no value while the session is empty.
  const StateSlot& state() const { return state_; }

  // Publishes a turn: `state` becomes the session's, its revision grows by one.
  // Ends the lease.
  void Commit(StateSlot state, int64_t tokens, const StateDigest& digest);

 private:
  friend class SessionStore;

  void Release();

  SessionStore* store_ = nullptr;
  std::string id_;
  uint64_t revision_ = 0;
  int64_t tokens_ = 0;
  StateSlot state_;               // a share of the session's
  StateReservation reservation_;  // for the first commit of an empty session
  bool created_here_ = false;
};

// A share of a session's committed state, for reading.
struct SessionView {
  uint64_t revision = 0;
  int64_t tokens = 0;
  StateSlot state;  // no value while the session is empty
};

// Thread-safe. Must outlive its leases. Sessions whose time to live has passed
// are as good as absent, and are dropped by the next call that meets them or by
// DropExpired; a leased session never expires.
class SessionStore {
 public:
  struct Options {
    int64_t max_sessions = 1 << 20;  // >= 1, empty ones too
  };
  struct AcquireOptions {
    bool create_if_absent = false;
    std::optional<uint64_t> expected_revision;
  };
  struct Counts {
    int64_t sessions = 0;  // all
    int64_t running = 0;   // leased
    int64_t with_state = 0;
  };

  // `clock` and `pool` must outlive the store. `new_id` makes ids for sessions
  // without a name: 128 random bits as 32 hexadecimal digits.
  // INVALID_ARGUMENT: an option out of range.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Create(
      const Options& options, const Clock* clock, StatePool* pool);

  // Empty `id`: one is made. INVALID_ARGUMENT: not at most 128 bytes of
  // [A-Za-z0-9._:-], or ttl <= 0. ALREADY_EXISTS (SESSION_EXISTS).
  // RESOURCE_EXHAUSTED (TOO_MANY_SESSIONS).
  absl::StatusOr<SessionInfo> CreateSession(absl::string_view id,
                                            absl::Duration ttl);
  // NOT_FOUND (SESSION_NOT_FOUND).
  absl::StatusOr<SessionInfo> GetSession(absl::string_view id);
  // At most `limit` sessions with ids after `after`, in order of id.
  std::vector<SessionInfo> ListSessions(absl::string_view after, int32_t limit);
  // NOT_FOUND. ABORTED (SESSION_BUSY): leased.
  absl::Status DeleteSession(absl::string_view id);
  // A new session with the parent's committed state and revision. NOT_FOUND;
  // ALREADY_EXISTS; FAILED_PRECONDITION (REVISION_MISMATCH); RESOURCE_EXHAUSTED.
  absl::StatusOr<SessionInfo> ForkSession(absl::string_view id,
                                          absl::string_view new_id,
                                          absl::Duration ttl,
                                          std::optional<uint64_t> expected_revision);

  // NOT_FOUND; ABORTED (SESSION_BUSY); FAILED_PRECONDITION (REVISION_MISMATCH);
  // RESOURCE_EXHAUSTED (STATE_POOL_FULL): the session is empty and no slot is
  // left for it.
  absl::StatusOr<SessionLease> Acquire(absl::string_view id,
                                       const AcquireOptions& options);
  // The committed state, without a lease. NOT_FOUND.
  absl::StatusOr<SessionView> View(absl::string_view id);

  // Drops the sessions that have expired; their number.
  int64_t DropExpired();
  Counts counts() const;

 private:
  friend class SessionLease;
  // ... implementation of the session helper ...
};

}  // namespace ttt
