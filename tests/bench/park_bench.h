// How fast states leave the device for host memory, and come back.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "tests/bench/resident_sessions.h"

namespace ttt {

struct ParkOptions {
  int64_t states = 64;  // that are parked at once, >= 2
  int32_t rounds = 5;   // >= 1; medians are reported
  bool json = false;
};

inline constexpr int32_t kParkStepRows = 64;  // of a step that runs beside

// Parks and wakes states one way at a time, both ways at once, and while steps
// run, beside one large copy through page-locked memory in the same rounds.
// Each state is compared by digest. `sessions` has room for those and for
// kParkStepRows more, with as many scratch slots. INVALID_ARGUMENT: it has not.
// INTERNAL: a state is another. Errors of the device.
absl::Status RunPark(const ParkOptions& options, ResidentSessions* sessions,
                     Backend* backend);

}  // namespace ttt
