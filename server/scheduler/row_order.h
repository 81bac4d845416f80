// In which order a step has the rows of one token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace ttt {

// Where the rows that take longer stand.
enum class LongRowsPlace {
  kFirst,
  // All over, so that they do not meet, but for some places at the end: a
  // device should not begin what takes longest last.
  kSpread,
};
inline constexpr int64_t kShortRowsAtEnd = 20;  // of kSpread, as timed

// The faster on a GPU, as measured (tests/bench/TRIED.md).
constexpr LongRowsPlace PlaceOfLongRows(bool is_mlp) {
  return is_mlp ? LongRowsPlace::kSpread : LongRowsPlace::kFirst;
}

// Places the rows that take longer, those that end a mini-batch and so write
// their state; in a launch of several steps, those that do so in the first.
// Each kind keeps its order.
template <typename Row, typename IsLong>
void PlaceLongRows(LongRowsPlace place, absl::Span<Row> rows,
                   const IsLong& is_long) {
  std::vector<Row> of_kind(rows.begin(), rows.end());
  const auto first_short =
      std::stable_partition(of_kind.begin(), of_kind.end(), is_long);
  const int64_t num_long = first_short - of_kind.begin();
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  const int64_t room = place == LongRowsPlace::kFirst
                           ? num_long
                           : std::max(num_long, num_rows - kShortRowsAtEnd);
  auto next_long = of_kind.begin();
  auto next_short = first_short;
  for (int64_t i = 0; i < num_rows; ++i) {
    const bool is_turn = i * num_long >= (next_long - of_kind.begin()) * room;
    rows[i] =
        next_long != first_short && is_turn ? *next_long++ : *next_short++;
  }
}

}  // namespace ttt
