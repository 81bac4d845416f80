#include "server/session/state_layout.h"

#include <cstring>
#include <utility>

#include "kernels/state_forms.h"
#include "server/base/check.h"

namespace ttt {
namespace {

constexpr int64_t kWordBytes = 4;

// The bfloat16 nearest to a float32, ties to even. A NaN stays one.
uint16_t RoundToHalf(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

int64_t PlaneSpec::num_words() const {
  int64_t words = 1;
  for (const int64_t dimension : shape) {
    TTT_CHECK(dimension >= 0);
    TTT_CHECK(!__builtin_mul_overflow(words, dimension, &words));
  }
  return words;
}

int64_t PlaneSpec::stored_bytes() const {
  return num_words() * (form == PlaneForm::kBFloat16 ? 2 : kWordBytes);
}

int64_t PlaneSpec::matrix_words() const {
  TTT_CHECK(form == PlaneForm::kSplit && shape.size() >= 2);
  return shape[shape.size() - 2] * shape.back();
}

void StoreWords(const PlaneSpec& plane, absl::Span<const uint32_t> words,
                std::byte* stored) {
  switch (plane.form) {
    case PlaneForm::kWords:
      std::memcpy(stored, words.data(), words.size() * kWordBytes);
      return;
    case PlaneForm::kBFloat16: {
      auto* const halves = reinterpret_cast<uint16_t*>(stored);
      for (size_t i = 0; i < words.size(); ++i) {
        halves[i] = RoundToHalf(words[i]);
      }
      return;
    }
    case PlaneForm::kSplit: {
      const int64_t n = plane.matrix_words();
      const auto count = static_cast<int64_t>(words.size());
      TTT_CHECK(count % n == 0);
      for (int64_t first = 0; first < count; first += n) {
        auto* const highs =
            reinterpret_cast<uint16_t*>(stored + first * kWordBytes);
        auto* const lows = reinterpret_cast<int16_t*>(highs + n);
        for (int64_t i = 0; i < n; ++i) {
          highs[i] = SplitHigh(words[first + i]);
          lows[i] = SplitLow(words[first + i]);
        }
      }
      return;
    }
  }
}

void LoadWords(const PlaneSpec& plane, const std::byte* stored,
               absl::Span<uint32_t> words) {
  switch (plane.form) {
    case PlaneForm::kWords:
      std::memcpy(words.data(), stored, words.size() * kWordBytes);
      return;
    case PlaneForm::kBFloat16: {
      const auto* const halves = reinterpret_cast<const uint16_t*>(stored);
      for (size_t i = 0; i < words.size(); ++i) {
        words[i] = uint32_t{halves[i]} << 16;
      }
      return;
    }
    case PlaneForm::kSplit: {
      const int64_t n = plane.matrix_words();
      const auto count = static_cast<int64_t>(words.size());
      TTT_CHECK(count % n == 0);
      for (int64_t first = 0; first < count; first += n) {
        const auto* const highs =
            reinterpret_cast<const uint16_t*>(stored + first * kWordBytes);
        const auto* const lows = reinterpret_cast<const int16_t*>(highs + n);
        for (int64_t i = 0; i < n; ++i) {
          words[first + i] = JoinSplit(highs[i], lows[i]);
        }
      }
      return;
    }
  }
}

void StateLayout::Add(PlaneSpec plane) {
  TTT_CHECK(!plane.name.empty());
  for (const PlaneSpec& other : planes) TTT_CHECK(other.name != plane.name);
  TTT_CHECK((plane.row_words > 0) == (plane.role == PlaneRole::kPendingRows));
  TTT_CHECK(plane.form != PlaneForm::kSplit || plane.matrix_words() > 0);

  int64_t end = 0;
  TTT_CHECK(!__builtin_mul_overflow(plane.num_words(), kWordBytes, &end));
  TTT_CHECK(!__builtin_add_overflow(plane.stored_bytes(),
                                    slot_bytes + kLineBytes - 1, &end));
  plane.offset_bytes = slot_bytes;
  slot_bytes = end / kLineBytes * kLineBytes;
  planes.push_back(std::move(plane));
}

const PlaneSpec& StateLayout::Find(absl::string_view name) const {
  const PlaneSpec* found = nullptr;
  for (const PlaneSpec& plane : planes) {
    if (plane.name == name) found = &plane;
  }
  TTT_CHECK(found != nullptr);
  return *found;
}

}  // namespace ttt
