#include "client/bench/results.h"

#include <algorithm>
#include <cmath>

namespace ttt::bench {

uint64_t DigestToken(uint64_t digest, int32_t token) {
  return (digest ^ static_cast<uint32_t>(token)) * 0x100000001B3ull;
}

std::optional<double> TimePerOutputToken(const RequestRecord& record) {
  const int64_t later = record.output_tokens - record.first_event_tokens;
  if (!record.ttft.has_value() || later <= 0) return std::nullopt;
  return (record.last_token - *record.ttft) / static_cast<double>(later);
}

bool Meets(const Slo& slo, const RequestRecord& record) {
  const auto within = [](const std::optional<absl::Duration>& limit,
                         double seconds) {
    return !limit.has_value() || seconds <= absl::ToDoubleSeconds(*limit);
  };
  double itl_p99 = 0;
  if (record.gaps != nullptr && !record.gaps->empty()) {
    const auto count = static_cast<double>(record.gaps->size());
    const auto rank = static_cast<size_t>(std::ceil(0.99 * count - 1e-9));
    itl_p99 = (*record.gaps)[rank - 1].seconds;
  }
  return within(slo.ttft, record.ttft.value_or(record.e2e)) &&
         within(slo.tpot, TimePerOutputToken(record).value_or(0)) &&
         within(slo.itl, itl_p99) && within(slo.e2e, record.e2e);
}

void Results::AddRequest(const RequestRecord& record) {
  if (record.gaps != nullptr) {
    std::sort(record.gaps->begin(), record.gaps->end(),
              [](const Gap& a, const Gap& b) { return a.seconds < b.seconds; });
  }
  const bool is_ok = record.outcome == Outcome::kOk;
  const bool is_good = is_ok && !record.slow_reader && Meets(slo_, record);
  if (record.ended_in_window) {
    ended_in_window_ += is_ok;
    good_in_window_ += is_good;
    if (is_good) good_tokens_in_window_ += record.output_tokens;
  }
  if (!record.in_window) return;
  ++counts_[record.outcome];
  slow_readers_ += record.slow_reader;
  good_ += is_good;
  judged_ += record.outcome != Outcome::kCancelled && !record.slow_reader;
  if (!is_ok) {
    ++errors_[{record.code, record.reason}];
    return;
  }
  tokens_digest_ += record.tokens_digest;
  if (!record.slow_reader) AddTimes(record);
}

void Results::AddTimes(const RequestRecord& record) {
  times.e2e.Add(record.e2e);
  if (record.ttft.has_value()) times.ttft.Add(*record.ttft);
  if (const auto tpot = TimePerOutputToken(record)) times.tpot.Add(*tpot);
  times.queue.Add(record.queue_seconds);
  times.prefill.Add(record.prefill_seconds);
  times.decode.Add(record.decode_seconds);
  if (record.gaps == nullptr) return;
  for (const Gap& gap : *record.gaps) {
    times.itl.Add(gap.seconds);
    (gap.beside_background ? times.itl_beside_background
                           : times.itl_without_background)
        .Add(gap.seconds);
  }
}

void Results::AddRefusal(double seconds, bool has_retry_hint, bool late) {
  ++refusals_;
  late_refusals_ += late;
  refusals_with_hint_ += has_retry_hint;
  (late ? late_refusal_times_ : refusal_times_).Add(seconds);
}

int64_t Results::count(Outcome outcome) const {
  const auto found = counts_.find(outcome);
  return found == counts_.end() ? 0 : found->second;
}

int64_t Results::sent() const {
  int64_t sent = 0;
  for (const auto& [outcome, count] : counts_) sent += count;
  return sent;
}

}  // namespace ttt::bench
