#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/rehearse.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;  // at most

// grid [num_rows]; a block owns a row. kSize as in CallOfSize.
template <int kVectors, int kSize>
__global__ void __launch_bounds__(kThreads)
    RmsNormKernel(const __grid_constant__ RmsNormArgs args) {
  __shared__ SumSpace<1> spaces[2];
  LetNextKernelBegin();
  const int32_t size = kSize > 0 ? kSize : args.hidden_size;
  const int num_threads =
      kSize > 0 ? RowShapeOf(kSize, kThreads).threads : blockDim.x;
  float4 weight[kVectors] = {};
  ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
    weight[n] = LoadFour(args.weight + c);
  });
  const int64_t first = int64_t{blockIdx.x} * size;
  Rehearse(args.num_rows, [&](bool is_real) {
    float4 x[kVectors] = {};
    if (is_real) {
      ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
        x[n] = LoadFour(args.input + first + c);
      });
    }
    float squares = 0.0f;
#pragma unroll
    for (const float4& four : x) squares = AddSquares(four, squares);
    const float scale = RmsScale<kSize>(
        BlockSum(spaces[is_real], num_threads, squares), size, args.epsilon);
    ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
      StoreFour(args.output, first + c, Scaled(x[n], scale, weight[n]),
                is_real);
    });
  });
}

// The same of a row of any size, which is read twice.
__global__ void AnyRmsNormKernel(const __grid_constant__ RmsNormArgs args) {
  __shared__ SumSpace<1> space;
  WaitForKernelsBefore();
  const int64_t first = int64_t{blockIdx.x} * args.hidden_size;
  const float* const input = args.input + first;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    squares = fmaf(input[c], input[c], squares);
  }
  const float scale = RmsScale<0>(BlockSum(space, kThreads, squares),
                                  args.hidden_size, args.epsilon);
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
  const auto launch = [&](auto kernel) {
    return LaunchOverlapped(kernel, dim3(args.num_rows), shape.threads, 0,
                            stream, args);
  };
  return CallOfSize(args.hidden_size, [&](auto size) {
    constexpr int kSize = size;
    if constexpr (kSize > 0) {
      return launch(RmsNormKernel<RowShapeOf(kSize, kThreads).vectors, kSize>);
    }
    return launch(shape.vectors == 1   ? RmsNormKernel<1, 0>
                  : shape.vectors == 2 ? RmsNormKernel<2, 0>
                                       : RmsNormKernel<4, 0>);
  });
}

}  // namespace ttt
