// The scalars of each op, checked once for all backends.
//
// INVALID_ARGUMENT names the op, the field and its value: "Learner: head_dim is
// 6". Arrays in device memory are not looked at; a null one is refused only
// where null would have a meaning of its own.
#pragma once

#include "absl/status/status.h"
#include "kernels/op_args.h"

namespace ttt {

absl::Status Validate(const EndSequencesArgs& args);
absl::Status Validate(const EmbedTokensArgs& args);
absl::Status Validate(const RmsNormArgs& args);
absl::Status Validate(const ConvNormArgs& args);
absl::Status Validate(const LearnerInputsArgs& args);
absl::Status Validate(const LearnerArgs& args);
absl::Status Validate(const LearnerOfProjectionsArgs& args);
absl::Status Validate(const NormGateArgs& args);
absl::Status Validate(const SwiGluArgs& args);
absl::Status Validate(const GemmArgs& args);
absl::Status Validate(const GemmSwiGluArgs& args);
absl::Status Validate(const SaveHiddenArgs& args);
absl::Status Validate(const GatherHiddenArgs& args);
absl::Status Validate(const SampleTokensArgs& args);
absl::Status Validate(const DigestStatesArgs& args);

// Also what a backend alone knows: whether the weights are its own, and the
// type of its operands.
absl::Status ValidateOperands(const GemmArgs& args, bool is_own, DType type);
// And the type of its rows (Backend::state_forms).
absl::Status ValidateRows(const LearnerInputsArgs& args, DType rows);
absl::Status ValidateRows(const LearnerArgs& args, DType rows);
// Of a backend that has no other form than PlaneForm::kWords.
absl::Status ValidateWords(const DigestStatesArgs& args);
// Of Backend::PackWeights.
absl::Status ValidateWeights(int32_t num_outputs, int32_t num_inputs);

}  // namespace ttt
