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
    offset_ += WholeLines(count * static_cast<int64_t>(sizeof(T)));
  }
  int64_t bytes() const { return offset_; }

 private:
  std::byte* const base_;
  int64_t offset_ = 0;
};

StepInput LayOutOneInput(const StepSizes& sizes, std::byte* base) {
  StepInput input;
  Cutter cutter(base);
  cutter.Cut(input.token_ids, sizes.rows);
  cutter.Cut(input.sequences, sizes.sequences);
  cutter.Cut(input.row_sequence, sizes.rows);
  cutter.Cut(input.logits_rows, sizes.requests);
  cutter.Cut(input.logits_slots, sizes.requests);
  cutter.Cut(input.samples, sizes.requests);
  input.bytes = cutter.bytes();
  return input;
}

StepOutput LayOutOneOutput(const StepSizes& sizes, std::byte* base) {
  StepOutput output;
  Cutter cutter(base);
  cutter.Cut(output.sampled, sizes.requests);
  cutter.Cut(output.logprobs, sizes.requests);
  cutter.Cut(output.logits_finite, sizes.requests);
  cutter.Cut(output.hidden_finite, sizes.sequences);
  const int64_t candidates = int64_t{sizes.requests} * sizes.candidates;
  cutter.Cut(output.candidate_ids, candidates);
  cutter.Cut(output.candidate_logprobs, candidates);
  output.bytes = cutter.bytes();
  return output;
}

}  // namespace

StepInput LayOutStepInput(const StepSizes& sizes, std::byte* base,
                          int32_t step) {
  const int64_t bytes = LayOutOneInput(sizes, nullptr).bytes;
  return LayOutOneInput(sizes, base + step * bytes);
}

EndInput LayOutEndInput(const StepSizes& sizes, int64_t num_stop_ids,
                        std::byte* base) {
  const int64_t before = sizes.steps * LayOutOneInput(sizes, nullptr).bytes;
  EndInput input;
  Cutter cutter(base + before);
  cutter.Cut(input.before, sizes.sequences);
  cutter.Cut(input.stop_begin, sizes.sequences + 1);
  cutter.Cut(input.stop_ids, num_stop_ids);
  input.bytes = before + cutter.bytes();
  return input;
}

StepOutput LayOutStepOutput(const StepSizes& sizes, std::byte* base,
                            int32_t step) {
  const int64_t bytes = LayOutOneOutput(sizes, nullptr).bytes;
  return LayOutOneOutput(sizes, base + (sizes.steps - 1 - step) * bytes);
}

WorkspaceArrays LayOutWorkspace(const ModelConfig& config,
                                const TttModel::Limits& limits,
                                const StateForms& forms, std::byte* base) {
  const int64_t rows = limits.max_rows;
  const int64_t sequences = limits.max_sequences;
  const int64_t requests = MaxLogitsRequests(limits);
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  WorkspaceArrays a;
  Cutter cutter(base);
  const StepSizes largest = {limits.max_rows, limits.max_sequences,
                             static_cast<int32_t>(requests),
                             limits.max_candidates};
  const int32_t most = std::min(limits.max_rows, limits.max_sequences);
  const StepSizes longest = {most, most, most, limits.max_candidates,
                             TttModel::kMostSteps};
  cutter.Cut(
      a.input,
      std::max(LayOutEndInput(largest, 0, nullptr).bytes,
               LayOutEndInput(longest, int64_t{most} * kMostStopIds, nullptr)
                   .bytes));
  cutter.Cut(a.output, std::max(LayOutStepOutput(largest, nullptr).bytes,
                                TttModel::kMostSteps *
                                    LayOutStepOutput(longest, nullptr).bytes));
  cutter.Cut(a.ended, sequences);
  cutter.Cut(a.bias_ids, sequences * kMaxLogitBias);
  cutter.Cut(a.bias_values, sequences * kMaxLogitBias);
  cutter.Cut(a.hidden[0], rows * hidden);
  cutter.Cut(a.hidden[1], config.pre_conv ? rows * hidden : 0);
  // The head's input stands here too.
  cutter.Cut(a.operand, std::max(rows, requests) * hidden *
                            static_cast<int64_t>(sizeof(float)));
  cutter.Cut(a.projections, rows * ProjectionOffsets::Of(config).stride);
  const int64_t row_bytes = hidden * (forms.rows == DType::kBFloat16 ? 2 : 4);
  cutter.Cut(a.queries, rows * row_bytes);
  cutter.Cut(a.keys, rows * row_bytes);
  cutter.Cut(a.targets, rows * row_bytes);
  cutter.Cut(a.rates, rows * config.num_attention_heads);
  cutter.Cut(a.learned, rows * hidden);
  cutter.Cut(a.gate_up, rows * 2 * inner);
  cutter.Cut(a.gated, rows * inner * static_cast<int64_t>(sizeof(float)));
  cutter.Cut(a.gathered, requests * hidden);
  cutter.Cut(a.logits, requests * config.vocab_size);
  a.bytes = cutter.bytes();
  return a;
}

}  // namespace ttt
