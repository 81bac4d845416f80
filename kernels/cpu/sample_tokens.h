// SampleTokens on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/sample_math.h"
#include "kernels/op_args.h"

namespace ttt {

// Plain loops over the C library.
extern const SampleMath kReferenceSampleMath;

// Working memory of one thread; grows to the largest vocabulary seen.
struct SampleScratch {
  std::vector<float> logits;
  std::vector<float> weights;
  std::vector<float> kept;
  std::vector<uint64_t> keys;
  std::vector<int32_t> seen;
  std::vector<int32_t> bins;
  std::vector<double> block_sums;
};

// Chooses the token of one row of valid args, and reports on it.
//
// With l the row of logits, l' a copy, and every tie going to the lowest id:
//  1. A non-finite l sets finite = 0, token kNoToken and log-probability 0.
//  2. Bias: l'[id] += value, for each pair in turn.
//  3. Penalties, for each id that occurs c > 0 times among the last
//     min(position, kTokenRingSize) tokens: l' is divided by repetition_penalty
//     if positive, else multiplied by it; then presence_penalty + c *
//     frequency_penalty is subtracted.
//  4. Temperature 0: the token is argmax l'. Otherwise the weights are
//     w = exp((l' - max l') / temperature), and what the next steps drop has
//     weight 0.
//  5. top_k keeps the k largest l'.
//  6. top_p (below 1) keeps, of those, best first, the fewest whose weights sum
//  to
//     at least top_p of their total; at least one.
//  7. min_p keeps those with w >= min_p * (largest w).
//  8. Draw: u = 53 random bits / 2^53, the first output words of Philox4x32-10
//     with key `seed` and counter `position`; the token is the first, by id,
//     whose running sum of weights exceeds u * total. Sums are in double.
// Sums are defined to be in the order of ids, but in top_p best first (and,
// with top_k, its total too). The code adds in other orders where a bound on
// the difference shows that the choice is the same, and else in that order. If
// no l' is finite (everything banned) the token is argmax l'.
void SampleRowToken(const SampleTokensArgs& args, int32_t row,
                    const SampleMath& math, SampleScratch& scratch);

// Uniform in [0, 1), a function of its arguments.
double UniformOf(uint64_t seed, int64_t position);

}  // namespace ttt
