// Memory and streams of a CUDA device, given back by their owners.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

// Of the current device, zeroed once `stream` has passed this call.
// RESOURCE_EXHAUSTED. INVALID_ARGUMENT: size_bytes < 0.
absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateCudaMemory(
    int64_t size_bytes, cudaStream_t stream);

// Page-locked, of the host. RESOURCE_EXHAUSTED. INVALID_ARGUMENT: size_bytes <
// 0.
absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocatePinnedMemory(
    int64_t size_bytes);

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

// Page-locked memory that copies of `stream` go to.
class PinnedReadback : public Readback {
 public:
  // `stream` and `copied_bytes`, which counts, must outlive it.
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<PinnedReadback>> Create(
      int64_t size_bytes, cudaStream_t stream,
      std::atomic<int64_t>* copied_bytes);
  PinnedReadback(const PinnedReadback&) = delete;
  PinnedReadback& operator=(const PinnedReadback&) = delete;
  // Waits for the copies.
  ~PinnedReadback() override;

  std::byte* data() const override { return memory_->data(); }
  int64_t size_bytes() const override { return memory_->size_bytes(); }
  absl::Status Copy(int64_t offset_bytes, const void* device,
                    int64_t size_bytes) override;
  // Does not sleep, as what it waits for is near.
  absl::Status Wait() override;

 private:
  PinnedReadback(std::unique_ptr<DeviceBuffer> memory, cudaStream_t stream,
                 std::atomic<int64_t>* copied_bytes)
      : memory_(std::move(memory)),
        stream_(stream),
        copied_bytes_(copied_bytes) {}

  const std::unique_ptr<DeviceBuffer> memory_;
  const cudaStream_t stream_;
  std::atomic<int64_t>* const copied_bytes_;
  cudaEvent_t copied_ = nullptr;  // when the stream has passed the last copy
};

// Page-locked memory through which small copies to the device go, so that the
// host need not wait for them.
class PinnedStaging {
 public:
  static absl::StatusOr<PinnedStaging> Create();
  PinnedStaging(PinnedStaging&& other) noexcept;
  PinnedStaging& operator=(PinnedStaging&&) = delete;
  ~PinnedStaging();

  static constexpr int64_t max_bytes() { return kHalfBytes; }
  static constexpr int64_t bytes() { return 2 * kHalfBytes; }
  // `host` may change once it returns; size_bytes in (0, max_bytes()]. Waits
  // for a copy of before only if its place is needed.
  absl::Status Copy(void* device, const void* host, int64_t size_bytes,
                    cudaStream_t stream);

 private:
  static constexpr int64_t kHalfBytes = int64_t{1} << 20;

  PinnedStaging() = default;

  std::byte* memory_ = nullptr;  // two halves, filled in turn
  cudaEvent_t left_[2] = {};     // when the stream has passed a half's copies
  int half_ = 0;
  int64_t used_bytes_ = 0;  // of the half
};

}  // namespace ttt
