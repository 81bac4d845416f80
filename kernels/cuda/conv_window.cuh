// A causal depthwise convolution over the rows of a sequence and the inputs
// that it kept from before them. Shared by the ops that have one.
//
// The rows 0 .. kernel - 2 read the tail, which the step replaces: they belong
// to one block, the one of row 0, which writes the new tail after its last read
// of the old one.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_rows.cuh"
#include "kernels/op_args.h"

namespace ttt {

// The kernel that has fast forms: that of all published models.
inline constexpr int kFastConvKernel = 4;

// A block that walks rows puts them into the L2 cache so many ahead.
inline constexpr int kRowsAhead = 4;

// Rows [begin, end) of a sequence, counted from its first; may be none.
struct RowSpan {
  int32_t begin;
  int32_t end;
};

// The rows of a sequence that the block of rows [begin, end) of the step
// computes; row `begin` is of the sequence, or was, if it has ended: then none.
__device__ inline RowSpan ConvRows(const SequenceRows& sequence, int32_t begin,
                                   int32_t end, int32_t kernel) {
  const int32_t first = begin - sequence.first_row;
  const int32_t last = min(end - sequence.first_row, sequence.num_rows);
  if (first > 0) return {max(first, kernel - 1), last};
  return {0, max(last, min(kernel - 1, sequence.num_rows))};
}

// Calls visit(sequence, span) for each sequence that has rows in [begin, end)
// of the step, of which `sequence` is the first.
template <typename Function>
__device__ void ForEachConvSpan(const StepRows& rows, SequenceRows sequence,
                                int32_t begin, int32_t end, int32_t kernel,
                                Function visit) {
  for (;;) {
    const RowSpan span = ConvRows(sequence, begin, end, kernel);
    if (span.begin < span.end) visit(sequence, span);
    begin = sequence.first_row + max(sequence.num_rows, 1);
    if (begin >= end) return;
    sequence = SequenceOfRow(rows, begin);
  }
}

// One channel of the inputs of a sequence.
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

// The weights of four channels, for kFastConvKernel.
struct ConvFour {
  float4 taps[kFastConvKernel];
  float4 bias;

  // weight [kFastConvKernel, stride] and bias, from the first channel on.
  __device__ ConvFour(const float* weight, const float* bias_from,
                      int32_t stride)
      : bias(LoadFour(bias_from)) {
#pragma unroll
    for (int j = 0; j < kFastConvKernel; ++j) {
      taps[j] = LoadFour(weight + int64_t{j} * stride);
    }
  }
  // Of the inputs before a row, and its own.
  __device__ float4 Convolve(const float4 (&before)[kFastConvKernel - 1],
                             float4 own) const {
    float4 sum = bias;
#pragma unroll
    for (int j = 0; j < kFastConvKernel; ++j) {
      const float4 u = j < kFastConvKernel - 1 ? before[j] : own;
      sum.x = fmaf(taps[j].x, u.x, sum.x);
      sum.y = fmaf(taps[j].y, u.y, sum.y);
      sum.z = fmaf(taps[j].z, u.z, sum.z);
      sum.w = fmaf(taps[j].w, u.w, sum.w);
    }
    return sum;
  }
};

// Four channels of a tail, whose rows are `stride` apart.
__device__ inline void PrefetchTail(const float* tail, int64_t stride) {
  if (threadIdx.x % kThreadsPerLine != 0) return;
#pragma unroll
  for (int j = 0; j < kFastConvKernel - 1; ++j) PrefetchLine(tail + j * stride);
}
__device__ inline void LoadTail(const float* tail, int64_t stride,
                                float4 (&before)[kFastConvKernel - 1]) {
#pragma unroll
  for (int j = 0; j < kFastConvKernel - 1; ++j) {
    before[j] = LoadFour(tail + j * stride);
  }
}
__device__ inline void StoreTail(float* tail, int64_t stride,
                                 const float4 (&before)[kFastConvKernel - 1],
                                 bool does = true) {
#pragma unroll
  for (int j = 0; j < kFastConvKernel - 1; ++j) {
    StoreFour(tail + j * stride, before[j], does);
  }
}

// Moves the window on by a row.
__device__ inline void Advance(float4 (&before)[kFastConvKernel - 1],
                               float4 own) {
#pragma unroll
  for (int j = 0; j < kFastConvKernel - 2; ++j) before[j] = before[j + 1];
  before[kFastConvKernel - 2] = own;
}

// Rows that a block runs as one, where each is all of its sequence.
inline constexpr int kPair = 2;

// Rows that a block takes, for about as many blocks as keep the device busy.
inline int32_t ConvRowsPerBlock(int32_t num_rows) {
  constexpr int32_t kBlocks = 132;
  constexpr int32_t kMostRows = 16;
  if (num_rows <= kBlocks) return 1;
  const int32_t rows = num_rows / (2 * kBlocks);
  return rows < kPair ? kPair : rows < kMostRows ? rows : kMostRows;
}

}  // namespace ttt
