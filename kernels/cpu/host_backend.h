// What the CPU backends share: their memory, and ops made of others.
#pragma once

#include <cstring>
#include <memory>
#include <utility>

#include "kernels/backend.h"
#include "kernels/cpu/causal_conv.h"
#include "kernels/cpu/host_memory.h"

namespace ttt {

class HostBackend : public Backend {
 public:
  const DeviceInfo& info() const override { return info_; }
  DType operand_type() const override {
    return info_.precision == Precision::kFloat32 ? DType::kFloat32
                                                  : DType::kBFloat16;
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) override {
    return AllocateHostMemory(size_bytes);
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size_bytes) override {
    return Copy(device, host, size_bytes);
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size_bytes) override {
    return Copy(host, device, size_bytes);
  }
  absl::Status CopyOnDevice(void* to, const void* from,
                            int64_t size_bytes) override {
    return Copy(to, from, size_bytes);
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status ConvNorm(const ConvNormArgs& args) override;

 protected:
  explicit HostBackend(DeviceInfo info) : info_(std::move(info)) {}

 private:
  // `args` are in range.
  virtual void CausalConv(const CausalConvArgs& args) = 0;
  static absl::Status Copy(void* to, const void* from, int64_t size_bytes);

  const DeviceInfo info_;
};

}  // namespace ttt
