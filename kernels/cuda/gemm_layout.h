// How a matrix of weights lies in device memory for the products in bfloat16,
// and in which order its inputs are summed.
//
// Outputs are cut into strips of 16, inputs into tiles of 64; both are padded
// with zeros. The strips of a tile of inputs follow each other; each is 16 rows
// of 128 bytes, of which the 16-byte chunk c of row r stands in place c ^ (r %
// 8). So neighbouring outputs of a tile are one contiguous run, which lies in
// shared memory as wgmma wants it (128-byte swizzle).
#pragma once

#include <cstdint>

namespace ttt {

inline constexpr int32_t kStripOutputs = 16;
inline constexpr int32_t kTileInputs = 64;
inline constexpr int32_t kTileValues = kStripOutputs * kTileInputs;
inline constexpr int32_t kTileBytes = kTileValues * 2;
inline constexpr int32_t kChunkValues = 8;             // of 16 bytes
inline constexpr int32_t kRowBytes = kTileInputs * 2;  // of a tile

// To which the matrix is padded.
inline constexpr int32_t kOutputPadding = 64;
inline constexpr int32_t kInputPadding = 64;

constexpr int32_t PaddedStrips(int32_t num_outputs) {
  return (num_outputs + kOutputPadding - 1) / kOutputPadding *
         (kOutputPadding / kStripOutputs);
}

// Matrices of few outputs and many inputs would keep a multiprocessor waiting
// for one long chain of sums: their inputs are cut into so many parts, each a
// whole number of tiles, whose sums are added in order, ((0 + 1) + 2) + 3, for
// few rows and for many. Of the shape alone, so that bits do not depend on the
// number of rows. (Matrices whose inputs the copy engine cannot read have a
// form of their own, which cuts nothing.)
inline constexpr int32_t kMostParts = 4;
constexpr int32_t NumParts(int32_t num_outputs, int32_t padded_inputs) {
  return num_outputs <= 4096 && padded_inputs >= 2 * kMostParts * kTileInputs
             ? kMostParts
             : 1;
}
// The first tile of part `part` of kMostParts, or the end of the last.
constexpr int32_t PartBegin(int32_t part, int32_t num_tiles) {
  return part * num_tiles / kMostParts;
}

// Where GemmSwiGlu has the gate of a channel among the outputs, and where its
// up: next to each other in eights, so that one thread sums both.
inline constexpr int32_t kGateOutputs = kStripOutputs / 2;
constexpr int32_t GateOutput(int32_t channel) {
  return channel / kGateOutputs * kStripOutputs + channel % kGateOutputs;
}
constexpr int32_t UpOutput(int32_t channel) {
  return GateOutput(channel) + kGateOutputs;
}

// Of weight (output, input), in values from the start of a matrix of so many
// strips.
constexpr int64_t PackedOffset(int32_t output, int32_t input,
                               int32_t padded_strips) {
  const int64_t tile =
      int64_t{input / kTileInputs} * padded_strips + output / kStripOutputs;
  const int32_t row = output % kStripOutputs;
  const int32_t chunk = input % kTileInputs / kChunkValues;
  return tile * kTileValues + row * kTileInputs +
         (chunk ^ row % 8) * kChunkValues + input % kChunkValues;
}

}  // namespace ttt
