// Compiled for instructions that not every CPU has: all here has internal
// linkage but the one function, and no inline function of the standard library
// is used.
#include "kernels/cpu/few_rows.h"

#include <immintrin.h>

namespace ttt {
namespace {

constexpr int kWidth = 16;
constexpr int kVecs = kPanelOutputs / kWidth;
constexpr int64_t kPairHalves = 2 * kPanelOutputs;  // bfloat16, one pair
// Pairs of inputs whose weights, 16 KiB, all rows use from the first cache, and
// as many are asked for ahead.
constexpr int64_t kBlockPairs = 64;
// Rows whose sums fit the registers, beside the weights.
constexpr int kTileRows = 6;

inline __m512bh Pair(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}

// Some pairs of inputs of a panel.
struct Block {
  const uint16_t* input;    // of the first row and pair
  int64_t input_stride;     // in bfloat16
  const uint16_t* weights;  // of the first pair
  int64_t num_pairs;
  bool begins;  // else the sums go on from `sums`
  // Vectors of each pair whose counterparts in the next block are asked for.
  int ask_begin;
  int ask_end;
};

// Sums of kRows rows, left in `sums` [kRows, kPanelOutputs].
template <int kRows>
inline void AddBlock(const Block& block, float* sums) {
  __m512 acc[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = block.begins
                      ? _mm512_setzero_ps()
                      : _mm512_loadu_ps(sums + r * kPanelOutputs + v * kWidth);
    }
  }
  for (int64_t p = 0; p < block.num_pairs; ++p) {
    __m512bh w[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const uint16_t* const line =
          block.weights + p * kPairHalves + 2 * v * kWidth;
      w[v] = (__m512bh)_mm512_loadu_si512(line);
      if (v >= block.ask_begin && v < block.ask_end) {
        _mm_prefetch((const char*)(line + kBlockPairs * kPairHalves),
                     _MM_HINT_T0);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = Pair(block.input + r * block.input_stride + 2 * p);
      for (int v = 0; v < kVecs; ++v) {
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], x);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      _mm512_storeu_ps(sums + r * kPanelOutputs + v * kWidth, acc[r][v]);
    }
  }
}

// num_rows rows, tile by tile. Each tile asks for its share of the next block,
// so that the memory is as busy in the last tile as in the first.
template <int kRows>
inline void AddLastRows(const Block& block, int64_t num_rows, float* sums) {
  if (num_rows == kRows) {
    AddBlock<kRows>(block, sums);
  } else if constexpr (kRows > 1) {
    AddLastRows<kRows - 1>(block, num_rows, sums);
  }
}
inline void AddRows(Block block, int64_t num_rows, float* sums) {
  int tiles = (int)((num_rows + kTileRows - 1) / kTileRows);
  block.ask_end = 0;
  for (; tiles > 0; --tiles) {
    block.ask_begin = block.ask_end;
    block.ask_end += (kVecs - block.ask_begin + tiles - 1) / tiles;
    if (tiles == 1) break;
    AddBlock<kTileRows>(block, sums);
    block.input += kTileRows * block.input_stride;
    sums += kTileRows * kPanelOutputs;
    num_rows -= kTileRows;
  }
  AddLastRows<kTileRows>(block, num_rows, sums);
}

// A chunk's sums become the output, or are added to it.
inline void Store(const float* sums, int64_t num_rows, int64_t num_outputs,
                  bool is_first, int64_t stride, float* output) {
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < num_outputs; i += kWidth) {
      float* const to = output + r * stride + i;
      __m512 sum = _mm512_loadu_ps(sums + r * kPanelOutputs + i);
      if (!is_first) sum = _mm512_loadu_ps(to) + sum;
      _mm512_storeu_ps(to, sum);
    }
  }
}

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace

void MultiplyFewRows(const FewRowsArgs& args) {
  const int64_t num_pairs = args.num_inputs / 2;
  const int64_t chunk_pairs = args.chunk_inputs / 2;
  float sums[kMaxFewRows * kPanelOutputs];
  for (int64_t n = 0; n < args.num_outputs; n += kPanelOutputs) {
    const uint16_t* const panel = args.packed + n * args.num_inputs;
    for (int64_t chunk = 0; chunk < num_pairs; chunk += chunk_pairs) {
      const int64_t end = Least(num_pairs, chunk + chunk_pairs);
      for (int64_t pair = chunk; pair < end; pair += kBlockPairs) {
        AddRows({.input = args.input + 2 * pair,
                 .input_stride = args.num_inputs,
                 .weights = panel + pair * kPairHalves,
                 .num_pairs = Least(kBlockPairs, end - pair),
                 .begins = pair == chunk,
                 .ask_begin = 0,
                 .ask_end = kVecs},
                args.num_rows, sums);
      }
      Store(sums, args.num_rows, Least(kPanelOutputs, args.num_outputs - n),
            chunk == 0, args.num_outputs, args.output + n);
    }
  }
}

}  // namespace ttt
