// How a matrix of weights lies in device memory for the products in bfloat16.
//
// Outputs are cut into strips of 16, inputs into tiles of 64; both are padded
// with zeros. A strip's tiles follow each other, and a tile is 16 rows of 128
// bytes, of which the 16-byte chunk c of row r stands in place c ^ (r % 8). So
// the weights that a block needs are few, long and contiguous runs, and lie in
// shared memory as ldmatrix reads them without bank conflicts and as wgmma
// wants them (128-byte swizzle).
#pragma once

#include <cstdint>

namespace ttt {

inline constexpr int32_t kStripOutputs = 16;
inline constexpr int32_t kTileInputs = 64;
inline constexpr int32_t kTileValues = kStripOutputs * kTileInputs;
inline constexpr int32_t kTileBytes = kTileValues * 2;
inline constexpr int32_t kChunkValues = 8;  // of 16 bytes
inline constexpr int32_t kChunksOfARow = kTileInputs / kChunkValues;

// To which the matrix is padded.
inline constexpr int32_t kOutputPadding = 128;
inline constexpr int32_t kInputPadding = 128;

// Of weight (output, input), in values from the start of the matrix.
constexpr int64_t PackedOffset(int32_t output, int32_t input,
                               int32_t padded_inputs) {
  const int64_t tile =
      int64_t{output / kStripOutputs} * (padded_inputs / kTileInputs) +
      input / kTileInputs;
  const int32_t row = output % kStripOutputs;
  const int32_t chunk = input % kTileInputs / kChunkValues;
  return tile * kTileValues + row * kTileInputs +
         (chunk ^ row % 8) * kChunkValues + input % kChunkValues;
}

}  // namespace ttt
