#include "server/session/state_layout.h"

#include <utility>

#include "server/base/check.h"

namespace ttt {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kAlignment = 64;

}  // namespace

int64_t PlaneSpec::num_words() const {
  int64_t words = 1;
  for (const int64_t dimension : shape) {
    TTT_CHECK(dimension >= 0);
    TTT_CHECK(!__builtin_mul_overflow(words, dimension, &words));
  }
  return words;
}

void StateLayout::Add(PlaneSpec plane) {
  TTT_CHECK(!plane.name.empty());
  for (const PlaneSpec& other : planes) TTT_CHECK(other.name != plane.name);
  TTT_CHECK((plane.row_words > 0) == (plane.role == PlaneRole::kPendingRows));

  int64_t end = 0;
  TTT_CHECK(!__builtin_mul_overflow(plane.num_words(), kWordBytes, &end));
  TTT_CHECK(!__builtin_add_overflow(end, slot_bytes + kAlignment - 1, &end));
  plane.offset_bytes = slot_bytes;
  slot_bytes = end / kAlignment * kAlignment;
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
