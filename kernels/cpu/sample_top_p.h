// Top-p over a whole vocabulary without sorting it.
#pragma once

#include <cstdint>

#include "kernels/cpu/sample_tokens.h"

namespace ttt {

// Step 6 of SampleRowToken over all n tokens of scratch.logits, of which `max`
// is the largest, and scratch.weights: gives those that it drops weight 0.
// Returns false, with the weights as they were, if it cannot tell where to cut.
//
// The cut is defined by a sum over the sorted weights. To sort only the few
// tokens among which it is, a sum over bins of values finds those first. That
// adds the same weights in another order, and near a tie rounding alone would
// decide which token is the last: so the cut stands only if it is clear of
// `top_p * total` by the slack of the sums on both sides, where the defined sum
// must agree.
bool DropByTopP(const SampleRow& sample, int32_t n, float max,
                SampleScratch& scratch);

}  // namespace ttt
