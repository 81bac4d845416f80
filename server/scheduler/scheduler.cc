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

// What prompts may take of the step, beside `decode_rows` rows.
int64_t PrefillBudget(const SchedulerOptions& options, int32_t decode_rows,
                      int64_t num_prompts, int64_t budget) {
  if (options.costs == nullptr || decode_rows == 0) return budget;
  // Room for the oldest prompt and for another.
  const int64_t least = options.mini_batch * std::min<int64_t>(num_prompts, 2);
  return std::min(budget,
                  options.costs->PrefillTokensBeside(decode_rows, least));
}

// The oldest comes last, and gets what the others leave: at least the part that
// is kept for it, so that it never waits for ever. The others, shortest first.
void SortByTurn(absl::Span<const SchedulerRow> rows,
                std::vector<int32_t>* prompts) {
  if (prompts->empty()) return;
  std::rotate(prompts->begin(), prompts->begin() + 1, prompts->end());
  std::stable_sort(prompts->begin(), prompts->end() - 1,
                   [&](int32_t a, int32_t b) {
                     return rows[a].pending_tokens < rows[b].pending_tokens;
                   });
}

}  // namespace

std::vector<ScheduledRow> PlanStep(const SchedulerOptions& options,
                                   absl::Span<const SchedulerRow> rows) {
  std::vector<ScheduledRow> plan;
  std::vector<int32_t> prompts;
  int64_t budget = options.max_tokens;
  int32_t decode_rows = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(rows.size()); ++i) {
    if (rows[i].is_blocked) continue;
    if (rows[i].pending_tokens > 1) {
      prompts.push_back(i);
    } else if (rows[i].pending_tokens <= budget) {
      plan.push_back({i, static_cast<int32_t>(rows[i].pending_tokens)});
      budget -= rows[i].pending_tokens;
      if (rows[i].is_decoding) ++decode_rows;
    }
  }
  int64_t waiting = static_cast<int64_t>(prompts.size());
  budget = PrefillBudget(options, decode_rows, waiting, budget);
  SortByTurn(rows, &prompts);
  int64_t kept = std::min<int64_t>(budget, options.mini_batch);
  std::vector<ScheduledRow> chunks;
  for (const int32_t i : prompts) {
    if (waiting == 1) kept = 0;  // The oldest, for which it was kept.
    const int64_t share =
        std::max<int64_t>((budget + waiting - 1) / waiting, options.mini_batch);
    const int64_t tokens = ChunkTokens(rows[i], std::min(share, budget - kept),
                                       options.mini_batch);
    --waiting;
    if (tokens == 0) continue;
    chunks.push_back({i, static_cast<int32_t>(tokens)});
    budget -= tokens;
  }
  std::sort(chunks.begin(), chunks.end(),
            [](const ScheduledRow& a, const ScheduledRow& b) {
              return a.row < b.row;
            });
  PlaceLongRows(options.long_rows, absl::MakeSpan(plan),
                [&](const ScheduledRow& row) {
                  const int64_t end = rows[row.row].position + row.num_tokens;
                  return row.num_tokens > 0 && end % options.mini_batch == 0;
                });
  plan.insert(plan.end(), chunks.begin(), chunks.end());
  return plan;
}

}  // namespace ttt
