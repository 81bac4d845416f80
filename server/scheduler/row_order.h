// In which order a step has the rows of one token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace ttt {

// Of up to so many rows those that take longer come first. Of more they are
// spread, but not over so many at the end: what a device begins last should not
// take longest. As measured on a GPU (tests/bench/README.md), not tuned.
inline constexpr int64_t kMostLongFirst = 64;
inline constexpr int64_t kShortRowsAtEnd = 20;

// Places the rows that take longer, those that end a mini-batch and so write
// their state; in a launch of several steps, those that do so in the first.
// Each kind keeps its order.
template <typename Row, typename IsLong>
void PlaceLongRows(absl::Span<Row> rows, const IsLong& is_long) {
  std::vector<Row> of_kind(rows.begin(), rows.end());
  const auto first_short =
      std::stable_partition(of_kind.begin(), of_kind.end(), is_long);
  const int64_t num_long = first_short - of_kind.begin();
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  const int64_t room = num_rows <= kMostLongFirst
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
