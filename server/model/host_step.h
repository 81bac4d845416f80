// What a step asks for, as the device reads it. Internal to the model.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "server/model/ttt_model.h"
#include "server/model/workspace.h"

namespace ttt {

// Whether steps of these sizes come again and again: of about one token a
// sequence, as when all decode.
inline bool IsUsual(const StepSizes& sizes) {
  return sizes.rows > 0 && sizes.rows == sizes.sequences &&
         sizes.requests == sizes.sequences;
}

// Kept from step to step, to spare allocations.
class HostStep {
 public:
  // `fills_up`: a step that lacks no more than requests to be a usual one gets
  // them, after its own; what they answer is for nobody.
  explicit HostStep(bool fills_up = false) : fills_up_(fills_up) {}

  // At most `limits` of each; a request must name a row of its sequence, and an
  // id that is ChosenBy a request one of the last step that was built before.
  // `num_steps` as in TttModel::Begin.
  void Build(const TttModel::Limits& limits,
             absl::Span<const StepSequence> sequences,
             absl::Span<const LogitsRequest> requests, int32_t num_steps = 1);

  const StepSizes& sizes() const { return sizes_; }
  // Whether sequences may have ended unseen.
  bool asks_for_ends() const { return asks_for_ends_; }
  // A StepInput a step, and then an EndInput if it asks for ends.
  absl::Span<const std::byte> input() const { return input_; }
  absl::Span<const int32_t> bias_ids() const { return bias_ids_; }
  absl::Span<const float> bias_values() const { return bias_values_; }

 private:
  // What the steps after the first differ in from it.
  void AddSteps(absl::Span<const StepSequence> sequences);
  // `after_steps`: the last step of a launch of several came before.
  void AddEnds(absl::Span<const StepSequence> sequences, bool after_steps);
  void AddRequest(const LogitsRequest& request, int32_t index,
                  const StepInput& input);
  SampleRow MakeSample(const LogitsRequest& request, const SequenceRows& rows);

  const bool fills_up_;
  StepSizes sizes_;
  bool asks_for_ends_ = false;
  std::vector<std::byte> input_;
  std::vector<int32_t> bias_ids_;
  std::vector<float> bias_values_;
};

}  // namespace ttt
