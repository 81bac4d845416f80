#include "server/model/workspace.h"

#include <algorithm>

#include "server/model/weights.h"

namespace ttt {
namespace {

class Cutter {
 public:
  explicit Cutter(std::byte* base) : base_(base) {}

  template <typename T>
  void Cut(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(base_ + offset_);
    offset_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
  int64_t bytes() const { return offset_; }

 private:
  std::byte* const base_;
  int64_t offset_ = 0;
};

}  // namespace

WorkspaceArrays LayOutWorkspace(const ModelConfig& config,
                                const TttModel::Limits& limits,
                                std::byte* base) {
  const int64_t rows = limits.max_rows;
  const int64_t sequences = limits.max_sequences;
  const int64_t requests = MaxLogitsRequests(limits);
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  WorkspaceArrays a;
  Cutter cutter(base);
  cutter.Cut(a.token_ids, rows);
  cutter.Cut(a.sequences, sequences);
  cutter.Cut(a.logits_rows, requests);
  cutter.Cut(a.logits_slots, requests);
  cutter.Cut(a.samples, requests);
  cutter.Cut(a.bias_ids, sequences * kMaxLogitBias);
  cutter.Cut(a.bias_values, sequences * kMaxLogitBias);
  cutter.Cut(a.hidden, rows * hidden);
  cutter.Cut(a.normed, rows * hidden);
  // The head's input stands here too.
  cutter.Cut(a.operand,
             std::max(rows * std::max(hidden, inner), requests * hidden) *
                 static_cast<int64_t>(sizeof(float)));
  cutter.Cut(a.projections, rows * ProjectionOffsets::Of(config).width);
  cutter.Cut(a.queries, rows * hidden);
  cutter.Cut(a.keys, rows * hidden);
  cutter.Cut(a.targets, rows * hidden);
  cutter.Cut(a.rates, rows * config.num_attention_heads);
  cutter.Cut(a.learned, rows * hidden);
  cutter.Cut(a.gate_up, rows * 2 * inner);
  cutter.Cut(a.gathered, requests * hidden);
  cutter.Cut(a.logits, requests * config.vocab_size);
  cutter.Cut(a.sampled, requests);
  cutter.Cut(a.logprobs, requests);
  cutter.Cut(a.candidate_ids, requests * limits.max_candidates);
  cutter.Cut(a.candidate_logprobs, requests * limits.max_candidates);
  cutter.Cut(a.logits_finite, requests);
  cutter.Cut(a.hidden_finite, sequences);
  a.bytes = cutter.bytes();
  return a;
}

}  // namespace ttt
