// Launchers of the ops.
//
// Each takes valid args (validate.h) whose arrays are contiguous, row-major,
// 16-byte aligned device memory that lives until `stream` has passed the call.
// It queues work on `stream` and returns what CUDA said of the launch: no
// allocation, no synchronization, no copy to the host. Sums are in float32 in
// an order that depends on the sizes of the model alone: the results of a row,
// a sequence or a slot do not depend on what else is in the step.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/op_args.h"

namespace ttt {

// Bound by its launch. What is launched next must be EmbedTokens (overlap.cuh).
cudaError_t LaunchEndSequences(const EndSequencesArgs& args,
                               cudaStream_t stream);

// Bound by memory, each: reads its inputs and writes its outputs once.
cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args, cudaStream_t stream);
cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t LaunchConvNorm(const ConvNormArgs& args, cudaStream_t stream);
cudaError_t LaunchLearnerInputs(const LearnerInputsArgs& args,
                                cudaStream_t stream);
cudaError_t LaunchNormGate(const NormGateArgs& args, cudaStream_t stream);
cudaError_t LaunchSwiGlu(const SwiGluArgs& args, cudaStream_t stream);
cudaError_t LaunchSaveHidden(const SaveHiddenArgs& args, cudaStream_t stream);
cudaError_t LaunchGatherHidden(const GatherHiddenArgs& args,
                               cudaStream_t stream);

// Of float32 forms. A block walks the rows of one head of one sequence with its
// fast weights on chip (MLP of head_dim 96: in the L2 cache). Bound by memory
// with few rows a sequence, by float32 arithmetic with many.
cudaError_t LaunchLearner(const LearnerArgs& args, cudaStream_t stream);
// Once a device, before the first LaunchLearner.
cudaError_t PrepareLearner();
// TTT-Linear of split fast weights and bfloat16 rows, on tensor cores. Rounded
// to bfloat16: the high halves that keys and queries read, the gradients times
// their rates, and q_t . k_s + 1; all else is float32. The same bits by each of
// its kernels: with a row a sequence a warp a tile of a head, bound by latency,
// or with many heads a warp or three a head, bound by memory; else a block a
// head with its weights in registers. All but the last read the state
// before the kernels before have ended: since it was last written, EmbedTokens
// or something else that waits must have stood between.
cudaError_t LaunchLearnerLinear(const LearnerArgs& args, cudaStream_t stream);
// Once a device, before the first LaunchLearnerLinear.
cudaError_t PrepareLearnerLinear();
// The learner of two layers in bfloat16 precision, on tensor cores: rows in
// bfloat16, fast weights split. A block walks the rows of one head of one
// sequence with the high halves in registers. Bound by memory with few rows a
// sequence, by latency and shared memory with many. With few it reads the state
// early, as LaunchLearnerLinear does.
cudaError_t LaunchLearnerMlp(const LearnerArgs& args, cudaStream_t stream);
// Once a device, before the first LaunchLearnerMlp.
cudaError_t PrepareLearnerMlp();
// What it calls for steps of at most a row a sequence on the average, with the
// same bits: reads the high halves through shared memory, several blocks a
// multiprocessor, and is slow where sequences have more rows. num_rows > 0.
cudaError_t LaunchLearnerMlpDecode(const LearnerArgs& args,
                                   cudaStream_t stream);
cudaError_t PrepareLearnerMlpDecode();
// Whether LaunchLearnerOfProjections does these: at most a row a sequence on
// the average, of the linear learner few heads in all, and convolutions as all
// published models have them.
bool CanLearnOfProjections(const LearnerOfProjectionsArgs& args);
// Of what LaunchLearnerLinear or LaunchLearnerMlp takes, with the bits of
// LaunchLearnerInputs and then of that: a block of a head makes its rows. Reads
// the convolutions' tails before the kernels before have ended, too. Once a
// device before: PrepareLearnerMlp.
cudaError_t LaunchLearnerOfProjections(const LearnerOfProjectionsArgs& args,
                                       cudaStream_t stream);
// Whether they are few heads in all, a row a sequence.
bool IsLinearSpread(const LearnerArgs& args);
// What LaunchLearnerOfProjections calls. num_rows > 0.
cudaError_t LaunchLearnerLinearOfProjections(
    const LearnerOfProjectionsArgs& args, cudaStream_t stream);
cudaError_t LaunchLearnerMlpOfProjections(const LearnerOfProjectionsArgs& args,
                                          cudaStream_t stream);

// A block owns a row, which it reads once. Bound by arithmetic: a pass with an
// exponential a token for the log-probabilities, one to draw and one for top_p.
// Weights are rounded down to multiples of 2^-44, so that their sums do not
// depend on the order; cpu/sample_tokens.h sums in double.
cudaError_t LaunchSampleTokens(const SampleTokensArgs& args,
                               cudaStream_t stream);
// Once a device, before the first LaunchSampleTokens.
cudaError_t PrepareSampleTokens();

// Weights of a product, zero beyond the matrix.
struct PackedMatrix {
  // float [outputs to 64, padded_inputs], or bfloat16 as gemm_layout.h has it.
  const void* data;
  int32_t num_outputs;  // > 0
  int32_t num_inputs;   // > 0
  int32_t padded_inputs;
};

// output[r, n] (+)= sum_k input[r, k] * weights[n, k], k in rising order in one
// accumulator: the same bits for every num_rows. `args.weights` is not read.
cudaError_t LaunchGemmFloat(const GemmArgs& args, const PackedMatrix& weights,
                            cudaStream_t stream);

// The same on tensor cores: k in rising groups of 16, within which the sum is
// the hardware's and the same for each of its instructions; in one accumulator,
// or in parts (gemm_layout.h). Forms of equal bits; num_rows > 0. This one
// takes any sizes, cuts none, and is slow: for what the others cannot read.
cudaError_t LaunchGemmAnyRows(const GemmArgs& args, const PackedMatrix& weights,
                              cudaStream_t stream);

// A product whose rows the copy engine reads; needs num_inputs % 8 == 0.
struct Product {
  GemmArgs args;  // num_rows > 0
  PackedMatrix weights;
  // If not null, bfloat16 [num_rows, num_outputs / 2]: takes, instead of
  // args.output, what GemmSwiGlu computes of weights with gate and up
  // interleaved (gemm_layout.h).
  void* gated;
  CUtensorMap input;  // of args.input
};
// What runs at once of their kernels, a block a multiprocessor.
struct GemmDevice {
  int32_t num_multiprocessors;
  int32_t clusters_of_2;  // of as many blocks
  int32_t clusters_of_4;
  int32_t clusters_of_8;
};
// Of up to MostLeastRows rows; bound by memory. `input` has boxes of
// LeastRowsBox rows.
int32_t MostLeastRows(const PackedMatrix& weights);
int32_t LeastRowsBox(int32_t num_rows);
cudaError_t LaunchGemmLeastRows(const Product& product,
                                const GemmDevice& device, cudaStream_t stream);
// Streams the weights once for up to MostFewRows rows; bound by memory. `input`
// has boxes of FewRowsBox rows.
int32_t MostFewRows(const PackedMatrix& weights);
int32_t FewRowsBox(const PackedMatrix& weights, int32_t num_rows);
cudaError_t LaunchGemmFewRows(const Product& product, const GemmDevice& device,
                              cudaStream_t stream);
// Bound by the tensor cores. `input` has boxes of kManyRowsBox rows.
inline constexpr int32_t kManyRowsBox = 128;
cudaError_t LaunchGemmManyRows(const Product& product, const GemmDevice& device,
                               cudaStream_t stream);
// Each once a device, before the first launch. Fills in the clusters.
cudaError_t PrepareGemmLeastRows();
cudaError_t PrepareGemmFewRows(GemmDevice* device);
cudaError_t PrepareGemmManyRows();

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
