#include "kernels/cpu/sample_keys.h"

#include <algorithm>
#include <functional>

namespace ttt {
namespace {

// Puts the best keys of [begin, end) in order at its front.
void SortBest(uint64_t* begin, uint64_t* middle, uint64_t* end) {
  if (middle - begin > (end - begin) / 16) {
    if (middle != end) {
      std::nth_element(begin, middle, end, std::greater<>());
    }
    std::sort(begin, middle, std::greater<>());
  } else {
    std::partial_sort(begin, middle, end, std::greater<>());
  }
}

}  // namespace

void MakeKeys(const float* values, int32_t n, std::vector<uint64_t>& keys) {
  keys.resize(n);
  for (int32_t id = 0; id < n; ++id) keys[id] = KeyOf(values[id], id);
}

void BestKeys(const float* values, int32_t n, int32_t count,
              std::vector<uint64_t>& keys) {
  constexpr int32_t kBlock = 16;
  const int32_t room = 2 * count + 256;
  if (room > n / 4) {
    MakeKeys(values, n, keys);
    SortBest(keys.data(), keys.data() + count, keys.data() + n);
    keys.resize(count);
    return;
  }
  // Holds the best so far, and others; what is not above the worst of the best
  // is not looked at. Of equals the first came first, and is better.
  MakeKeys(values, room, keys);
  float least = 0.0f;
  const auto shrink = [&] {
    std::nth_element(keys.begin(), keys.begin() + count - 1, keys.end(),
                     std::greater<>());
    keys.resize(count);
    least = values[IdOf(keys.back())];
  };
  shrink();
  for (int32_t begin = room; begin < n; begin += kBlock) {
    const int32_t end = std::min(n, begin + kBlock);
    if (end - begin == kBlock) {
      int32_t above = 0;
      for (int32_t i = 0; i < kBlock; ++i) above |= values[begin + i] > least;
      if (above == 0) continue;
    }
    for (int32_t id = begin; id < end; ++id) {
      if (values[id] > least) keys.push_back(KeyOf(values[id], id));
    }
    if (int32_t(keys.size()) + kBlock > room) shrink();
  }
  std::sort(keys.begin(), keys.end(), std::greater<>());
  keys.resize(count);
}

}  // namespace ttt
