// Values with their ids as integers that sort.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace ttt {

// Orders by value, ties to the lowest id: greater keys are better. A NaN must
// not get here.
inline uint64_t KeyOf(float value, int32_t id) {
  const uint32_t bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0.0 is 0.0
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{ordered} << 32 | uint32_t(~id);
}
inline int32_t IdOf(uint64_t key) { return int32_t(~uint32_t(key)); }

// Of all n values, in the order of ids.
void MakeKeys(const float* values, int32_t n, std::vector<uint64_t>& keys);
// Puts the best `count` keys of the n values, best first, in `keys`; 1 <= count
// <= n.
void BestKeys(const float* values, int32_t n, int32_t count,
              std::vector<uint64_t>& keys);

}  // namespace ttt
