#pragma once

#include <cstdint>

namespace ttt {

// How far apart two sums in double of the same n weights >= 0 may be, whatever
// the order of each; `total` is either sum. Each of the n - 1 additions is off
// by at most 2^-53 of what it gives, which is at most the total: the two sums
// together by 2 (n - 1) 2^-53 of it. The factor taken here is 32 times as
// large, for a product by top_p or by the random number and for the sums'
// own errors in `total`; a larger one costs a slow path now and then, a
// smaller one a wrong token.
inline double SlackOf(double total, int32_t n) {
  return total * (double(n) + 8.0) * 0x1p-47;
}

}  // namespace ttt
