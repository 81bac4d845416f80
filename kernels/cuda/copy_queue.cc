#include "kernels/cuda/copy_queue.h"

#include <utility>

#include "kernels/cuda/cuda_status.h"

namespace ttt {
namespace {

absl::StatusOr<cudaEvent_t> CreateEvent() {
  cudaEvent_t event = nullptr;
  if (absl::Status status = CudaStatus(
          cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
      !status.ok()) {
    return status;
  }
  return event;
}

}  // namespace

absl::StatusOr<CopyQueue> CopyQueue::Create() {
  absl::StatusOr<CudaStream> stream = CudaStream::Create();
  if (!stream.ok()) return stream.status();
  const absl::StatusOr<cudaEvent_t> event = CreateEvent();
  if (!event.ok()) return event.status();
  return CopyQueue(*std::move(stream), *event);
}

CopyQueue::CopyQueue(CopyQueue&& other) noexcept
    : stream_(std::move(other.stream_)),
      ops_passed_(std::exchange(other.ops_passed_, nullptr)),
      ended_(other.ended_),
      under_way_(std::exchange(other.under_way_, {})),
      spare_(std::exchange(other.spare_, {})) {}

CopyQueue::~CopyQueue() {
  for (cudaEvent_t event : under_way_) {
    static_cast<void>(cudaEventDestroy(event));
  }
  for (cudaEvent_t event : spare_) static_cast<void>(cudaEventDestroy(event));
  if (ops_passed_ != nullptr) {
    static_cast<void>(cudaEventDestroy(ops_passed_));
  }
}

absl::StatusOr<int64_t> CopyQueue::Start(void* to, const void* from,
                                         int64_t size_bytes,
                                         cudaMemcpyKind kind,
                                         cudaStream_t ops) {
  if (spare_.empty()) {
    const absl::StatusOr<cudaEvent_t> event = CreateEvent();
    if (!event.ok()) return event.status();
    spare_.push_back(*event);
  }
  const cudaEvent_t event = spare_.back();
  // None is queued after one that failed.
  cudaError_t error = cudaEventRecord(ops_passed_, ops);
  if (error == cudaSuccess) {
    error = cudaStreamWaitEvent(stream_.get(), ops_passed_, 0);
  }
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(to, from, size_bytes, kind, stream_.get());
  }
  if (error == cudaSuccess) error = cudaEventRecord(event, stream_.get());
  if (absl::Status status = CudaStatus(error, "copy beside the ops");
      !status.ok()) {
    return status;
  }
  spare_.pop_back();
  under_way_.push_back(event);
  return ended_ + static_cast<int64_t>(under_way_.size());
}

absl::StatusOr<bool> CopyQueue::HasEnded(int64_t number) {
  if (number <= ended_) return true;
  const cudaError_t error = cudaEventQuery(EventOf(number));
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // No error, and not for the next launch to tell.
    return false;
  }
  if (absl::Status status = CudaStatus(error, "copy beside the ops");
      !status.ok()) {
    return status;
  }
  Retire(number);
  return true;
}

absl::Status CopyQueue::Wait(int64_t number) {
  if (number <= ended_) return absl::OkStatus();
  if (absl::Status status = CudaStatus(cudaEventSynchronize(EventOf(number)),
                                       "copy beside the ops");
      !status.ok()) {
    return status;
  }
  Retire(number);
  return absl::OkStatus();
}

absl::Status CopyQueue::HaveWait(int64_t number, cudaStream_t ops) {
  const absl::StatusOr<bool> has_ended = HasEnded(number);
  if (!has_ended.ok()) return has_ended.status();
  if (*has_ended) return absl::OkStatus();
  return CudaStatus(cudaStreamWaitEvent(ops, EventOf(number), 0),
                    "copy beside the ops");
}

void CopyQueue::Retire(int64_t number) {
  for (; ended_ < number; ++ended_) {
    spare_.push_back(under_way_.front());
    under_way_.pop_front();
  }
}

}  // namespace ttt
