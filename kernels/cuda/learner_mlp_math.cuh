// The arithmetic of the learner of two layers on tensor cores: shapes,
// products, the inner activation, runs of fast weights and their update.
#pragma once

#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/learner_tile.cuh"

namespace ttt {

inline constexpr int kWarpInner = 32;   // inner channels of a warp
inline constexpr int kInnerTiles = 4;   // of 8 of them
inline constexpr int kLanesOfRow = 16;  // that normalise one
inline constexpr int kMultiprocessors = 132;
// Larger ones round to infinity.
inline constexpr float kMaxFinite = 3.38e38f;
// Of two bfloat16.
inline constexpr uint32_t kOnes = 0x3f803f80;
inline constexpr uint32_t kNanPair = 0x7fc07fc0;

template <int kHeadDim>
struct MlpShape {
  static constexpr int kInner = 4 * kHeadDim;
  static constexpr int kWarps = kInner / kWarpInner;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kTiles = kHeadDim / 8;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kMatrix = kHeadDim * kInner;
  // Words of a run of W1 and of W2: half as many channels.
  static constexpr int kRun1 = kInnerTiles / 2;
  static constexpr int kRun2 = kTiles / 2;
  // Rows that a lane normalises, one after the other, and pairs of channels of
  // each: kLanesOfRow apart.
  static constexpr int kRowsAtOnce = kThreads / kLanesOfRow;
  static constexpr int kLaneRows =
      kRowsAtOnce < kMaxMiniBatch ? kMaxMiniBatch / kRowsAtOnce : 1;
  static constexpr int kPairs = kHeadDim / (2 * kLanesOfRow);
};

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Of an 8 x 8 matrix that lane (g, q) holds (g, 2q), (g, 2q+1) of: (2q, g),
// (2q+1, g).
__device__ inline uint32_t Turn(uint32_t pair) {
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n"
               : "=r"(turned)
               : "r"(pair));
  return turned;
}

// sums[16, 8] = a[16, 16] b[8, 16]^T in bfloat16.
__device__ inline void Multiply(float (&sums)[4], const uint32_t (&a)[4],
                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};\n"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
        "f"(0.0f));
}

// Of a sum over steps, from 0 on.
__device__ inline void MultiplyStep(int step, float (&sums)[4],
                                    const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if (step == 0) {
    Multiply(sums, a, b0, b1);
  } else {
    MultiplyAdd(sums, a, b0, b1);
  }
}

// A group of those that the thread started since the last group.
__device__ inline void CloseCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Until all groups but the last have ended.
__device__ inline void WaitForAllCopiesButOne() {
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
}

// gelu(x) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct InnerActivation {
  float value;
  float slope;

  __device__ explicit InnerActivation(float x) {
    constexpr float kExponent = -2.0f * 1.4426950409f * kGeluScale;
    const float square = x * x;
    const float y =
        x * fmaf(square, kExponent * 0.044715f, kExponent);  // -2 u log2(e)
    const float gate = Reciprocal(1.0f + Exp2(y));
    value = x * gate;
    slope = fmaf(fmaf(-value, gate, value),
                 fmaf(square, 6.0f * 0.044715f * kGeluScale, 2.0f * kGeluScale),
                 gate);
  }
};

// An access of 16 bytes, or several of 8, by the alignment of a run.
template <int kWords>
__device__ void LoadRun(const void* from, uint32_t (&words)[kWords]) {
  constexpr int kAccess = kWords % 4 == 0 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < kWords; i += kAccess) {
    uint32_t part[kAccess];
    LoadWords(static_cast<const uint32_t*>(from) + i, part);
#pragma unroll
    for (int j = 0; j < kAccess; ++j) words[i + j] = part[j];
  }
}
template <int kWords>
__device__ void StoreRun(void* to, const uint32_t (&words)[kWords]) {
  constexpr int kAccess = kWords % 4 == 0 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < kWords; i += kAccess) {
    uint32_t part[kAccess];
#pragma unroll
    for (int j = 0; j < kAccess; ++j) part[j] = words[i + j];
    StoreWords(static_cast<uint32_t*>(to) + i, part);
  }
}

// Sum over the lanes of a row, the same in all of them.
__device__ inline float RowSum(float value) {
#pragma unroll
  for (int offset = kLanesOfRow / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// Of two runs, side by side, the pairs of one place in both.
template <int kWords>
__device__ __forceinline__ void PairRuns(uint32_t (&words)[kWords]) {
  constexpr int kRun = kWords / 2;
  uint32_t pairs[kWords];
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    pairs[2 * i] = LowHalves(words[i], words[kRun + i]);
    pairs[2 * i + 1] = HighHalves(words[i], words[kRun + i]);
  }
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = pairs[i];
}

// Takes scale * sums[16, 8] from the weights of two tiles, whose low halves
// stand as in the slot.
__device__ __forceinline__ void Update(float scale, const float (&sums)[4],
                                       uint32_t& first, uint32_t& second,
                                       uint32_t& even, uint32_t& odd) {
  // A value plus 0x8000 is the high half, and the low half with its first bit
  // turned.
  const uint32_t even_turned = even ^ 0x80008000u;
  const uint32_t odd_turned = odd ^ 0x80008000u;
  const uint32_t raised[4] = {
      LowHalves(even_turned, first), __byte_perm(odd_turned, first, 0x7610),
      __byte_perm(even_turned, second, 0x5432), HighHalves(odd_turned, second)};
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[i] = fmaf(-scale, sums[i], __uint_as_float(raised[i] - 0x8000u));
  }
  first = SplitHighPair(values[0], values[1]);
  second = SplitHighPair(values[2], values[3]);
  even = SplitLowPair(values[0], values[2]);
  odd = SplitLowPair(values[1], values[3]);
}

}  // namespace ttt
