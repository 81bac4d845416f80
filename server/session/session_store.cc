#include "server/session/session_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/random_id.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

constexpr size_t kMostIdBytes = 128;
constexpr size_t kMostDropped = 256;  // under one hold of the lock
constexpr absl::Duration kBusyRetry = absl::Milliseconds(100);
constexpr absl::Duration kFullRetry = absl::Seconds(1);

bool IsIdChar(char c) {
  return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == ':' || c == '-';
}

absl::Status CheckId(absl::string_view id) {
  if (!id.empty() && id.size() <= kMostIdBytes &&
      std::all_of(id.begin(), id.end(), IsIdChar)) {
    return absl::OkStatus();
  }
  return Error(
      absl::StatusCode::kInvalidArgument, "BAD_SESSION_ID",
      absl::StrCat("session id ", QuoteValue(id), " of ", id.size(),
                   " bytes is not 1 to ", kMostIdBytes, " of [A-Za-z0-9._:-]"));
}

absl::Status CheckTtl(absl::Duration ttl) {
  if (ttl > absl::ZeroDuration()) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "BAD_TTL",
      absl::StrCat("ttl is ", absl::FormatDuration(ttl), ", not above 0"));
}

absl::Status CheckRevision(absl::string_view id, uint64_t revision,
                           std::optional<uint64_t> expected) {
  if (expected.value_or(revision) == revision) return absl::OkStatus();
  return Error(absl::StatusCode::kFailedPrecondition, "REVISION_MISMATCH",
               absl::StrCat("session ", QuoteValue(id), " is at revision ",
                            revision, ", not at ", *expected));
}

absl::Status NotFound(absl::string_view id) {
  return Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND",
               absl::StrCat("there is no session ", QuoteValue(id)));
}

absl::Status Busy(absl::string_view id) {
  return RetryableError(
      absl::StatusCode::kAborted, "SESSION_BUSY",
      absl::StrCat("session ", QuoteValue(id), " is running another turn"),
      kBusyRetry);
}

bool HasExpired(const SessionInfo& info, absl::Time now) {
  return !info.running && now >= info.expire_time();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Create(
    const Options& options, const Clock* clock, StatePool* pool) {
  if (options.max_sessions < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "SessionStore: max_sessions is ", options.max_sessions, ", not >= 1"));
  }
  return std::unique_ptr<SessionStore>(new SessionStore(options, clock, pool));
}

SessionStore::~SessionStore() {
  MutexLock lock(mutex_);
  TTT_CHECK(running_ == 0);
}

absl::StatusOr<SessionInfo> SessionStore::CreateSession(absl::string_view id,
                                                        absl::Duration ttl) {
  const std::string name = id.empty() ? RandomId() : std::string(id);
  TTT_RETURN_IF_ERROR(CheckId(name));
  TTT_RETURN_IF_ERROR(CheckTtl(ttl));
  const absl::Time now = clock_->Now();
  DropSomeExpired(now);
  Dropped dropped;
  MutexLock lock(mutex_);
  TTT_ASSIGN_OR_RETURN(const Session* const session,
                       Insert(name, ttl, now, &dropped));
  return session->info;
}

absl::StatusOr<SessionInfo> SessionStore::GetSession(absl::string_view id) {
  const absl::Time now = clock_->Now();
  Dropped dropped;
  MutexLock lock(mutex_);
  const Session* const session = Find(id, now, &dropped);
  if (session == nullptr) return NotFound(id);
  return session->info;
}

std::vector<SessionInfo> SessionStore::ListSessions(absl::string_view after,
                                                    int32_t limit) {
  const absl::Time now = clock_->Now();
  std::vector<SessionInfo> listed;
  MutexLock lock(mutex_);
  for (auto it = sessions_.upper_bound(after);
       it != sessions_.end() && static_cast<int64_t>(listed.size()) < limit;
       ++it) {
    if (!HasExpired(it->second.info, now)) listed.push_back(it->second.info);
  }
  return listed;
}

absl::Status SessionStore::DeleteSession(absl::string_view id) {
  const absl::Time now = clock_->Now();
  Dropped dropped;
  MutexLock lock(mutex_);
  const Session* const session = Find(id, now, &dropped);
  if (session == nullptr) return NotFound(id);
  if (session->info.running) return Busy(id);
  Drop(sessions_.find(id), &dropped);
  return absl::OkStatus();
}

absl::StatusOr<SessionInfo> SessionStore::ForkSession(
    absl::string_view id, absl::string_view new_id, absl::Duration ttl,
    std::optional<uint64_t> expected_revision) {
  const std::string name = new_id.empty() ? RandomId() : std::string(new_id);
  TTT_RETURN_IF_ERROR(CheckId(name));
  TTT_RETURN_IF_ERROR(CheckTtl(ttl));
  const absl::Time now = clock_->Now();
  DropSomeExpired(now);
  Dropped dropped;
  StateReservation reservation;
  MutexLock lock(mutex_);
  const Session* const parent = Find(id, now, &dropped);
  if (parent == nullptr) return NotFound(id);
  TTT_RETURN_IF_ERROR(
      CheckRevision(id, parent->info.revision, expected_revision));
  if (parent->state.has_value()) {
    TTT_ASSIGN_OR_RETURN(reservation, pool_->Reserve());
  }
  TTT_ASSIGN_OR_RETURN(Session* const fork, Insert(name, ttl, now, &dropped));
  fork->info.parent_id = parent->info.id;
  fork->info.revision = parent->info.revision;
  fork->info.tokens = parent->info.tokens;
  fork->info.digest = parent->info.digest;
  fork->info.state_bytes = parent->info.state_bytes;
  if (parent->state.has_value()) {
    fork->state = parent->state.Share();
    fork->reservation = std::move(reservation);
    ++with_state_;
  }
  return fork->info;
}

absl::StatusOr<SessionLease> SessionStore::Acquire(
    absl::string_view id, const AcquireOptions& options) {
  if (options.create_if_absent) TTT_RETURN_IF_ERROR(CheckId(id));
  const absl::Time now = clock_->Now();
  DropSomeExpired(now);
  Dropped dropped;
  SessionLease lease;
  MutexLock lock(mutex_);
  Session* session = Find(id, now, &dropped);
  lease.created_here_ = session == nullptr;
  if (lease.created_here_ && !options.create_if_absent) return NotFound(id);
  if (!lease.created_here_ && session->info.running) return Busy(id);
  const uint64_t revision = lease.created_here_ ? 0 : session->info.revision;
  TTT_RETURN_IF_ERROR(CheckRevision(id, revision, options.expected_revision));
  if (lease.created_here_ || !session->state.has_value()) {
    TTT_ASSIGN_OR_RETURN(lease.reservation_, pool_->Reserve());
  } else {
    lease.state_ = session->state.Share();
  }
  if (lease.created_here_) {
    TTT_ASSIGN_OR_RETURN(session,
                         Insert(id, absl::InfiniteDuration(), now, &dropped));
  }

  SessionInfo& info = session->info;
  expiries_.erase({info.expire_time(), info.id});
  info.running = true;
  ++running_;
  lease.store_ = this;
  lease.id_ = info.id;
  lease.revision_ = info.revision;
  lease.tokens_ = info.tokens;
  return lease;
}

absl::StatusOr<SessionView> SessionStore::View(absl::string_view id) {
  const absl::Time now = clock_->Now();
  Dropped dropped;
  MutexLock lock(mutex_);
  const Session* const session = Find(id, now, &dropped);
  if (session == nullptr) return NotFound(id);
  SessionView view;
  view.revision = session->info.revision;
  view.tokens = session->info.tokens;
  if (session->state.has_value()) view.state = session->state.Share();
  return view;
}

int64_t SessionStore::DropExpired() {
  const absl::Time now = clock_->Now();
  int64_t sum = 0;
  while (const int64_t count = DropSomeExpired(now)) sum += count;
  return sum;
}

SessionStore::Counts SessionStore::counts() const {
  MutexLock lock(mutex_);
  return {.sessions = static_cast<int64_t>(sessions_.size()),
          .running = running_,
          .with_state = with_state_};
}

uint64_t SessionStore::CommitTurn(const std::string& id, StateSlot state,
                                  StateReservation reservation, int64_t tokens,
                                  const StateDigest& digest) {
  const absl::Time now = clock_->Now();
  MutexLock lock(mutex_);
  Session& session = EndTurn(id, /*is_use=*/true, now)->second;
  std::swap(session.state, state);  // The old one goes with the argument.
  if (reservation.has_value()) {
    TTT_CHECK(!state.has_value() && !session.reservation.has_value());
    session.reservation = std::move(reservation);
    session.info.state_bytes = pool_->layout().slot_bytes;
    ++with_state_;
  }
  TTT_CHECK(session.reservation.has_value());
  session.info.tokens = tokens;
  session.info.digest = digest;
  return ++session.info.revision;
}

void SessionStore::BeginTurn(const std::string& id) {
  const absl::Time now = clock_->Now();
  MutexLock lock(mutex_);
  const Sessions::iterator session = sessions_.find(id);
  TTT_CHECK(session != sessions_.end());
  SessionInfo& info = session->second.info;
  TTT_CHECK(info.running);  // so that it has no place among the expiries
  info.last_used_time = std::max(info.last_used_time, now);
}

void SessionStore::AbandonTurn(const std::string& id, bool is_use,
                               bool delete_session) {
  const absl::Time now = clock_->Now();
  Dropped dropped;
  MutexLock lock(mutex_);
  const Sessions::iterator session = EndTurn(id, is_use, now);
  if (delete_session) Drop(session, &dropped);
}

SessionStore::Sessions::iterator SessionStore::EndTurn(const std::string& id,
                                                       bool is_use,
                                                       absl::Time now) {
  const Sessions::iterator session = sessions_.find(id);
  TTT_CHECK(session != sessions_.end());
  SessionInfo& info = session->second.info;
  TTT_CHECK(info.running);
  info.running = false;
  --running_;
  if (is_use) info.last_used_time = std::max(info.last_used_time, now);
  AddExpiry(info);
  return session;
}

SessionStore::Session* SessionStore::Find(absl::string_view id, absl::Time now,
                                          Dropped* dropped) {
  const Sessions::iterator found = sessions_.find(id);
  if (found == sessions_.end()) return nullptr;
  if (HasExpired(found->second.info, now)) {
    Drop(found, dropped);
    return nullptr;
  }
  return &found->second;
}

absl::StatusOr<SessionStore::Session*> SessionStore::Insert(
    absl::string_view id, absl::Duration ttl, absl::Time now,
    Dropped* dropped) {
  if (Find(id, now, dropped) != nullptr) {
    return Error(absl::StatusCode::kAlreadyExists, "SESSION_EXISTS",
                 absl::StrCat("session ", QuoteValue(id), " exists"));
  }
  if (static_cast<int64_t>(sessions_.size()) >= options_.max_sessions) {
    return RetryableError(absl::StatusCode::kResourceExhausted,
                          "TOO_MANY_SESSIONS",
                          absl::StrCat("there are ", sessions_.size(),
                                       " sessions, the most that may be"),
                          kFullRetry);
  }
  Session& session = sessions_[std::string(id)];
  session.info.id = std::string(id);
  session.info.create_time = now;
  session.info.last_used_time = now;
  session.info.ttl = ttl;
  AddExpiry(session.info);
  return &session;
}

void SessionStore::AddExpiry(const SessionInfo& info) {
  if (info.expire_time() != absl::InfiniteFuture()) {
    expiries_.emplace(info.expire_time(), info.id);
  }
}

void SessionStore::Drop(Sessions::iterator session, Dropped* dropped) {
  const SessionInfo& info = session->second.info;
  TTT_CHECK(!info.running);
  expiries_.erase({info.expire_time(), info.id});
  if (session->second.state.has_value()) --with_state_;
  dropped->push_back(sessions_.extract(session));
}

int64_t SessionStore::DropSomeExpired(absl::Time now) {
  Dropped dropped;
  MutexLock lock(mutex_);
  while (dropped.size() < kMostDropped && !expiries_.empty() &&
         expiries_.begin()->first <= now) {
    Drop(sessions_.find(expiries_.begin()->second), &dropped);
  }
  return dropped.size();
}

}  // namespace ttt
