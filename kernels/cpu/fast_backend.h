// The fast CPU backend: oneDNN's products and the vector ops of the best
// instruction set, over all threads.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_features.h"

namespace ttt {

// num_threads >= 1; `isa` is one that the CPU has. INTERNAL: oneDNN failed.
// RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<Backend>> CreateFastBackend(Precision precision,
                                                           int32_t num_threads,
                                                           Isa isa);

}  // namespace ttt
