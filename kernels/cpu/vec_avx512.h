// Sixteen floats, with AVX-512 F, DQ, BW and VL.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ttt::avx512 {
namespace {

using Vec = __m512;
constexpr int kWidth = 16;
// The tile of a small product: rows by vectors of columns, held in registers.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;

inline Vec Splat(float x) { return _mm512_set1_ps(x); }
inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline float Sum(Vec v) {
  const __m256 low = _mm512_castps512_ps256(v);
  const __m256 high = _mm512_extractf32x8_ps(v, 1);
  const __m256 both = low + high;
  __m128 half = _mm256_castps256_ps128(both) + _mm256_extractf128_ps(both, 1);
  half = half + _mm_movehl_ps(half, half);
  return half[0] + half[1];
}
inline Vec SwapPairs(Vec v) { return _mm512_permute_ps(v, 0xb1); }
inline Vec EvenTwice(Vec v) { return _mm512_permute_ps(v, 0xa0); }
inline Vec OddTwice(Vec v) { return _mm512_permute_ps(v, 0xf5); }

}  // namespace
}  // namespace ttt::avx512
