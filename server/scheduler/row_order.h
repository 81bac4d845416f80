// In which order a step has the rows of one token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace ttt {

// So many at the end are short where others can be: what a device begins last
// should not be what takes longest. A GPU begins the heads of about 12 rows of
// the 1.3b at once.
inline constexpr int64_t kShortRowsAtEnd = 20;

// Spreads the rows that take longer, those that end a mini-batch and so write
// their state, evenly over all but the last ones. Each kind keeps its order.
template <typename Row, typename IsLong>
void SpreadLongRows(absl::Span<Row> rows, const IsLong& is_long) {
  std::vector<Row> of_kind(rows.begin(), rows.end());
  const auto first_short =
      std::stable_partition(of_kind.begin(), of_kind.end(), is_long);
  const int64_t num_long = first_short - of_kind.begin();
  const int64_t room = std::max<int64_t>(
      num_long, static_cast<int64_t>(rows.size()) - kShortRowsAtEnd);
  auto next_long = of_kind.begin();
  auto next_short = first_short;
  for (int64_t i = 0; i < static_cast<int64_t>(rows.size()); ++i) {
    const bool is_turn = i * num_long >= (next_long - of_kind.begin()) * room;
    rows[i] =
        next_long != first_short && is_turn ? *next_long++ : *next_short++;
  }
}

}  // namespace ttt
