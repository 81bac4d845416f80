// The scalars of each op, checked once for all backends.
//
// INVALID_ARGUMENT names the op, the field and its value: "Learner: head_dim is
// 6". The arrays are device memory and are not looked at; a null one is refused
// only where null would have a meaning of its own.
#pragma once

#include "absl/status/status.h"
#include "kernels/op_args.h"

namespace ttt {

absl::Status Validate(const EmbedTokensArgs& args);
absl::Status Validate(const RmsNormArgs& args);
absl::Status Validate(const CausalConvArgs& args);
absl::Status Validate(const LearnerInputsArgs& args);
absl::Status Validate(const LearnerArgs& args);
absl::Status Validate(const NormGateArgs& args);
absl::Status Validate(const SwiGluArgs& args);
absl::Status Validate(const GemmArgs& args);
absl::Status Validate(const SaveHiddenArgs& args);
absl::Status Validate(const GatherHiddenArgs& args);
absl::Status Validate(const SampleTokensArgs& args);
absl::Status Validate(const DigestStatesArgs& args);

// Also what a backend alone knows: whether the weights are its own, and the
// type of its operands.
absl::Status ValidateOperands(const GemmArgs& args, bool is_own, DType type);
// Of Backend::PackWeights.
absl::Status ValidateWeights(int32_t num_outputs, int32_t num_inputs);

}  // namespace ttt
