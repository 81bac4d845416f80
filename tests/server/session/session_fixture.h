#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/session/session_store.h"
#include "server/session/state_pool.h"
#include "tests/support/fake_backend.h"
#include "tests/support/fake_clock.h"

namespace ttt {

inline constexpr int64_t kSlotBytes = 128;

inline StateDigest DigestOf(uint8_t byte) {
  StateDigest digest;
  digest.fill(byte);
  return digest;
}

// A store over a pool, and the turns that an engine would run on it.
struct SessionFixture {
  SessionFixture(int64_t session_slots, int32_t scratch_slots,
                 const SessionStore::Options& options) {
    StateLayout layout;
    layout.Add({"w1", PlaneRole::kFastWeights, {kSlotBytes / 4}});
    pool = StatePool::Create(
               {.session_slots = session_slots, .scratch_slots = scratch_slots},
               std::move(layout), &backend)
               .value();
    store = SessionStore::Create(options, &clock, pool.get()).value();
  }

  absl::StatusOr<SessionLease> Acquire(absl::string_view id) {
    return store->Acquire(id, {});
  }
  absl::StatusOr<SessionLease> AcquireOrCreate(absl::string_view id) {
    return store->Acquire(id, {.create_if_absent = true});
  }
  // One turn that reads `tokens` and leaves a state with `digest`.
  absl::Status Run(absl::string_view id, int64_t tokens, uint8_t digest = 1) {
    absl::StatusOr<SessionLease> lease = AcquireOrCreate(id);
    if (!lease.ok()) return lease.status();
    absl::StatusOr<StateSlot> slot = pool->AcquireSlot();
    if (!slot.ok()) return slot.status();
    const int64_t sum = lease->tokens() + tokens;
    lease->Commit(*std::move(slot), sum, DigestOf(digest));
    return absl::OkStatus();
  }
  // The slot of a session's committed state, -1 if it is empty.
  int32_t SlotOf(absl::string_view id) {
    return store->View(id).value().state.index();
  }
  std::vector<std::string> List(absl::string_view after, int32_t limit) {
    std::vector<std::string> ids;
    for (const SessionInfo& info : store->ListSessions(after, limit)) {
      ids.push_back(info.id);
    }
    return ids;
  }

  FakeClock clock;
  FakeBackend backend;
  std::unique_ptr<StatePool> pool;
  std::unique_ptr<SessionStore> store;
};

}  // namespace ttt
