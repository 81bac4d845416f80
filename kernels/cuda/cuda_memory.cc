#include "kernels/cuda/cuda_memory.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/small_copy.h"

namespace ttt {
namespace {

class CudaBuffer : public DeviceBuffer {
 public:
  CudaBuffer(void* data, int64_t size_bytes)
      : data_(static_cast<std::byte*>(data)), size_bytes_(size_bytes) {}
  // Waits for the device. Whoever asked for the work hears of its errors.
  ~CudaBuffer() override { static_cast<void>(cudaFree(data_)); }

  std::byte* data() const override { return data_; }
  int64_t size_bytes() const override { return size_bytes_; }

 private:
  std::byte* const data_;
  const int64_t size_bytes_;
};

class PinnedBuffer : public DeviceBuffer {
 public:
  PinnedBuffer(void* data, int64_t size_bytes)
      : data_(static_cast<std::byte*>(data)), size_bytes_(size_bytes) {}
  ~PinnedBuffer() override { static_cast<void>(cudaFreeHost(data_)); }

  std::byte* data() const override { return data_; }
  int64_t size_bytes() const override { return size_bytes_; }

 private:
  std::byte* const data_;
  const int64_t size_bytes_;
};

absl::Status CheckSize(int64_t size_bytes) {
  if (size_bytes >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("Allocate: size_bytes is ", size_bytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocatePinnedMemory(
    int64_t size_bytes) {
  if (absl::Status status = CheckSize(size_bytes); !status.ok()) return status;
  void* data = nullptr;
  if (const cudaError_t error = cudaHostAlloc(
          &data, std::max<int64_t>(size_bytes, 1), cudaHostAllocDefault);
      error != cudaSuccess) {
    cudaGetLastError();  // It is told here, and not by the next launch.
    return CudaStatus(
        error, absl::StrCat("Allocate ", size_bytes, " page-locked bytes"));
  }
  return std::make_unique<PinnedBuffer>(data, size_bytes);
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateCudaMemory(
    int64_t size_bytes, cudaStream_t stream) {
  if (absl::Status status = CheckSize(size_bytes); !status.ok()) return status;
  void* data = nullptr;
  const int64_t taken_bytes = std::max<int64_t>(size_bytes, 1);
  if (const cudaError_t error = cudaMalloc(&data, taken_bytes);
      error != cudaSuccess) {
    cudaGetLastError();  // It is told here, and not by the next launch.
    return CudaStatus(error, absl::StrCat("Allocate ", size_bytes, " bytes"));
  }
  auto buffer = std::make_unique<CudaBuffer>(data, size_bytes);
  if (absl::Status status =
          CudaStatus(cudaMemsetAsync(data, 0, taken_bytes, stream), "Allocate");
      !status.ok()) {
    return status;
  }
  return buffer;
}

absl::StatusOr<CudaStream> CudaStream::Create() {
  cudaStream_t stream = nullptr;
  if (absl::Status status = CudaStatus(
          cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
      !status.ok()) {
    return status;
  }
  return CudaStream(stream);
}

CudaStream::CudaStream(CudaStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)) {}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
}

absl::StatusOr<std::unique_ptr<PinnedReadback>> PinnedReadback::Create(
    int64_t size_bytes, cudaStream_t stream,
    std::atomic<int64_t>* copied_bytes) {
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> memory =
      AllocatePinnedMemory(size_bytes);
  if (!memory.ok()) return memory.status();
  std::unique_ptr<PinnedReadback> readback(
      new PinnedReadback(*std::move(memory), stream, copied_bytes));
  if (absl::Status status = CudaStatus(
          cudaEventCreateWithFlags(&readback->copied_, cudaEventDisableTiming),
          "event");
      !status.ok()) {
    return status;
  }
  return readback;
}

PinnedReadback::~PinnedReadback() {
  if (copied_ == nullptr) return;
  static_cast<void>(cudaEventSynchronize(copied_));
  static_cast<void>(cudaEventDestroy(copied_));
}

absl::Status PinnedReadback::Copy(int64_t offset_bytes, const void* device,
                                  int64_t size_bytes) {
  if (offset_bytes < 0 || size_bytes < 0 ||
      size_bytes > memory_->size_bytes() - offset_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("Readback: ", size_bytes, " bytes at ", offset_bytes,
                     " do not fit in ", memory_->size_bytes()));
  }
  *copied_bytes_ += size_bytes;
  if (absl::Status status = CudaStatus(
          QueueCopyToHost(data() + offset_bytes, device, size_bytes, stream_),
          "Readback");
      !status.ok()) {
    return status;
  }
  return CudaStatus(cudaEventRecord(copied_, stream_), "Readback");
}

absl::Status PinnedReadback::Wait() {
  cudaError_t error;
  // At once for an event that was never recorded.
  while ((error = cudaEventQuery(copied_)) == cudaErrorNotReady) {
    cudaGetLastError();  // It is no error, and not for the next launch to tell.
    std::this_thread::yield();
  }
  return CudaStatus(error, "Readback");
}

absl::StatusOr<PinnedStaging> PinnedStaging::Create() {
  PinnedStaging staging;
  void* memory = nullptr;
  if (absl::Status status =
          CudaStatus(cudaHostAlloc(&memory, bytes(), cudaHostAllocDefault),
                     "page-locked memory");
      !status.ok()) {
    return status;
  }
  staging.memory_ = static_cast<std::byte*>(memory);
  for (cudaEvent_t& event : staging.left_) {
    if (absl::Status status = CudaStatus(
            cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
        !status.ok()) {
      return status;
    }
  }
  return staging;
}

PinnedStaging::PinnedStaging(PinnedStaging&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      left_{std::exchange(other.left_[0], nullptr),
            std::exchange(other.left_[1], nullptr)},
      half_(other.half_),
      used_bytes_(other.used_bytes_) {}

PinnedStaging::~PinnedStaging() {
  for (cudaEvent_t event : left_) {
    if (event != nullptr) static_cast<void>(cudaEventDestroy(event));
  }
  if (memory_ != nullptr) static_cast<void>(cudaFreeHost(memory_));
}

absl::Status PinnedStaging::Copy(void* device, const void* host,
                                 int64_t size_bytes, cudaStream_t stream) {
  constexpr int64_t kAlignment = 64;
  if (used_bytes_ + size_bytes > kHalfBytes) {
    if (absl::Status status =
            CudaStatus(cudaEventRecord(left_[half_], stream), "staging");
        !status.ok()) {
      return status;
    }
    half_ = 1 - half_;
    used_bytes_ = 0;
    // At once for an event that was never recorded.
    if (absl::Status status =
            CudaStatus(cudaEventSynchronize(left_[half_]), "staging");
        !status.ok()) {
      return status;
    }
  }
  std::byte* const staged = memory_ + half_ * kHalfBytes + used_bytes_;
  used_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::memcpy(staged, host, size_bytes);
  return CudaStatus(QueueCopyFromHost(device, staged, size_bytes, stream),
                    "CopyToDevice");
}

}  // namespace ttt
