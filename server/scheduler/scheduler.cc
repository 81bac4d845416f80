#include "server/scheduler/scheduler.h"

#include <algorithm>

namespace ttt {
namespace {

// The largest chunk of at most `limit` tokens; short of the prompt's end it
// stops at a mini-batch boundary, unless none is within reach.
int64_t ChunkTokens(const SchedulerRow& row, int64_t limit,
                    int32_t mini_batch) {
  if (row.pending_tokens <= limit) return row.pending_tokens;
  const int64_t past_boundary = (row.position + limit) % mini_batch;
  return past_boundary < limit ? limit - past_boundary : limit;
}

}  // namespace

std::vector<ScheduledRow> PlanStep(const SchedulerOptions& options,
                                   absl::Span<const SchedulerRow> rows) {
  std::vector<ScheduledRow> plan;
  std::vector<int32_t> prompts;
  int64_t budget = options.max_tokens;
  for (int32_t i = 0; i < static_cast<int32_t>(rows.size()); ++i) {
    if (rows[i].is_blocked) continue;
    if (rows[i].pending_tokens > 1) {
      prompts.push_back(i);
    } else if (rows[i].pending_tokens <= budget) {
      plan.push_back({i, static_cast<int32_t>(rows[i].pending_tokens)});
      budget -= rows[i].pending_tokens;
    }
  }
  // Shortest first, so that what a short prompt leaves goes to the longer ones.
  std::vector<int32_t> by_length = prompts;
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](int32_t a, int32_t b) {
                     return rows[a].pending_tokens < rows[b].pending_tokens;
                   });
  std::vector<ScheduledRow> chunks;
  int64_t waiting = by_length.size();
  for (const int32_t i : by_length) {
    const int64_t share = (budget + waiting - 1) / waiting;
    const int64_t tokens =
        ChunkTokens(rows[i], std::min(share, budget), options.mini_batch);
    --waiting;
    if (tokens == 0) continue;
    chunks.push_back({i, static_cast<int32_t>(tokens)});
    budget -= tokens;
  }
  std::sort(chunks.begin(), chunks.end(),
            [](const ScheduledRow& a, const ScheduledRow& b) {
              return a.row < b.row;
            });
  plan.insert(plan.end(), chunks.begin(), chunks.end());
  return plan;
}

}  // namespace ttt
