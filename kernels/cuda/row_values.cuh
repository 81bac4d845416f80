// A row that a block keeps in registers, so that it is read from memory once.
#pragma once

#include "kernels/cuda/device_rows.cuh"

namespace ttt {

// Thread t has the fours t, t + blockDim.x, .. of a row, kVectors at most.
// Calls visit(n, c) for each: the n-th, which begins at channel c.
template <int kVectors, typename Function>
__device__ void ForEachFour(int size, Function visit) {
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int c = 4 * int(threadIdx.x + n * blockDim.x);
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
// division and a root are long where code runs once.
static __device__ __noinline__ float RmsScale(float squares, int size,
                                              float epsilon) {
  return 1.0f / sqrtf(squares / size + epsilon);
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
inline RowShape RowShapeOf(int32_t size, int max_threads) {
  const int fours = size / 4;
  const int vectors =
      fours <= max_threads ? 1 : (fours + max_threads - 1) / max_threads;
  const int share = (fours + vectors - 1) / vectors;
  return {vectors, (share + kSumThreads - 1) / kSumThreads * kSumThreads};
}

}  // namespace ttt
