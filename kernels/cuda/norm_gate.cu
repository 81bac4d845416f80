#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// grid [num_rows]; a block owns a row.
__global__ void NormGateKernel(const NormGateArgs args) {
  WaitForKernelsBefore();
  const int32_t size = args.hidden_size;
  const int64_t first = int64_t{blockIdx.x} * size;
  const float* const input = args.input + first;
  float sum = 0.0f;
  for (int c = threadIdx.x; c < size; c += kThreads) sum += input[c];
  const float mean = BlockSum<kThreads>(sum) / size;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < size; c += kThreads) {
    squares = fmaf(input[c] - mean, input[c] - mean, squares);
  }
  const float scale =
      1.0f / sqrtf(BlockSum<kThreads>(squares) / size + kLayerNormEpsilon);
  for (int c = threadIdx.x; c < size; c += kThreads) {
    float value = fmaf(args.weight[c], (input[c] - mean) * scale, args.bias[c]);
    if (args.gate != nullptr) {
      value *= Gelu(args.gate[blockIdx.x * args.gate_stride + c]);
    }
    StoreOperand(args.output, first + c, value);
  }
}

}  // namespace

cudaError_t LaunchNormGate(const NormGateArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return LaunchOverlapped(NormGateKernel, dim3(args.num_rows), kThreads, 0,
                          stream, args);
}

}  // namespace ttt
