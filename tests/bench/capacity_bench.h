// How many sessions the device holds, and that each keeps its own state.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace ttt {

struct CapacityOptions {
  std::string model_dir;
  int64_t sessions = 0;  // 0: as many as the device has room for
  bool json = false;
};

// Makes the sessions, each with a prompt of its own, touches them at random by
// decode steps of up to 64 rows with 64 scratch slots, and compares the digest
// of each with that of a second run, which reads the same tokens in other
// batches and other parts; and those of some with a run of them alone.
// INTERNAL: two differ. Errors of the device.
absl::Status RunCapacity(const CapacityOptions& options, Backend* backend);

}  // namespace ttt
