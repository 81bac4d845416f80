// Launchers of the ops.
//
// Each takes valid args (validate.h) whose arrays are contiguous, row-major,
// 16-byte aligned device memory that lives until `stream` has passed the call.
// It queues work on `stream` and returns what CUDA said of the launch: no
// allocation, no synchronization, no copy to the host. Sums are in float32 in
// an order that depends on the sizes of the model alone: the results of a row,
// a sequence or a slot do not depend on what else is in the step.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/op_args.h"

namespace ttt {

// Bound by memory, each: reads its inputs and writes its outputs once.
cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args, cudaStream_t stream);
cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t LaunchCausalConv(const CausalConvArgs& args, cudaStream_t stream);
cudaError_t LaunchLearnerInputs(const LearnerInputsArgs& args,
                                cudaStream_t stream);
cudaError_t LaunchNormGate(const NormGateArgs& args, cudaStream_t stream);
cudaError_t LaunchSwiGlu(const SwiGluArgs& args, cudaStream_t stream);
cudaError_t LaunchSaveHidden(const SaveHiddenArgs& args, cudaStream_t stream);
cudaError_t LaunchGatherHidden(const GatherHiddenArgs& args,
                               cudaStream_t stream);

// A block walks the rows of one head of one sequence with its fast weights on
// chip (MLP of head_dim 96: in the L2 cache). Bound by memory with few rows a
// sequence, by float32 arithmetic with many.
cudaError_t LaunchLearner(const LearnerArgs& args, cudaStream_t stream);
// Once a device, before the first LaunchLearner.
cudaError_t PrepareLearner();

// A block owns a row. Weights are rounded down to multiples of 2^-44, so that
// their sums do not depend on the order; cpu/sample_tokens.h sums in double.
cudaError_t LaunchSampleTokens(const SampleTokensArgs& args,
                               cudaStream_t stream);
// Once a device, before the first LaunchSampleTokens.
cudaError_t PrepareSampleTokens();

// Row-major, zero beyond the matrix.
struct PackedMatrix {
  const void* data;     // float, or bfloat16: [padded_outputs, padded_inputs]
  int32_t num_outputs;  // > 0
  int32_t num_inputs;   // > 0
  int32_t padded_inputs;
};
inline constexpr int32_t kGemmOutputTile = 128;  // outputs are padded to
inline constexpr int32_t kGemmInputTile = 64;    // inputs are padded to

// output[r, n] (+)= sum_k input[r, k] * weights[n, k], k in rising order in one
// accumulator: the same bits for every num_rows. `args.weights` is not read.
cudaError_t LaunchGemmFloat(const GemmArgs& args, const PackedMatrix& weights,
                            cudaStream_t stream);
// On tensor cores (mma.sync m16n8k16): k in rising groups of 16.
cudaError_t LaunchGemmBFloat16(const GemmArgs& args,
                               const PackedMatrix& weights,
                               cudaStream_t stream);
// Once a device, before the first of the two above.
cudaError_t PrepareGemm();

// The states of one launch of the digest; small enough for a kernel's argument.
inline constexpr int kMaxDigestPlanes = 16;
inline constexpr int kMaxDigestStates = 64;
struct DigestSums {
  uint64_t words[4];
  uint32_t not_finite;
};
struct DigestBatch {
  StatePlane slots;
  DigestPlane planes[kMaxDigestPlanes];
  int32_t slot_ids[kMaxDigestStates];
  int64_t positions[kMaxDigestStates];
  int32_t num_planes;
  int32_t batch;
  int32_t mini_batch;
  DigestSums* sums;  // [batch] out: of the planes' blocks, without the header
};

// Steps 1 to 5 of digest.h over the planes. Bound by memory.
cudaError_t LaunchDigest(const DigestBatch& batch, cudaStream_t stream);

}  // namespace ttt
