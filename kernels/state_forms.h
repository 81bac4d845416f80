// Words of a state as backends keep them; the forms are those of op_args.h.
#pragma once

#include <cstdint>

namespace ttt {

// A float32 in two halves. The high one is the bfloat16 nearest to it, ties
// away from zero; the low one is what is missing, so that every bit comes back:
// bits = (high << 16) + low, modulo 2^32.
constexpr uint16_t SplitHigh(uint32_t bits) {
  return static_cast<uint16_t>((bits + 0x8000u) >> 16);
}
constexpr int16_t SplitLow(uint32_t bits) {
  return static_cast<int16_t>(static_cast<uint16_t>(bits));
}
constexpr uint32_t JoinSplit(uint16_t high, int16_t low) {
  return (uint32_t{high} << 16) + static_cast<uint32_t>(int32_t{low});
}

}  // namespace ttt
