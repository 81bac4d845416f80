#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;  // at most
constexpr int kMaxWarps = kThreads / kWarpSize;

// Mean of some values, and the sum of their squared distances from it.
struct Moments {
  float mean;
  float squares;
};

// Of a thread's own fours.
template <int kVectors>
__device__ Moments MomentsOf(const float4 (&x)[kVectors]) {
  float sum = 0.0f;
#pragma unroll
  for (const float4& four : x) sum += (four.x + four.y) + (four.z + four.w);
  const float mean = sum / (4 * kVectors);
  float squares = 0.0f;
#pragma unroll
  for (const float4& four : x) {
    squares = AddSquares(
        {four.x - mean, four.y - mean, four.z - mean, four.w - mean}, squares);
  }
  return {mean, squares};
}

// Of a block of whole warps of which each thread has `count` values: one round
// over the block, where a mean and then distances from it would be two.
__device__ Moments BlockMoments(Moments moments, int count) {
  __shared__ Moments of_warps[kMaxWarps];
  float half = 0.5f * count;
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const float mean = __shfl_xor_sync(kAllLanes, moments.mean, offset);
    const float squares = __shfl_xor_sync(kAllLanes, moments.squares, offset);
    const float distance = mean - moments.mean;
    moments.squares =
        fmaf(distance * distance, half, moments.squares + squares);
    moments.mean = 0.5f * (moments.mean + mean);
    half *= 2.0f;
  }
  if (threadIdx.x % kWarpSize == 0) {
    of_warps[threadIdx.x / kWarpSize] = moments;
  }
  __syncthreads();
  const int num_warps = blockDim.x / kWarpSize;
  float mean = 0.0f;
  for (int warp = 0; warp < num_warps; ++warp) mean += of_warps[warp].mean;
  mean /= num_warps;
  float squares = 0.0f;
  float distances = 0.0f;
  for (int warp = 0; warp < num_warps; ++warp) {
    const float distance = of_warps[warp].mean - mean;
    squares += of_warps[warp].squares;
    distances = fmaf(distance, distance, distances);
  }
  return {mean, fmaf(distances, float(count * kWarpSize), squares)};
}

__device__ float LayerNormScale(float squares, int size) {
  return 1.0f / sqrtf(squares / size + kLayerNormEpsilon);
}

__device__ float Gated(float x, float gate, Moments moments, float scale,
                       float weight, float bias) {
  return fmaf(weight, (x - moments.mean) * scale, bias) * gate;
}

// grid [num_rows]; a block owns a row, and has a thread for each 4 * kVectors
// of its channels.
template <int kVectors>
__global__ void NormGateKernel(const NormGateArgs args) {
  LetNextKernelBegin();
  const int size = args.hidden_size;
  float4 weight[kVectors];
  float4 bias[kVectors];
  ForEachFour<kVectors>(size, blockDim.x, [&](int n, int c) {
    weight[n] = LoadFour(args.weight + c);
    bias[n] = LoadFour(args.bias + c);
  });
  WaitForKernelsBefore();
  float4 x[kVectors];
  float4 gate[kVectors];
  const int64_t first = int64_t{blockIdx.x} * size;
  ForEachFour<kVectors>(size, blockDim.x, [&](int n, int c) {
    x[n] = LoadFour(args.input + first + c);
    if (args.gate == nullptr) return;
    gate[n] = LoadFour(args.gate + blockIdx.x * args.gate_stride + c);
  });
#pragma unroll
  for (float4& four : gate) {
    four = args.gate == nullptr
               ? float4{1.0f, 1.0f, 1.0f, 1.0f}
               : float4{Gelu(four.x), Gelu(four.y), Gelu(four.z), Gelu(four.w)};
  }
  const Moments moments = BlockMoments(MomentsOf(x), 4 * kVectors);
  const float scale = LayerNormScale(moments.squares, size);
  ForEachFour<kVectors>(size, blockDim.x, [&](int n, int c) {
    StoreFour(
        args.output, first + c,
        {Gated(x[n].x, gate[n].x, moments, scale, weight[n].x, bias[n].x),
         Gated(x[n].y, gate[n].y, moments, scale, weight[n].y, bias[n].y),
         Gated(x[n].z, gate[n].z, moments, scale, weight[n].z, bias[n].z),
         Gated(x[n].w, gate[n].w, moments, scale, weight[n].w, bias[n].w)});
  });
}

// The same of a row of any size, which is read three times.
__global__ void AnyNormGateKernel(const NormGateArgs args) {
  __shared__ SumSpace<1> sum_space;
  __shared__ SumSpace<1> squares_space;
  WaitForKernelsBefore();
  const int size = args.hidden_size;
  const int64_t first = int64_t{blockIdx.x} * size;
  const float* const input = args.input + first;
  float sum = 0.0f;
  for (int c = threadIdx.x; c < size; c += kThreads) sum += input[c];
  const float mean = BlockSum(sum_space, kThreads, sum) / size;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < size; c += kThreads) {
    squares = fmaf(input[c] - mean, input[c] - mean, squares);
  }
  const float scale =
      LayerNormScale(BlockSum(squares_space, kThreads, squares), size);
  const float* const gate = args.gate + blockIdx.x * args.gate_stride;
  for (int c = threadIdx.x; c < size; c += kThreads) {
    StoreOperand(args.output, first + c,
                 Gated(input[c], args.gate == nullptr ? 1.0f : Gelu(gate[c]),
                       {mean, squares}, scale, args.weight[c], args.bias[c]));
  }
}

}  // namespace

cudaError_t LaunchNormGate(const NormGateArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid(args.num_rows);
  const bool is_aligned =
      args.gate == nullptr ||
      (args.gate_stride % 4 == 0 &&
       reinterpret_cast<uintptr_t>(args.gate) % sizeof(float4) == 0);
  const auto launch = [&](auto kernel, int32_t threads) {
    return LaunchOverlapped(kernel, grid, threads, 0, stream, args);
  };
  const auto threads = [&](int vectors) {
    return args.hidden_size / (4 * vectors);
  };
  const auto fits = [&](int vectors) {
    return is_aligned && args.hidden_size % (4 * vectors * kWarpSize) == 0 &&
           threads(vectors) <= kThreads;
  };
  if (fits(1)) return launch(NormGateKernel<1>, threads(1));
  if (fits(2)) return launch(NormGateKernel<2>, threads(2));
  if (fits(4)) return launch(NormGateKernel<4>, threads(4));
  return launch(AnyNormGateKernel, kThreads);
}

}  // namespace ttt
