#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

__device__ void StoreGated(const NormGateArgs& args, int64_t row, int c,
                           float normal) {
  float value = fmaf(args.weight[c], normal, args.bias[c]);
  if (args.gate != nullptr) {
    value *= Gelu(args.gate[row * args.gate_stride + c]);
  }
  StoreOperand(args.output, row * args.hidden_size + c, value);
}

// grid [num_rows]; a block owns a row of up to 1024 * kVectors channels.
template <int kVectors>
__global__ void NormGateKernel(const NormGateArgs args) {
  WaitForKernelsBefore();
  const int32_t size = args.hidden_size;
  RowValues<kThreads, kVectors> row(args.input + int64_t{blockIdx.x} * size,
                                    size);
  float sum = 0.0f;
  row.Visit([&](int, float x) { sum += x; });
  const float mean = BlockSum<kThreads>(sum) / size;
  float squares = 0.0f;
  row.Visit([&](int, float& x) {
    x -= mean;
    squares = fmaf(x, x, squares);
  });
  const float scale =
      1.0f / sqrtf(BlockSum<kThreads>(squares) / size + kLayerNormEpsilon);
  row.Visit(
      [&](int c, float x) { StoreGated(args, blockIdx.x, c, x * scale); });
}

// The same of a row of any size, which is read three times.
__global__ void LongNormGateKernel(const NormGateArgs args) {
  WaitForKernelsBefore();
  const int32_t size = args.hidden_size;
  const float* const input = args.input + int64_t{blockIdx.x} * size;
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
    StoreGated(args, blockIdx.x, c, (input[c] - mean) * scale);
  }
}

}  // namespace

cudaError_t LaunchNormGate(const NormGateArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const auto kernel = KernelOfRowSize<kThreads>(
      args.hidden_size, NormGateKernel<1>, NormGateKernel<2>, NormGateKernel<4>,
      LongNormGateKernel);
  return LaunchOverlapped(kernel, dim3(args.num_rows), kThreads, 0, stream,
                          args);
}

}  // namespace ttt
