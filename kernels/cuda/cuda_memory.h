// Memory and streams of a CUDA device, given back by their owners.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

// Of the current device, zeroed once `stream` has passed this call.
// RESOURCE_EXHAUSTED. INVALID_ARGUMENT: size_bytes < 0.
absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateCudaMemory(
    int64_t size_bytes, cudaStream_t stream);

// A stream of the device that was current at its creation. Does not wait for
// the legacy default stream.
class CudaStream {
 public:
  static absl::StatusOr<CudaStream> Create();
  CudaStream(CudaStream&& other) noexcept;
  CudaStream& operator=(CudaStream&&) = delete;
  ~CudaStream();

  cudaStream_t get() const { return stream_; }

 private:
  explicit CudaStream(cudaStream_t stream) : stream_(stream) {}

  cudaStream_t stream_;  // null: moved from
};

}  // namespace ttt
