#include "server/model/host_step.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "server/base/check.h"

namespace ttt {

void HostStep::Build(const TttModel::Limits& limits,
                     absl::Span<const StepSequence> sequences,
                     absl::Span<const LogitsRequest> requests,
                     int32_t num_steps) {
  const int32_t requests_before = sizes_.requests;
  const bool after_steps = sizes_.steps > 1;
  int64_t num_rows = 0;
  for (const StepSequence& sequence : sequences) {
    num_rows += static_cast<int64_t>(sequence.token_ids.size());
  }
  TTT_CHECK(num_rows <= limits.max_rows);
  TTT_CHECK(static_cast<int64_t>(sequences.size()) <= limits.max_sequences);
  TTT_CHECK(static_cast<int64_t>(requests.size()) <= MaxLogitsRequests(limits));
  sizes_ = {.rows = static_cast<int32_t>(num_rows),
            .sequences = static_cast<int32_t>(sequences.size()),
            .requests = static_cast<int32_t>(requests.size()),
            .steps = num_steps};
  if (fills_up_ && sizes_.rows == sizes_.sequences) {
    sizes_.requests = std::max(sizes_.requests, sizes_.sequences);
  }
  for (const LogitsRequest& request : requests) {
    sizes_.candidates = std::max(sizes_.candidates, request.num_candidates);
  }
  TTT_CHECK(sizes_.candidates <= limits.max_candidates);
  // Of usual steps there are few sizes.
  if (sizes_.candidates > 0 && IsUsual(sizes_)) {
    sizes_.candidates = limits.max_candidates;
  }
  input_.resize(num_steps * LayOutStepInput(sizes_, nullptr).bytes);
  const StepInput input = LayOutStepInput(sizes_, input_.data());
  bias_ids_.clear();
  bias_values_.clear();

  int32_t first_row = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const StepSequence& sequence = sequences[i];
    const int32_t count = static_cast<int32_t>(sequence.token_ids.size());
    input.sequences[i] = {first_row, count, sequence.slot, sequence.position};
    for (int32_t row = 0; row < count; ++row) {
      const int32_t id = sequence.token_ids[row];
      TTT_CHECK(id >= ChosenBy(requests_before - 1));
      input.token_ids[first_row + row] = id;
    }
    std::fill_n(input.row_sequence + first_row, count, static_cast<int32_t>(i));
    first_row += count;
  }
  const int32_t num_requests = static_cast<int32_t>(requests.size());
  for (int32_t i = 0; i < num_requests; ++i) AddRequest(requests[i], i, input);
  for (int32_t i = num_requests; i < sizes_.requests; ++i) {
    AddRequest({.sequence = 0, .row = -1, .given_token = kNoToken}, i, input);
  }
  asks_for_ends_ = after_steps || num_steps > 1;
  if (num_steps > 1) AddSteps(sequences);
  if (asks_for_ends_) AddEnds(sequences, after_steps);
}

void HostStep::AddSteps(absl::Span<const StepSequence> sequences) {
  const int64_t bytes = LayOutStepInput(sizes_, nullptr).bytes;
  for (int32_t step = 1; step < sizes_.steps; ++step) {
    std::copy_n(input_.begin(), bytes, input_.begin() + step * bytes);
    const StepInput input = LayOutStepInput(sizes_, input_.data(), step);
    for (int32_t i = 0; i < sizes_.sequences; ++i) {
      // Request i is of sequence i, and row i its only one.
      TTT_CHECK(input.logits_rows[i] == i);
      input.token_ids[i] = ChosenBy(i);
      input.sequences[i].position += step;
      input.samples[i].position += step;
      if (step >= sequences[i].num_steps) input.sequences[i].num_rows = 0;
    }
  }
}

void HostStep::AddEnds(absl::Span<const StepSequence> sequences,
                       bool after_steps) {
  int64_t num_stop_ids = 0;
  for (const StepSequence& sequence : sequences) {
    TTT_CHECK(sequence.stop_ids.size() <=
              (sizes_.steps > 1 ? kMostStopIds : 0));
    num_stop_ids += static_cast<int64_t>(sequence.stop_ids.size());
  }
  input_.resize(LayOutEndInput(sizes_, num_stop_ids, nullptr).bytes);
  const EndInput ends = LayOutEndInput(sizes_, num_stop_ids, input_.data());
  int32_t* next = ends.stop_ids;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const absl::Span<const int32_t> ids = sequences[i].token_ids;
    const bool is_chosen = after_steps && !ids.empty() && ids[0] < 0;
    ends.before[i] = is_chosen ? ChosenBy(ids[0]) : -1;
    ends.stop_begin[i] = static_cast<int32_t>(next - ends.stop_ids);
    next = absl::c_copy(sequences[i].stop_ids, next);
  }
  ends.stop_begin[sequences.size()] =
      static_cast<int32_t>(next - ends.stop_ids);
}

void HostStep::AddRequest(const LogitsRequest& request, int32_t index,
                          const StepInput& input) {
  const SequenceRows& rows = input.sequences[request.sequence];
  TTT_CHECK(request.row >= -1 && request.row < rows.num_rows);
  input.logits_rows[index] =
      request.row < 0 ? -1 : rows.first_row + request.row;
  input.logits_slots[index] = rows.slot;
  input.samples[index] = MakeSample(request, rows);
}

SampleRow HostStep::MakeSample(const LogitsRequest& request,
                               const SequenceRows& rows) {
  SampleRow sample{.given_token = request.given_token,
                   .slot = rows.slot,
                   .position = rows.position + request.row + 1,
                   .seed = 0,
                   .temperature = 0,
                   .top_k = 0,
                   .top_p = 1,
                   .min_p = 0,
                   .repetition_penalty = 1,
                   .presence_penalty = 0,
                   .frequency_penalty = 0,
                   .bias_begin = static_cast<int32_t>(bias_ids_.size()),
                   .bias_end = static_cast<int32_t>(bias_ids_.size()),
                   .num_candidates = request.num_candidates};
  if (request.given_token != kSampleToken) return sample;
  // The ring must hold all of the sequence's tokens up to the row.
  TTT_CHECK(request.row == rows.num_rows - 1);
  const SamplingParams& params = *request.sampling;
  static_assert(kMaxLogitBias <= kMaxSampleBias);
  TTT_CHECK(params.logit_bias.size() <= kMaxLogitBias);
  sample.seed = params.seed;
  sample.temperature = params.temperature;
  sample.top_k = params.top_k;
  sample.top_p = params.top_p;
  sample.min_p = params.min_p;
  sample.repetition_penalty = params.repetition_penalty;
  sample.presence_penalty = params.presence_penalty;
  sample.frequency_penalty = params.frequency_penalty;
  for (const auto& [id, value] : params.logit_bias) {
    bias_ids_.push_back(id);
    bias_values_.push_back(value);
  }
  sample.bias_end = static_cast<int32_t>(bias_ids_.size());
  return sample;
}

}  // namespace ttt
