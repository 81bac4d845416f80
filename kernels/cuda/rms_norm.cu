#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;  // at most

// grid [num_rows]; a block owns a row.
template <int kVectors>
__global__ void RmsNormKernel(const RmsNormArgs args) {
  __shared__ SumSpace<1> space;
  LetNextKernelBegin();
  const int32_t size = args.hidden_size;
  float4 weight[kVectors] = {};
  float4 x[kVectors] = {};
  ForEachFour<kVectors>(
      size, [&](int n, int c) { weight[n] = LoadFour(args.weight + c); });
  WaitForKernelsBefore();
  const int64_t first = int64_t{blockIdx.x} * size;
  ForEachFour<kVectors>(
      size, [&](int n, int c) { x[n] = LoadFour(args.input + first + c); });
  float squares = 0.0f;
#pragma unroll
  for (const float4& four : x) squares = AddSquares(four, squares);
  const float scale = RmsScale(BlockSum(space, squares), size, args.epsilon);
  ForEachFour<kVectors>(size, [&](int n, int c) {
    StoreFour(args.output, first + c, Scaled(x[n], scale, weight[n]));
  });
}

// The same of a row of any size, which is read twice.
__global__ void AnyRmsNormKernel(const RmsNormArgs args) {
  __shared__ SumSpace<1> space;
  WaitForKernelsBefore();
  const int64_t first = int64_t{blockIdx.x} * args.hidden_size;
  const float* const input = args.input + first;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    squares = fmaf(input[c], input[c], squares);
  }
  const float scale =
      RmsScale(BlockSum(space, squares), args.hidden_size, args.epsilon);
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    StoreOperand(args.output, first + c, args.weight[c] * (input[c] * scale));
  }
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const RowShape shape = RowShapeOf(args.hidden_size, kThreads);
  if (args.hidden_size % 4 != 0 || shape.vectors > 4) {
    return LaunchOverlapped(AnyRmsNormKernel, dim3(args.num_rows), kThreads, 0,
                            stream, args);
  }
  const auto kernel = shape.vectors == 1   ? RmsNormKernel<1>
                      : shape.vectors == 2 ? RmsNormKernel<2>
                                           : RmsNormKernel<4>;
  return LaunchOverlapped(kernel, dim3(args.num_rows), shape.threads, 0, stream,
                          args);
}

}  // namespace ttt
