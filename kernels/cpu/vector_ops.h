// The fast ops, compiled once for each instruction set from the same source
// (vector_ops.inc): parts of an op that one thread runs.
//
// A part's results do not depend on how the work was cut into parts. Bits
// differ between instruction sets, and between these and the reference.
#pragma once

#include <cstdint>

#include "kernels/cpu/causal_conv.h"
#include "kernels/cpu/sample_math.h"
#include "kernels/op_args.h"

namespace ttt {

// Working memory of Learner, in floats, 64-byte aligned: enough for
// head_dim 96.
inline constexpr int64_t kLearnerScratchFloats = 64 * 1024;
// Channels of CausalConv are cut at multiples of this.
inline constexpr int32_t kConvChannels = 64;

struct VectorOps {
  // Rows [begin, end).
  void (*rms_norm)(const RmsNormArgs& args, int64_t begin, int64_t end);
  void (*norm_gate)(const NormGateArgs& args, int64_t begin, int64_t end);
  void (*swi_glu)(const SwiGluArgs& args, int64_t begin, int64_t end);
  // Channels [begin, end) of one sequence.
  void (*causal_conv)(const CausalConvArgs& args, const SequenceRows& sequence,
                      int32_t begin, int32_t end);
  // One head of one sequence.
  void (*learner_inputs)(const LearnerInputsArgs& args,
                         const SequenceRows& sequence, int32_t head);
  // Heads [begin, end) of one sequence.
  void (*learner)(const LearnerArgs& args, const SequenceRows& sequence,
                  int32_t begin, int32_t end, float* scratch);
  SampleMath sample_math;
  // DigestBlockLanes of digest.h, the same bits.
  void (*digest_lanes)(const uint32_t* words, int64_t num_words,
                       uint64_t* lanes);
};

namespace sse2 {
extern const VectorOps kVectorOps;
}
namespace avx2 {
extern const VectorOps kVectorOps;
}
namespace avx512 {
extern const VectorOps kVectorOps;
}

}  // namespace ttt
