// What a step asks for, as the device reads it. Internal to the model.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "server/model/ttt_model.h"
#include "server/model/workspace.h"

namespace ttt {

// Kept from step to step, to spare allocations.
class HostStep {
 public:
  // At most `limits` of each; a request must name a row of its sequence.
  void Build(const TttModel::Limits& limits,
             absl::Span<const StepSequence> sequences,
             absl::Span<const LogitsRequest> requests);

  const StepSizes& sizes() const { return sizes_; }
  absl::Span<const std::byte> input() const { return input_; }  // as StepInput
  absl::Span<const int32_t> bias_ids() const { return bias_ids_; }
  absl::Span<const float> bias_values() const { return bias_values_; }

 private:
  SampleRow MakeSample(const LogitsRequest& request, const SequenceRows& rows);

  StepSizes sizes_;
  std::vector<std::byte> input_;
  std::vector<int32_t> bias_ids_;
  std::vector<float> bias_values_;
};

}  // namespace ttt
