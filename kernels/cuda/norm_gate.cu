#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/rehearse.cuh"
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

// Of a warp of which each thread has `count` values.
__device__ Moments WarpMoments(Moments moments, int count) {
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
  return moments;
}

// Of a block of so many warps, of which each has `count` values: one round over
// the block, where a mean and then distances from it would be two.
__device__ Moments BlockMoments(const Moments (&of_warps)[kMaxWarps],
                                int num_warps, int count) {
  // All that there can be at once: none then waits for another.
  Moments warps[kMaxWarps];
#pragma unroll
  for (int warp = 0; warp < kMaxWarps; ++warp) warps[warp] = of_warps[warp];
  float mean = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kMaxWarps; ++warp) {
    if (warp < num_warps) mean += warps[warp].mean;
  }
  mean /= num_warps;
  float squares = 0.0f;
  float distances = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kMaxWarps; ++warp) {
    if (warp >= num_warps) continue;
    const float distance = warps[warp].mean - mean;
    squares += warps[warp].squares;
    distances = fmaf(distance, distance, distances);
  }
  return {mean, fmaf(distances, float(count), squares)};
}

__device__ float LayerNormScale(float squares, int size) {
  return 1.0f / sqrtf(squares / size + kLayerNormEpsilon);
}

__device__ float Gated(float x, float gate, Moments moments, float scale,
                       float weight, float bias) {
  return fmaf(weight, (x - moments.mean) * scale, bias) * gate;
}

// grid [num_rows]; a block owns a row, and has a thread for each 4 * kVectors
// of its channels, of whole warps. kSize as in CallOfSize.
template <int kVectors, int kSize>
__global__ void __launch_bounds__(kThreads)
    NormGateKernel(const __grid_constant__ NormGateArgs args) {
  __shared__ Moments of_warps[2][kMaxWarps];
  LetNextKernelBegin();
  const int size = kSize > 0 ? kSize : args.hidden_size;
  const int num_threads = kSize > 0 ? kSize / (4 * kVectors) : blockDim.x;
  const int num_warps = num_threads / kWarpSize;
  float4 weight[kVectors];
  float4 bias[kVectors];
  ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
    weight[n] = LoadFour(args.weight + c);
    bias[n] = LoadFour(args.bias + c);
  });
  const int64_t first = int64_t{blockIdx.x} * size;
  Rehearse(args.num_rows, [&](bool is_real) {
    float4 x[kVectors] = {};
    float4 gate[kVectors] = {};
    if (is_real) {
      ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
        x[n] = LoadFour(args.input + first + c);
        if (args.gate == nullptr) return;
        gate[n] = LoadFour(args.gate + blockIdx.x * args.gate_stride + c);
      });
    }
    const Moments moments = WarpMoments(MomentsOf(x), 4 * kVectors);
    if (threadIdx.x % kWarpSize == 0) {
      of_warps[is_real][threadIdx.x / kWarpSize] = moments;
    }
    // Without a branch, so that it may be done while the warp's moments travel.
#pragma unroll
    for (float4& four : gate) {
      four = {Gelu(four.x), Gelu(four.y), Gelu(four.z), Gelu(four.w)};
      if (args.gate == nullptr) four = {1.0f, 1.0f, 1.0f, 1.0f};
    }
    __syncthreads();
    const Moments of_row =
        BlockMoments(of_warps[is_real], num_warps, 4 * kVectors * kWarpSize);
    const float scale = LayerNormScale(of_row.squares, size);
    ForEachFour<kVectors>(size, num_threads, [&](int n, int c) {
      StoreFour(
          args.output, first + c,
          {Gated(x[n].x, gate[n].x, of_row, scale, weight[n].x, bias[n].x),
           Gated(x[n].y, gate[n].y, of_row, scale, weight[n].y, bias[n].y),
           Gated(x[n].z, gate[n].z, of_row, scale, weight[n].z, bias[n].z),
           Gated(x[n].w, gate[n].w, of_row, scale, weight[n].w, bias[n].w)},
          is_real);
    });
  });
}

// The same of a row of any size, which is read three times.
__global__ void AnyNormGateKernel(const __grid_constant__ NormGateArgs args) {
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

// Fours of a thread in rows of this size, which then are of whole warps; 0: no
// number gives such.
constexpr int VectorsOf(int32_t size) {
  for (const int vectors : {1, 2, 4}) {
    if (size % (4 * vectors * kWarpSize) == 0 &&
        size / (4 * vectors) <= kThreads) {
      return vectors;
    }
  }
  return 0;
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
  const int vectors = is_aligned ? VectorsOf(args.hidden_size) : 0;
  const int threads = vectors > 0 ? args.hidden_size / (4 * vectors) : kThreads;
  if (vectors > 0) {
    return CallOfSize(args.hidden_size, [&](auto size) {
      constexpr int kSize = size;
      if constexpr (kSize > 0) {
        return launch(NormGateKernel<VectorsOf(kSize), kSize>, threads);
      }
      return launch(vectors == 1   ? NormGateKernel<1, 0>
                    : vectors == 2 ? NormGateKernel<2, 0>
                                   : NormGateKernel<4, 0>,
                    threads);
    });
  }
  return launch(AnyNormGateKernel, kThreads);
}

}  // namespace ttt
