// Copies between device and host that run beside the ops.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_memory.h"

namespace ttt {

// A stream of copies, which are counted from 1 and end in that order. One for
// each direction, as the device has an engine for each. Belongs to one thread.
class CopyQueue {
 public:
  static absl::StatusOr<CopyQueue> Create();
  CopyQueue(CopyQueue&& other) noexcept;
  CopyQueue& operator=(CopyQueue&&) = delete;
  // What is under way goes on to its end.
  ~CopyQueue();

  // Queues a copy that begins once `ops` has passed all that it holds now.
  // Gives its number.
  absl::StatusOr<int64_t> Start(void* to, const void* from, int64_t size_bytes,
                                cudaMemcpyKind kind, cudaStream_t ops);
  absl::StatusOr<bool> HasEnded(int64_t number);
  // Returns once it has ended.
  absl::Status Wait(int64_t number);
  // What `ops` is given from now on begins once it has ended.
  absl::Status HaveWait(int64_t number, cudaStream_t ops);

 private:
  CopyQueue(CudaStream stream, cudaEvent_t ops_passed)
      : stream_(std::move(stream)), ops_passed_(ops_passed) {}

  // Of a copy that has not been seen to end.
  cudaEvent_t EventOf(int64_t number) const {
    return under_way_[number - ended_ - 1];
  }
  // The oldest copies up to `number` have ended.
  void Retire(int64_t number);

  CudaStream stream_;
  cudaEvent_t ops_passed_;  // null: moved from
  int64_t ended_ = 0;       // as many as were seen to end
  std::deque<cudaEvent_t> under_way_;
  std::vector<cudaEvent_t> spare_;
};

}  // namespace ttt
