#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocksOfARow = 16;

// grid [num_rows, blocks]; the blocks of a row share its channels.
__global__ void SwiGluKernel(const SwiGluArgs args) {
  WaitForKernelsBefore();
  const int64_t row = blockIdx.x;
  const float* const gate = args.gate_up + row * 2 * args.inner;
  const float* const up = gate + args.inner;
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < args.inner;
       c += gridDim.y * kThreads) {
    StoreOperand(args.output, row * args.inner + c,
                 gate[c] * Sigmoid(gate[c]) * up[c]);
  }
}

}  // namespace

cudaError_t LaunchSwiGlu(const SwiGluArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const int32_t wanted = (args.inner + kThreads - 1) / kThreads;
  const dim3 grid(args.num_rows,
                  wanted < kMaxBlocksOfARow ? wanted : kMaxBlocksOfARow);
  return LaunchOverlapped(SwiGluKernel, grid, kThreads, 0, stream, args);
}

}  // namespace ttt
