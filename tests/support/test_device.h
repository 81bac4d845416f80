// The devices that tests run on: the CPU's two backends, and the first GPU.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace ttt {

enum class TestDevice { kReference, kCpu, kCuda };

struct TestBackendOptions {
  TestDevice device = TestDevice::kCpu;
  Precision precision = Precision::kFloat32;
  int32_t num_threads = 0;  // of the CPU; 0: one a core
};

inline std::unique_ptr<Backend> CreateTestBackend(
    const TestBackendOptions& options) {
  if (options.device == TestDevice::kCuda) {
    return CreateCudaBackend(0, options.precision).value();
  }
  return CreateCpuBackend(
             {.precision = options.precision,
              .num_threads = options.num_threads,
              .reference = options.device == TestDevice::kReference})
      .value();
}

// Whether this machine has a GPU that the build is for.
inline bool HasCuda() {
  static const bool has_cuda = CreateCudaBackend(0, Precision::kFloat32).ok();
  return has_cuda;
}

// Tests of kCuda have "Cuda" in their names, by which `ctest -L gpu` finds
// them.
inline std::vector<TestDevice> TestDevices() {
  std::vector<TestDevice> devices = {TestDevice::kReference, TestDevice::kCpu};
  if (HasCuda()) devices.push_back(TestDevice::kCuda);
  return devices;
}
inline std::string TestDeviceName(TestDevice device) {
  switch (device) {
    case TestDevice::kReference:
      return "Reference";
    case TestDevice::kCpu:
      return "Cpu";
    case TestDevice::kCuda:
      return "Cuda";
  }
  return "";
}
// Natively: a CPU may lack it.
inline bool HasBFloat16(TestDevice device) {
  return device == TestDevice::kCuda || CpuHasBFloat16();
}

}  // namespace ttt
