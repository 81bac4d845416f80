// How many sessions the device holds, and that each keeps its own state.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "tests/bench/resident_sessions.h"

namespace ttt {

inline constexpr int32_t kMostPromptTokens = 40;
inline constexpr int32_t kDecodeRows = 64;

// Gives each session a prompt of its own, touches them at random by decode
// steps of up to kDecodeRows rows, and compares the digest of each with that of
// a second run, which reads the same tokens in other batches and other parts;
// and those of some with a run of them alone. `sessions` has as many scratch
// slots, and steps of kDecodeRows prompts. INTERNAL: two differ. Errors of the
// device.
absl::Status RunCapacity(bool json, ResidentSessions& sessions,
                         Backend* backend);

}  // namespace ttt
