// Four floats, on any x86-64.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ttt::sse2 {
namespace {

using Vec = __m128;
constexpr int kWidth = 4;
// The tile of a small product: rows by vectors of columns, held in registers.
constexpr int kTileRows = 4;
constexpr int kTileVecs = 2;

inline Vec Splat(float x) { return _mm_set1_ps(x); }
inline Vec Load(const float* p) { return _mm_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm_storeu_ps(p, v); }
// Rounds twice: this instruction set has no fused form.
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline float Sum(Vec v) {
  v = v + _mm_movehl_ps(v, v);
  return v[0] + v[1];
}
inline Vec SwapPairs(Vec v) { return _mm_shuffle_ps(v, v, 0xb1); }
inline Vec EvenTwice(Vec v) { return _mm_shuffle_ps(v, v, 0xa0); }
inline Vec OddTwice(Vec v) { return _mm_shuffle_ps(v, v, 0xf5); }

}  // namespace
}  // namespace ttt::sse2
