// Memory of the CPU device.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

// Zeroed and 64-byte aligned; large buffers lie on large pages where the system
// has them, and are taken at once. INVALID_ARGUMENT: size_bytes < 0.
// RESOURCE_EXHAUSTED: not that much memory.
absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHostMemory(
    int64_t size_bytes);

}  // namespace ttt
