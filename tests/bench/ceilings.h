// How fast the machine is at what the ops are made of. Measured next to them,
// because a shared machine has no fixed speed.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

struct Ceilings {
  double read_bytes_per_second = 0;
  double fp32_flops = 0;  // a second, large matrix product
  double bf16_flops = 0;  // 0: the device does not multiply bfloat16

  double flops(DType type) const {
    return type == DType::kFloat32 ? fp32_flops : bf16_flops;
  }
};

// Measures one device. A measurement takes some tenths of a second; the best of
// several is the ceiling, as whatever else runs on the machine only slows.
class CeilingMeter {
 public:
  virtual ~CeilingMeter() = default;
  // Measures once more. Errors of the device.
  virtual absl::Status Measure() = 0;
  const Ceilings& best() const { return best_; }

 protected:
  // Takes over what is higher.
  void Add(const Ceilings& measured);

 private:
  Ceilings best_;
};

// Of the CPU: `num_threads` threads read 512 MiB, and as many of oneDNN's
// multiply matrices of about 2048 x 2048. INTERNAL: oneDNN failed.
absl::StatusOr<std::unique_ptr<CeilingMeter>> CreateCpuCeilingMeter(
    int32_t num_threads);

// Of any device, through its own ops: CopyOnDevice (what it reads and writes
// counts as read) and Gemm, in the type of its operands. `backend` must outlive
// it. Errors of the device.
absl::StatusOr<std::unique_ptr<CeilingMeter>> CreateDeviceCeilingMeter(
    Backend* backend);

}  // namespace ttt
