#include "client/bench/workload.h"

#include <algorithm>
#include <utility>

namespace ttt::bench {
namespace {

// What a generator is for.
enum Kind : uint64_t { kPlan = 1, kInput = 2, kArrivals = 3, kSampling = 4 };

bool ContinuesCharacter(char byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

Workload::Workload(const Options& options, const v1::ServerInfo::Model& model,
                   std::string text, double bytes_per_token)
    : options_(options),
      vocab_size_(model.vocab_size()),
      bos_token_id_(model.bos_token_id()),
      eos_token_id_(model.eos_token_id()),
      text_(std::move(text)),
      bytes_per_token_(bytes_per_token) {}

TurnPlan Workload::Plan(int64_t session, int32_t turn) const {
  Random random = Random::For(options_.seed, kPlan, session, turn);
  TurnPlan plan;
  plan.input_tokens = options_.input_tokens.Draw(&random);
  plan.output_tokens = options_.output_tokens.Draw(&random);
  plan.cancelled = random.Uniform() < options_.cancel_fraction;
  const double cancel_at = random.Uniform();
  plan.slow_reader =
      random.Uniform() < options_.slow_reader_fraction && !plan.cancelled;
  plan.cancel_after_tokens =
      static_cast<int64_t>(cancel_at * static_cast<double>(plan.output_tokens));
  plan.cancel_after =
      options_.cancel_within.value_or(absl::ZeroDuration()) * cancel_at;
  const double think = random.Exponential(1.0);
  if (turn > 0) {
    plan.think =
        options_.think_exponential ? options_.think * think : options_.think;
  }
  plan.retry_jitter = random.Uniform();
  return plan;
}

std::vector<int32_t> Workload::InputIds(int64_t session, int32_t turn,
                                        int64_t count) const {
  Random random = Random::For(options_.seed, kInput, session, turn);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    do {
      id = static_cast<int32_t>(random.Between(0, vocab_size_ - 1));
    } while ((id == bos_token_id_ || id == eos_token_id_) && vocab_size_ > 2);
  }
  return ids;
}

std::string Workload::InputText(int64_t session, int32_t turn,
                                int64_t count) const {
  Random random = Random::For(options_.seed, kInput, session, turn);
  const auto wanted = static_cast<size_t>(
      std::max(1.0, static_cast<double>(count) * bytes_per_token_));
  size_t at = static_cast<size_t>(random.Between(0, text_.size() - 1));
  std::string piece;
  while (piece.size() < wanted) {
    while (at < text_.size() && ContinuesCharacter(text_[at])) ++at;
    size_t end = std::min(text_.size(), at + wanted - piece.size());
    while (end < text_.size() && ContinuesCharacter(text_[end])) ++end;
    piece.append(text_, at, end - at);
    at = 0;  // The text is a ring.
  }
  return piece;
}

void Workload::FillRequest(const TurnPlan& plan, int64_t session, int32_t turn,
                           v1::CompleteRequest* request) const {
  v1::Sampling& sampling = *request->mutable_sampling();
  sampling.set_max_tokens(static_cast<int32_t>(plan.output_tokens));
  if (options_.temperature > 0) {
    sampling.set_temperature(static_cast<float>(options_.temperature));
    sampling.set_seed(
        Random::For(options_.seed, kSampling, session, turn).Next());
  }
  request->mutable_stop()->set_ignore_eos(options_.ignore_eos);
}

Arrivals::Arrivals(uint64_t seed, double rate)
    : mean_gap_(1.0 / rate), random_(Random::For(seed, kArrivals, 0, 0)) {
  Advance();
}

void Arrivals::Advance() { next_ += random_.Exponential(mean_gap_); }

}  // namespace ttt::bench
