// Launches that may begin while the kernel before them in the stream ends
// (programmatic dependent launch).
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace ttt {

// In a kernel that was launched by LaunchOverlapped: lets the next one begin,
// once a thread of each block of this one has called it, or the block has
// ended.
__device__ inline void LetNextKernelBegin() {
  cudaTriggerProgrammaticLaunchCompletion();
}

// The same, before the kernel touches memory that kernels before it wrote or
// read: waits for these. The next one waits in turn. Weights, StepRows and what
// of the sessions' state it alone writes in a step a kernel may read before,
// the last two not through the L1 cache: what else writes these, copies, the
// step before and EndSequences, comes before EmbedTokens, which lets no kernel
// begin until it has waited for it. Elsewhere a kernel must stand between that
// waits before it lets the next one begin, or that is not of LaunchOverlapped.
__device__ inline void WaitForKernelsBefore() {
  LetNextKernelBegin();
  cudaGridDependencySynchronize();
}

// The wait alone, where the kernel lets the next one begin at a better time.
__device__ inline void OnlyWaitForKernelsBefore() {
  cudaGridDependencySynchronize();
}

// In clusters of so many blocks, by which the grid divides; 1: none. All
// kernels want the same share of a multiprocessor's memory for shared memory,
// the most: one that wants another can only begin there when all others have
// left.
template <typename... Params, typename... Args>
cudaError_t LaunchClusters(void (*kernel)(Params...), dim3 grid, dim3 cluster,
                           int32_t threads, int32_t shared_bytes,
                           cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {cluster.x, cluster.y, cluster.z};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 3 : 2;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

template <typename... Params, typename... Args>
cudaError_t LaunchOverlapped(void (*kernel)(Params...), dim3 grid,
                             int32_t threads, int32_t shared_bytes,
                             cudaStream_t stream, Args&&... args) {
  return LaunchClusters(kernel, grid, dim3(1), threads, shared_bytes, stream,
                        std::forward<Args>(args)...);
}

}  // namespace ttt
