// The sessions of one server: which exist, what they hold, which are in use.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/session/state_layout.h"
#include "server/session/state_pool.h"

namespace ttt {

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
  // When its last turn was accepted or ended; a call that was refused after it
  // had its lease is none.
  absl::Time last_used_time;
  absl::Duration ttl = absl::InfiniteDuration();

  absl::Time expire_time() const { return last_used_time + ttl; }
};

class SessionStore;

// The right to run one turn on a session, given back by the destructor. Without
// a Commit the session is as it was; one that Acquire had made is deleted
// again. Move-only; used by one thread at a time. Must not outlive its store.
class SessionLease {
 public:
  SessionLease() = default;
  ~SessionLease();
  SessionLease(SessionLease&& other) noexcept;
  SessionLease& operator=(SessionLease&& other) noexcept;

  // False once the turn is committed, too.
  bool has_value() const { return store_ != nullptr; }
  const std::string& id() const { return id_; }
  uint64_t revision() const { return revision_; }  // committed
  int64_t tokens() const { return tokens_; }       // committed
  // The committed state; no value while the session is empty.
  const StateSlot& state() const { return state_; }

  // The turn is accepted: from now on it is a use of the session, whatever
  // becomes of it.
  void TurnBegins();
  // Publishes a turn: `state`, which has a value, becomes the session's, and
  // its revision grows by one. Ends the lease. Returns the new revision.
  uint64_t Commit(StateSlot state, int64_t tokens, const StateDigest& digest);

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
  bool turn_began_ = false;
};

// A share of a session's committed state, for reading.
struct SessionView {
  uint64_t revision = 0;
  int64_t tokens = 0;
  StateSlot state;  // no value while the session is empty
};

// Thread-safe; takes the pool's lock under its own, and gives nothing back to
// the pool while it holds it. Must outlive its leases.
//
// A session whose time to live has passed since its last turn is as good as
// absent, and is dropped by a later call; a leased session never expires.
class SessionStore {
 public:
  struct Options {
    int64_t max_sessions = 1 << 20;  // >= 1, empty ones too
  };
  struct AcquireOptions {
    // Makes a session without a TTL. Another caller sees it at once, and sees
    // it go if its first turn does not commit.
    bool create_if_absent = false;
    std::optional<uint64_t> expected_revision;
  };
  struct Counts {
    int64_t sessions = 0;  // all, and those that expired and were not met since
    int64_t running = 0;   // leased
    int64_t with_state = 0;  // not empty
  };

  // `clock` and `pool` must outlive the store.
  // INVALID_ARGUMENT: an option out of range.
  static absl::StatusOr<std::unique_ptr<SessionStore>> Create(
      const Options& options, const Clock* clock, StatePool* pool);
  ~SessionStore();

  // Empty `id`: one is made, of 128 random bits. INVALID_ARGUMENT: not at most
  // 128 bytes of [A-Za-z0-9._:-] (BAD_SESSION_ID), or ttl <= 0 (BAD_TTL).
  // ALREADY_EXISTS (SESSION_EXISTS). RESOURCE_EXHAUSTED (TOO_MANY_SESSIONS).
  absl::StatusOr<SessionInfo> CreateSession(absl::string_view id,
                                            absl::Duration ttl);
  // NOT_FOUND (SESSION_NOT_FOUND).
  absl::StatusOr<SessionInfo> GetSession(absl::string_view id);
  // At most `limit` sessions with ids after `after`, in order of id. `limit` <
  // 1: none.
  std::vector<SessionInfo> ListSessions(absl::string_view after, int32_t limit);
  // NOT_FOUND. ABORTED (SESSION_BUSY): leased.
  absl::Status DeleteSession(absl::string_view id);
  // A new session with the parent's committed state and revision; the parent
  // may be leased. NOT_FOUND; FAILED_PRECONDITION (REVISION_MISMATCH);
  // RESOURCE_EXHAUSTED (STATE_POOL_FULL); and as CreateSession.
  absl::StatusOr<SessionInfo> ForkSession(
      absl::string_view id, absl::string_view new_id, absl::Duration ttl,
      std::optional<uint64_t> expected_revision);

  // NOT_FOUND; ABORTED (SESSION_BUSY); FAILED_PRECONDITION (REVISION_MISMATCH);
  // RESOURCE_EXHAUSTED (STATE_POOL_FULL): the session is empty and no slot is
  // left for it. With create_if_absent also INVALID_ARGUMENT (BAD_SESSION_ID,
  // an empty id too) and RESOURCE_EXHAUSTED (TOO_MANY_SESSIONS).
  absl::StatusOr<SessionLease> Acquire(absl::string_view id,
                                       const AcquireOptions& options);
  // The committed state, without a lease. NOT_FOUND.
  absl::StatusOr<SessionView> View(absl::string_view id);

  // Drops the sessions that have expired; their number.
  int64_t DropExpired();
  Counts counts() const;

 private:
  friend class SessionLease;

  struct Session {
    SessionInfo info;
    StateReservation reservation;  // with a state; goes after it
    StateSlot state;
  };
  using Sessions = std::map<std::string, Session, std::less<>>;
  // Sessions taken out of the map, to be destroyed after the lock is let go.
  using Dropped = std::vector<Sessions::node_type>;

  SessionStore(const Options& options, const Clock* clock, StatePool* pool)
      : options_(options), clock_(clock), pool_(pool) {}

  void BeginTurn(const std::string& id) ABSL_LOCKS_EXCLUDED(mutex_);
  // The two ends of a lease. `reservation` has a value if the session is empty.
  uint64_t CommitTurn(const std::string& id, StateSlot state,
                      StateReservation reservation, int64_t tokens,
                      const StateDigest& digest) ABSL_LOCKS_EXCLUDED(mutex_);
  void AbandonTurn(const std::string& id, bool is_use, bool delete_session)
      ABSL_LOCKS_EXCLUDED(mutex_);
  Sessions::iterator EndTurn(const std::string& id, bool is_use, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The session, unless it is absent or has expired; null then.
  Session* Find(absl::string_view id, absl::Time now, Dropped* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds an empty idle session. The id must be valid. ALREADY_EXISTS;
  // RESOURCE_EXHAUSTED.
  absl::StatusOr<Session*> Insert(absl::string_view id, absl::Duration ttl,
                                  absl::Time now, Dropped* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddExpiry(const SessionInfo& info) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(Sessions::iterator session, Dropped* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops what has expired, but not so much at once that others wait long.
  // Returns the number.
  int64_t DropSomeExpired(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const Clock* const clock_;
  StatePool* const pool_;
  mutable Mutex mutex_;
  Sessions sessions_ ABSL_GUARDED_BY(mutex_);
  // The idle sessions with a TTL, soonest first; ids point into sessions_.
  std::set<std::pair<absl::Time, absl::string_view>> expiries_
      ABSL_GUARDED_BY(mutex_);
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t with_state_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ttt
