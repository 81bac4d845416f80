// How fast states leave the device for host memory, and come back.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace ttt {

struct ParkOptions {
  std::string model_dir;
  int64_t states = 64;  // that are parked at once, >= 1
  int32_t rounds = 5;   // >= 1; medians are reported
  bool json = false;
};

// Parks and wakes states one way at a time, both ways at once, and while steps
// run, beside one large copy through page-locked memory in the same rounds.
// Every state is compared by digest. INTERNAL: one is another. Errors of the
// device.
absl::Status RunPark(const ParkOptions& options, Backend* backend);

}  // namespace ttt
