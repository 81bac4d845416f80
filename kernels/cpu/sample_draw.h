// The draw of one token by its weight.
#pragma once

#include <cstdint>
#include <vector>

namespace ttt {

// Step 8 of SampleRowToken, as it is defined: the first of n weights, in order,
// whose running sum exceeds `random` times the total.
int32_t DrawInOrder(double random, const float* weights, int32_t n);

// The same choice, faster: in order, each addition waits for the one before it.
// Sums by blocks, in lanes, and walks through one block only. These sums are
// rounded otherwise than those in order, so the choice stands only where it is
// clear of `random` times the total by their slack on both sides; else it does
// as DrawInOrder.
int32_t Draw(double random, const float* weights, int32_t n,
             std::vector<double>& block_sums);

}  // namespace ttt
