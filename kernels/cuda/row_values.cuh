// A row that a block keeps in registers, so that it is read from memory once.
#pragma once

#include <type_traits>

#include "kernels/cuda/device_rows.cuh"

namespace ttt {

// Of `num_threads`, thread t has the fours t, t + num_threads, .. of a row,
// kVectors at most. Calls visit(n, c) for each: the n-th, which begins at
// channel c.
template <int kVectors, typename Function>
__device__ void ForEachFour(int size, int num_threads, Function visit) {
  __builtin_assume(threadIdx.x < num_threads);
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int c = 4 * (int(threadIdx.x) + n * num_threads);
    if (c < size) visit(n, c);
  }
}

// added to `sum`, in the order of the channels.
__device__ inline float AddSquares(float4 x, float sum) {
  sum = fmaf(x.x, x.x, sum);
  sum = fmaf(x.y, x.y, sum);
  sum = fmaf(x.z, x.z, sum);
  return fmaf(x.w, x.w, sum);
}

// Of a root mean square norm, from the sum of the squares. Called, as a
// division and a root are long where code runs once. kSize as in CallOfSize.
template <int kSize>
__device__ __noinline__ float RmsScale(float squares, int size, float epsilon) {
  return 1.0f / sqrtf(squares / (kSize > 0 ? kSize : size) + epsilon);
}
__device__ inline float4 Scaled(float4 x, float scale, float4 weight) {
  return {weight.x * (x.x * scale), weight.y * (x.y * scale),
          weight.z * (x.z * scale), weight.w * (x.w * scale)};
}

// How a row is spread over a block.
struct RowShape {
  int vectors;  // fours a thread
  int threads;
};
// For rows of a multiple of 4 floats.
constexpr RowShape RowShapeOf(int32_t size, int max_threads) {
  const int fours = size / 4;
  const int vectors =
      fours <= max_threads ? 1 : (fours + max_threads - 1) / max_threads;
  const int share = (fours + vectors - 1) / vectors;
  return {vectors, (share + kSumThreads - 1) / kSumThreads * kSumThreads};
}

// Calls launch(std::integral_constant<int, kSize>()): kSize is `size` where the
// published models have it, for which there are kernels of less code, or 0: of
// any size.
template <typename Function>
auto CallOfSize(int32_t size, Function launch) {
  switch (size) {
    case 768:
      return launch(std::integral_constant<int, 768>());
    case 1024:
      return launch(std::integral_constant<int, 1024>());
    case 1536:
      return launch(std::integral_constant<int, 1536>());
    case 2048:
      return launch(std::integral_constant<int, 2048>());
    default:
      return launch(std::integral_constant<int, 0>());
  }
}

}  // namespace ttt
