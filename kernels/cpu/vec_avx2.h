// Eight floats, with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ttt::avx2 {
namespace {

using Vec = __m256;
constexpr int kWidth = 8;
// The tile of a small product: rows by vectors of columns, held in registers.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;

inline Vec Splat(float x) { return _mm256_set1_ps(x); }
inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline float Sum(Vec v) {
  __m128 half = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
  half = half + _mm_movehl_ps(half, half);
  return half[0] + half[1];
}
inline Vec SwapPairs(Vec v) { return _mm256_permute_ps(v, 0xb1); }
inline Vec EvenTwice(Vec v) { return _mm256_permute_ps(v, 0xa0); }
inline Vec OddTwice(Vec v) { return _mm256_permute_ps(v, 0xf5); }

}  // namespace
}  // namespace ttt::avx2
