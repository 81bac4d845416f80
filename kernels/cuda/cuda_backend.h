// An NVIDIA GPU as a device. Free of CUDA: a build without the toolkit has the
// same functions.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

// The GPU number `ordinal`.
// UNIMPLEMENTED: not in this build. UNAVAILABLE: no such device, or no driver.
// INVALID_ARGUMENT: ordinal < 0.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(int32_t ordinal,
                                                           Precision precision);

}  // namespace ttt
