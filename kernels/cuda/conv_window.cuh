// A causal depthwise convolution over the rows of a sequence and the inputs
// that it kept from before them. Shared by the ops that have one.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_rows.cuh"
#include "kernels/op_args.h"

namespace ttt {

// One channel of the inputs of a sequence. The rows 0 .. kernel - 2 read the
// tail, which the step replaces: they belong to one thread, the one of row 0,
// which writes the new tail after its last read of the old one.
struct ConvChannel {
  const float* input;  // of the sequence's first row
  int64_t stride;      // of input, in floats
  float* tail;         // [kernel - 1], tail_stride apart
  int32_t tail_stride;
  int32_t kernel;

  // Input `row` of the sequence, which may be as low as 1 - kernel.
  __device__ float at(int32_t row) const {
    return row >= 0 ? input[row * stride]
                    : tail[int64_t{row + kernel - 1} * tail_stride];
  }
  // weight and bias of the channel; weight is tail_stride apart.
  __device__ float Convolve(const float* weight, float bias,
                            int32_t row) const {
    float sum = bias;
    for (int32_t j = 0; j < kernel; ++j) {
      sum =
          fmaf(weight[int64_t{j} * tail_stride], at(row - kernel + 1 + j), sum);
    }
    return sum;
  }
  __device__ void ReplaceTail(int32_t num_rows) const {
    // In rising order: each place is read before it is written.
    for (int32_t j = 0; j < kernel - 1; ++j) {
      tail[int64_t{j} * tail_stride] = at(num_rows - kernel + 1 + j);
    }
  }
};

// The rows that the thread of row `index` computes: [index, end).
__device__ inline int32_t EndOfConvRows(int32_t index, int32_t num_rows,
                                        int32_t kernel) {
  if (index > 0) return index < kernel - 1 ? index : index + 1;
  return num_rows < kernel - 1 ? num_rows : kernel - 1;
}

}  // namespace ttt
