// Launchers of the ops.
//
// Each takes valid args (validate.h) whose arrays are contiguous, row-major,
// 16-byte aligned device memory that lives until `stream` has passed the call.
// It queues work on `stream` and returns what CUDA said of the launch: no
// allocation, no synchronization, no copy to the host.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/op_args.h"

namespace ttt {

// Bound by memory: reads 4 and writes 4 (bfloat16: 2) bytes for each of
// num_rows * hidden_size elements. Sums in float32; row results depend on
// hidden_size alone.
cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);

}  // namespace ttt
