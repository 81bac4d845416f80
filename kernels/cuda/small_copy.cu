#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/small_copy.h"

namespace ttt {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kUnitBytes = sizeof(uint4);
// At most this is few: a step of 256 sequences that decode is half of it, a
// launch of four steps of up to 150 is all of it.
constexpr int64_t kFewBytes = 64 << 10;

// A thread owns a unit. What the host wrote is read past all caches, and while
// the kernels before still run.
template <bool kFromHost>
__global__ void CopyUnitsKernel(uint4* to, const uint4* from,
                                int64_t num_units) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint4 value = {};
  if (kFromHost && unit < num_units) value = __ldcv(from + unit);
  WaitForKernelsBefore();
  if (unit >= num_units) return;
  if (!kFromHost) value = from[unit];
  to[unit] = value;
}

bool IsOfUnits(const void* to, const void* from, int64_t size_bytes) {
  const uint64_t bits = reinterpret_cast<uint64_t>(to) |
                        reinterpret_cast<uint64_t>(from) |
                        static_cast<uint64_t>(size_bytes);
  return bits % kUnitBytes == 0;
}

template <bool kFromHost>
cudaError_t QueueCopy(void* to, const void* from, int64_t size_bytes,
                      cudaStream_t stream) {
  if (size_bytes == 0) return cudaSuccess;
  if (size_bytes > kFewBytes || !IsOfUnits(to, from, size_bytes)) {
    return cudaMemcpyAsync(
        to, from, size_bytes,
        kFromHost ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, stream);
  }
  const int64_t num_units = size_bytes / kUnitBytes;
  const dim3 grid(static_cast<uint32_t>((num_units + kThreads - 1) / kThreads));
  return LaunchOverlapped(CopyUnitsKernel<kFromHost>, grid, kThreads, 0, stream,
                          static_cast<uint4*>(to),
                          static_cast<const uint4*>(from), num_units);
}

}  // namespace

cudaError_t QueueCopyFromHost(void* device, const void* host,
                              int64_t size_bytes, cudaStream_t stream) {
  return QueueCopy<true>(device, host, size_bytes, stream);
}

cudaError_t QueueCopyToHost(void* host, const void* device, int64_t size_bytes,
                            cudaStream_t stream) {
  return QueueCopy<false>(host, device, size_bytes, stream);
}

}  // namespace ttt
