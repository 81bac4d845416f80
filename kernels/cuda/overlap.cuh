// Launches that may begin while the kernel before them in the stream ends
// (programmatic dependent launch).
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace ttt {

// In a kernel that was launched by LaunchOverlapped: lets the next one begin,
// once all blocks of this one have.
__device__ inline void LetNextKernelBegin() {
  cudaTriggerProgrammaticLaunchCompletion();
}

// The same, before the kernel touches memory that kernels before it wrote or
// read: waits for these. The next one waits in turn.
__device__ inline void WaitForKernelsBefore() {
  LetNextKernelBegin();
  cudaGridDependencySynchronize();
}

template <typename... Params, typename... Args>
cudaError_t LaunchOverlapped(void (*kernel)(Params...), dim3 grid,
                             int32_t threads, int32_t shared_bytes,
                             cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace ttt
