// The intermediate arrays of a step. Internal to the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "kernels/op_args.h"
#include "server/model/config.h"
#include "server/model/ttt_model.h"

namespace ttt {

// Pointers into one block of device memory, so that all of it is taken at
// start.
struct WorkspaceArrays {
  // Of a launch.
  std::byte* input;    // a StepInput a step, then the ends
  std::byte* output;   // a StepOutput a step, that of the last step first
  uint8_t* ended;      // [max_sequences], of EmbedTokens
  int32_t* bias_ids;   // [max_sequences, kMaxLogitBias], flat
  float* bias_values;  // [max_sequences, kMaxLogitBias], flat
  // Layers.
  float* hidden[2];    // [max_rows, hidden_size]; the second with pre_conv
  std::byte* operand;  // [max_rows, hidden_size]
  float* projections;  // [max_rows, ProjectionOffsets::stride]
  std::byte* queries;  // [max_rows, hidden_size]
  std::byte* keys;     // [max_rows, hidden_size]
  std::byte* targets;  // [max_rows, hidden_size]
  float* rates;        // [max_rows, num_heads]
  float* learned;      // [max_rows, hidden_size]
  float* gate_up;      // [max_rows, 2 * intermediate_size]
  std::byte* gated;    // [max_rows, intermediate_size]
  // Head.
  float* gathered;  // [max_requests, hidden_size]
  float* logits;    // [max_requests, vocab_size]

  int64_t bytes;  // of the block
};

// How much of each there is in a step, and how many such steps in its launch.
struct StepSizes {
  int32_t rows = 0;
  int32_t sequences = 0;
  int32_t requests = 0;
  int32_t candidates = 0;  // room for, a request
  int32_t steps = 1;

  friend bool operator<(const StepSizes& a, const StepSizes& b) {
    return std::tie(a.rows, a.sequences, a.requests, a.candidates, a.steps) <
           std::tie(b.rows, b.sequences, b.requests, b.candidates, b.steps);
  }
};

// What a step brings to the device, and what it brings back. Those of a launch
// stand one after the other, so that each is one copy.
struct StepInput {
  int32_t* token_ids;       // [rows]
  SequenceRows* sequences;  // [sequences]
  int32_t* row_sequence;    // [rows]
  int32_t* logits_rows;     // [requests]
  int32_t* logits_slots;    // [requests]
  SampleRow* samples;       // [requests]
  int64_t bytes;            // of one step
};
// What a launch brings, after the inputs of its steps, where sequences may end
// or have ended unseen: as in EndSequencesArgs and EmbedTokensArgs.
struct EndInput {
  int32_t* before;      // [sequences], of the first step
  int32_t* stop_begin;  // [sequences + 1]
  int32_t* stop_ids;    // flat
  int64_t bytes;        // of all, with those of the steps
};
struct StepOutput {
  int32_t* sampled;           // [requests]; first, whatever the sizes
  float* logprobs;            // [requests]
  uint8_t* logits_finite;     // [requests]
  uint8_t* hidden_finite;     // [sequences]
  int32_t* candidate_ids;     // [requests, candidates]
  float* candidate_logprobs;  // [requests, candidates]
  int64_t bytes;              // of one step
};
// Of a launch that stands at `base`: `step` counts from 0.
StepInput LayOutStepInput(const StepSizes& sizes, std::byte* base,
                          int32_t step = 0);
EndInput LayOutEndInput(const StepSizes& sizes, int64_t num_stop_ids,
                        std::byte* base);
StepOutput LayOutStepOutput(const StepSizes& sizes, std::byte* base,
                            int32_t step = 0);

// One place a row and one a sequence.
inline int64_t MaxLogitsRequests(const TttModel::Limits& limits) {
  return int64_t{limits.max_rows} + limits.max_sequences;
}

// Lays the arrays out from `base`; with a null base only `bytes` means
// anything.
WorkspaceArrays LayOutWorkspace(const ModelConfig& config,
                                const TttModel::Limits& limits,
                                const StateForms& forms, std::byte* base);

}  // namespace ttt
