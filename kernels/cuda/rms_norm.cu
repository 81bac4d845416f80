#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// grid [num_rows]; a block owns a row of up to 1024 * kVectors channels.
template <int kVectors>
__global__ void RmsNormKernel(const RmsNormArgs args) {
  WaitForKernelsBefore();
  const int64_t first = int64_t{blockIdx.x} * args.hidden_size;
  RowValues<kThreads, kVectors> row(args.input + first, args.hidden_size);
  float squares = 0.0f;
  row.Visit([&](int, float x) { squares = fmaf(x, x, squares); });
  const float mean = BlockSum<kThreads>(squares) / args.hidden_size;
  const float scale = 1.0f / sqrtf(mean + args.epsilon);
  row.Visit([&](int c, float x) {
    StoreOperand(args.output, first + c, args.weight[c] * (x * scale));
  });
}

// The same of a row of any size, which is read twice.
__global__ void LongRmsNormKernel(const RmsNormArgs args) {
  WaitForKernelsBefore();
  const int64_t first = int64_t{blockIdx.x} * args.hidden_size;
  const float* const input = args.input + first;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    squares = fmaf(input[c], input[c], squares);
  }
  const float mean = BlockSum<kThreads>(squares) / args.hidden_size;
  const float scale = 1.0f / sqrtf(mean + args.epsilon);
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    StoreOperand(args.output, first + c, args.weight[c] * (input[c] * scale));
  }
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const auto kernel = KernelOfRowSize<kThreads>(
      args.hidden_size, RmsNormKernel<1>, RmsNormKernel<2>, RmsNormKernel<4>,
      LongRmsNormKernel);
  return LaunchOverlapped(kernel, dim3(args.num_rows), kThreads, 0, stream,
                          args);
}

}  // namespace ttt
