// What is read of states: queued behind the ops before it, waited for later.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/session/state_layout.h"
#include "server/session/state_pool.h"

namespace ttt {

// Digests of states. Must not outlive the backend.
class StateDigests {
 public:
  // Of the states in `slots`, whose sessions hold `tokens`, under the
  // fingerprints of the model and of the backend. Errors of the backend.
  static absl::StatusOr<std::unique_ptr<StateDigests>> Queue(
      Backend* backend, const StatePool& pool,
      const std::string& model_fingerprint, absl::Span<const int32_t> slots,
      absl::Span<const int64_t> tokens);

  // Returns when they are there, in the order of the slots; no value for a
  // state that holds a number that is not finite. Once.
  absl::StatusOr<std::vector<std::optional<StateDigest>>> Finish();

 private:
  StateDigests() = default;

  std::vector<StateDigest> digests_;
  std::vector<uint8_t> finite_;
  std::unique_ptr<QueuedDigests> queued_;  // fills these; null: of no slot
};

// The last ids that a session has read. Must not outlive the backend.
class LastTokens {
 public:
  // Of the session of `tokens` ids whose state is in `slot`. Takes a readback
  // out of `spares` and gives it back; they must outlive it. Errors of the
  // backend.
  static absl::StatusOr<std::unique_ptr<LastTokens>> Queue(
      Backend* backend, const StatePool& pool, int32_t slot, int64_t tokens,
      std::vector<std::unique_ptr<Readback>>* spares);
  ~LastTokens();
  LastTokens(const LastTokens&) = delete;
  LastTokens& operator=(const LastTokens&) = delete;

  // Returns when they are there: at most kTokenRingSize, oldest first. Once.
  absl::StatusOr<std::vector<int32_t>> Finish();

 private:
  LastTokens(int64_t tokens, std::vector<std::unique_ptr<Readback>>* spares)
      : tokens_(tokens), spares_(*spares) {}

  const int64_t tokens_;
  std::vector<std::unique_ptr<Readback>>& spares_;
  std::unique_ptr<Readback> ring_;
};

}  // namespace ttt
