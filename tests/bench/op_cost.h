// What each op must move and compute, by the form that op_args.h gives it.
//
// Bytes: each input and each output once, weights too, and scratch not at all.
// FLOPs: a multiplication and an addition count one each; an exponential, a
// root or a division counts one. Small ops are counted by their leading terms.
// The fast weights of the learner are written in steps that commit only.
#pragma once

#include "absl/types/span.h"
#include "kernels/op_args.h"

namespace ttt {

struct OpCost {
  double bytes = 0;
  double flops = 0;

  OpCost& operator+=(const OpCost& other) {
    bytes += other.bytes;
    flops += other.flops;
    return *this;
  }
};

OpCost CostOf(const EndSequencesArgs& args);
OpCost CostOf(const EmbedTokensArgs& args);
OpCost CostOf(const RmsNormArgs& args);
OpCost CostOf(const ConvNormArgs& args);
OpCost CostOf(const LearnerInputsArgs& args);
// `sequences` are those of the args, in host memory.
OpCost CostOf(const LearnerArgs& args,
              absl::Span<const SequenceRows> sequences);
OpCost CostOf(const NormGateArgs& args);
OpCost CostOf(const SwiGluArgs& args);
OpCost CostOf(const GemmSwiGluArgs& args);
OpCost CostOf(const GemmArgs& args);
OpCost CostOf(const SaveHiddenArgs& args);
OpCost CostOf(const GatherHiddenArgs& args);
// Of a greedy row that reports a log-probability: two passes over the logits.
OpCost CostOf(const SampleTokensArgs& args);
OpCost CostOf(const DigestStatesArgs& args);

}  // namespace ttt
