// Products of a few bfloat16 rows with a packed slab, for decode: each weight
// comes from memory once, and the next ones are asked for while it is used.
// Part of dnnl_gemm.
#pragma once

#include <cstdint>

namespace ttt {

inline constexpr int32_t kMaxFewRows = 16;
// Outputs that lie together in the packed slab.
inline constexpr int32_t kPanelOutputs = 64;

// A slab [num_panels, num_inputs / 2, kPanelOutputs, 2] of bfloat16: pairs of
// inputs, outputs beside each other.
struct FewRowsArgs {
  const uint16_t* input;  // [num_rows, num_inputs]
  const uint16_t* packed;
  float* output;         // [num_rows, num_outputs] out
  int32_t num_rows;      // in [1, kMaxFewRows]
  int64_t num_inputs;    // a multiple of 32
  int64_t num_outputs;   // a multiple of 16
  int64_t chunk_inputs;  // a multiple of 32
};

// Each output is the sum, in rising order, of the products of chunks of inputs,
// each of them one chain of the CPU's fused pairwise additions from zero,
// whatever the number of rows. Needs AVX512-BF16.
void MultiplyFewRows(const FewRowsArgs& args);

}  // namespace ttt
