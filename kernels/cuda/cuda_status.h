// Errors of the CUDA run time as Status.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ttt {

// OK, or: RESOURCE_EXHAUSTED for memory, UNAVAILABLE for a device or driver
// that is not there or that is lost to this process (CUDA calls such errors
// sticky: each later call returns them too), INTERNAL for the rest. The message
// holds `what` and CUDA's own text.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);

}  // namespace ttt
