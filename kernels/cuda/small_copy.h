// Copies of few bytes between the device and page-locked memory of the host.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ttt {

// Queues a copy of `size_bytes` >= 0. Few bytes, in sixteens and so aligned,
// are moved by a kernel, which follows those before it sooner than a copy
// engine does.
cudaError_t QueueCopyFromHost(void* device, const void* host,
                              int64_t size_bytes, cudaStream_t stream);
cudaError_t QueueCopyToHost(void* host, const void* device, int64_t size_bytes,
                            cudaStream_t stream);

}  // namespace ttt
