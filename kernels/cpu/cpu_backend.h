// The CPU as a device.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

struct CpuBackendOptions {
  // kBFloat16 needs AVX512-BF16 or AMX.
  Precision precision = Precision::kFloat32;
  int32_t num_threads = 0;  // 0: one a core that the process may use
  // The plain loops of the specification instead of the fast ops; for tests.
  bool reference = false;
};

// True if this CPU multiplies bfloat16 natively.
bool CpuHasBFloat16();

// INVALID_ARGUMENT: an option out of range. UNIMPLEMENTED: bfloat16 on a CPU
// without it.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options);

}  // namespace ttt
