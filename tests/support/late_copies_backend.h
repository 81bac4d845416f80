#pragma once

#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "server/base/check.h"
#include "tests/support/forwarding_backend.h"

namespace ttt {

// Copies beside the ops of another backend of host memory that are put off: one
// is made when it is waited for, or when the test says so, as late as a device
// may make it.
class LateCopiesBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  absl::StatusOr<DeviceCopy> StartCopyToHost(void* host, const void* device,
                                             int64_t size) override {
    return Start(true, [=, this] { return CopyToHost(host, device, size); });
  }
  absl::StatusOr<DeviceCopy> StartCopyToDevice(void* device, const void* host,
                                               int64_t size) override {
    return Start(false, [=, this] { return CopyToDevice(device, host, size); });
  }
  absl::StatusOr<bool> HasEnded(const DeviceCopy& copy) override {
    return copy.number <= of(copy).ended;
  }
  absl::Status Wait(const DeviceCopy& copy) override { return Make(copy); }
  absl::Status QueueAfter(const DeviceCopy& copy) override {
    return Make(copy);
  }

  // Makes all of a direction.
  void MakeAll(bool is_to_host) {
    const auto count = static_cast<int64_t>(queues_[is_to_host].copies.size());
    TTT_CHECK(Make({is_to_host, count}).ok());
  }
  int64_t under_way(bool is_to_host) const {
    const Queue& queue = queues_[is_to_host];
    return static_cast<int64_t>(queue.copies.size()) - queue.ended;
  }

 private:
  struct Queue {
    std::vector<std::function<absl::Status()>> copies;
    int64_t ended = 0;
  };

  const Queue& of(const DeviceCopy& copy) const {
    return queues_[copy.is_to_host];
  }
  DeviceCopy Start(bool is_to_host, std::function<absl::Status()> make) {
    queues_[is_to_host].copies.push_back(std::move(make));
    return {is_to_host,
            static_cast<int64_t>(queues_[is_to_host].copies.size())};
  }
  absl::Status Make(const DeviceCopy& copy) {
    Queue& queue = queues_[copy.is_to_host];
    absl::Status status;
    while (queue.ended < copy.number) {
      status.Update(queue.copies[queue.ended++]());
    }
    return status;
  }

  Queue queues_[2];
};

}  // namespace ttt
