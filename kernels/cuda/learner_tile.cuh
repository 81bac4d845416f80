// What the learners on tensor cores share: rows of a mini-batch in shared
// memory, operands of m16n8k16 made of them and of split weights, and layer
// norms of columns.
//
// All is transposed: a product is [channels, rows], its channels along M and
// the rows of the mini-batch along N. Lane l of a warp is (g, q) = (l / 4,
// l % 4). Of a sum tile [16, 8] it holds {(g, 2q), (g, 2q+1), (g+8, 2q), (g+8,
// 2q+1)}; two tiles side by side, rounded to pairs, are an operand A [16, 16]
// of the next product. A "column" is a row of the mini-batch as the lane holds
// it: column 2n + c is row 8n + 2q + c.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/op_args.h"

namespace ttt {

inline constexpr int kOutputsOfTile = 16;
inline constexpr int kColumns = 4;  // of a lane in 16 rows

// Two bfloat16, rounded to nearest even; the low one comes first in memory.
__device__ inline uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline float LowOfPair(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float HighOfPair(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// The low and the high halves of two words.
__device__ inline uint32_t LowHalves(uint32_t a, uint32_t b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ inline uint32_t HighHalves(uint32_t a, uint32_t b) {
  return __byte_perm(a, b, 0x7632);
}

// The halves of two float32 as state_forms.h has them, and back.
__device__ inline uint32_t SplitHighPair(float a, float b) {
  return HighHalves(__float_as_uint(a) + 0x8000u, __float_as_uint(b) + 0x8000u);
}
__device__ inline uint32_t SplitLowPair(float a, float b) {
  return LowHalves(__float_as_uint(a), __float_as_uint(b));
}
__device__ inline float JoinHalves(uint32_t high_and_low) {
  return __uint_as_float(high_and_low - ((high_and_low & 0x8000u) << 1));
}
__device__ inline float JoinFirst(uint32_t high_pair, uint32_t low_pair) {
  return JoinHalves(LowHalves(low_pair, high_pair));
}
__device__ inline float JoinSecond(uint32_t high_pair, uint32_t low_pair) {
  return JoinHalves(HighHalves(low_pair, high_pair));
}

// kWords of 4 bytes, aligned to all of them, or to 16 bytes.
template <int kWords>
__device__ void LoadWords(const void* from, uint32_t (&words)[kWords]) {
  static_assert(kWords == 1 || kWords == 2 || kWords % 4 == 0,
                "whole accesses");
  if constexpr (kWords == 1) {
    words[0] = *static_cast<const uint32_t*>(from);
  } else if constexpr (kWords == 2) {
    const uint2 two = *static_cast<const uint2*>(from);
    words[0] = two.x;
    words[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 four = static_cast<const uint4*>(from)[i / 4];
      words[i] = four.x;
      words[i + 1] = four.y;
      words[i + 2] = four.z;
      words[i + 3] = four.w;
    }
  }
}
template <int kWords>
__device__ void StoreWords(void* to, const uint32_t (&words)[kWords]) {
  static_assert(kWords == 1 || kWords == 2 || kWords % 4 == 0,
                "whole accesses");
  if constexpr (kWords == 1) {
    *static_cast<uint32_t*>(to) = words[0];
  } else if constexpr (kWords == 2) {
    *static_cast<uint2*>(to) = {words[0], words[1]};
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      static_cast<uint4*>(to)[i / 4] = {words[i], words[i + 1], words[i + 2],
                                        words[i + 3]};
    }
  }
}

// LoadWords of global memory, without the L1 cache: begins in the order of
// these and of barriers, and may come before WaitForKernelsBefore where that
// may be read.
template <int kWords>
__device__ void LoadFromL2(const void* from, uint32_t (&words)[kWords]) {
  static_assert(kWords == 1 || kWords == 2 || kWords % 4 == 0,
                "whole accesses");
  if constexpr (kWords == 1) {
    asm volatile("ld.global.cg.b32 %0, [%1];\n"
                 : "=r"(words[0])
                 : "l"(from)
                 : "memory");
  } else if constexpr (kWords == 2) {
    asm volatile("ld.global.cg.v2.b32 {%0, %1}, [%2];\n"
                 : "=r"(words[0]), "=r"(words[1])
                 : "l"(from)
                 : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                   : "=r"(words[i]), "=r"(words[i + 1]), "=r"(words[i + 2]),
                     "=r"(words[i + 3])
                   : "l"(static_cast<const uint4*>(from) + i / 4)
                   : "memory");
    }
  }
}

// As LoadMatrices, each matrix transposed: lane (g, q) gets (2q, g), (2q+1, g).
__device__ inline void LoadTransposed(uint32_t (&to)[4], const void* shared) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, "
      "[%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(SharedAddress(shared))
      : "memory");
}

// Copies by a thread, which go on while it does. What is not valid becomes
// zero; `global` is not read then, but has to be an address.
__device__ inline void CopyAsync16(void* shared, const void* global,
                                   bool is_valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(is_valid ? 16 : 0)
               : "memory");
}
__device__ inline void CopyAsync4(void* shared, const void* global,
                                  bool is_valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(is_valid ? 4 : 0)
               : "memory");
}
// Until the thread's own copies have ended; then a barrier for those of others.
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

// The rows of one mini-batch that a step sees: [begin, end) are the step's, the
// first of which is row `first` of its sequence; those before are pending.
struct MiniBatchRows {
  int32_t begin;
  int32_t end;
  int32_t first;

  __device__ int32_t num_added() const { return end - begin; }
};
// The first ones of a sequence, and those after `rows`, which exist if they
// begin before its num_rows.
__device__ inline MiniBatchRows FirstMiniBatch(const SequenceRows& sequence,
                                               int32_t mini_batch) {
  const auto begin = static_cast<int32_t>(sequence.position % mini_batch);
  return {begin, min(begin + sequence.num_rows, mini_batch), 0};
}
__device__ inline MiniBatchRows NextMiniBatch(const MiniBatchRows& rows,
                                              int32_t num_rows,
                                              int32_t mini_batch) {
  const int32_t begin = rows.end == mini_batch ? 0 : rows.end;
  const int32_t first = rows.first + rows.num_added();
  return {begin, min(begin + num_rows - first, mini_batch), first};
}

// 16 rows of kHeadDim bfloat16 in shared memory, in units of 16 bytes whose
// places are permuted within a row so that neither eight rows of one unit nor
// two units of the four rows of a column meet in a bank (kHeadDim 64).
template <int kHeadDim>
struct RowTile {
  static constexpr int kUnits = kHeadDim / 8;  // of a row

  uint4 units[kMaxMiniBatch * kUnits];

  __device__ static int Index(int row, int unit) {
    return row * kUnits + (unit ^ Permutation(row));
  }
  // With which the units of a row are permuted: exclusive or.
  __device__ static int Permutation(int row) {
    return kSwizzle == 7 ? row & 7 : row >> 1 & 3;
  }
  // Of a channel that is even at least.
  __device__ void* At(int row, int channel) {
    return reinterpret_cast<std::byte*>(&units[Index(row, channel / 8)]) +
           channel % 8 * 2;
  }
  __device__ const void* At(int row, int channel) const {
    return const_cast<RowTile*>(this)->At(row, channel);
  }

  // Of channels 16 step to 16 step + 15: the operands B {rows 0 to 7, low
  // channels}, {rows 0 to 7, high}, {rows 8 to 15, low}, {.., high}. In the
  // order 0, 2, 1, 3 an operand A of the 16 rows.
  __device__ void Load(uint32_t (&to)[4], int step, int lane) const {
    LoadMatrices(to, Matrix(step, lane));
  }
  // The same transposed: the rows are K, the channels N. {rows 0 to 7, low
  // channels}, {rows 0 to 7, high}, {rows 8 to 15, low}, {.., high}.
  __device__ void LoadTurned(uint32_t (&to)[4], int step, int lane) const {
    LoadTransposed(to, Matrix(step, lane));
  }

 private:
  static constexpr int kSwizzle = kUnits % 8 == 0 ? 7 : 3;

  // Index(row, 2 step + lane / 8 % 2), of which the lane's part is the same for
  // every step.
  __device__ const void* Matrix(int step, int lane) const {
    const int first = Index(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    return &units[(first ^ (2 * step & kSwizzle)) + (2 * step & ~kSwizzle)];
  }
};

// Sums of a column over the lanes that hold it; in a fixed order, the same in
// all of them.
__device__ inline float ColumnSum(float value) {
#pragma unroll
  for (int offset = 4; offset < kWarpSize; offset *= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// Of a column: 1 / sqrt(variance + epsilon), and the mean times that.
struct ColumnNorm {
  float scale;
  float scaled_mean;

  __device__ float operator()(float value) const {
    return fmaf(value, scale, -scaled_mean);
  }
};
// Of kValues of each of the 8 lanes, in their order. The variance is taken
// about the mean of each lane, and of those about each other's: a mean that is
// large beside it costs nothing.
template <int kValues>
__device__ ColumnNorm NormOfColumn(const float (&values)[kValues]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum += values[i];
  // Not to be fused with the subtractions in one kernel and not in another.
  const float mean = __fmul_rn(sum, 1.0f / kValues);
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const float difference = values[i] - mean;
    squares = fmaf(difference, difference, squares);
  }
#pragma unroll
  for (int lanes = 1; lanes < 8; lanes *= 2) {
    const float other = __shfl_xor_sync(kAllLanes, sum, 4 * lanes);
    const float difference = sum - other;
    squares += __shfl_xor_sync(kAllLanes, squares, 4 * lanes);
    squares =
        fmaf(difference * (1.0f / (2 * lanes * kValues)), difference, squares);
    sum += other;
  }
  constexpr float kCount = 1.0f / (8 * kValues);
  const float scale = rsqrtf(fmaf(squares, kCount, kLayerNormEpsilon));
  return {scale, sum * kCount * scale};
}

}  // namespace ttt
