// A part of ConvNorm that the CPU backends run alone.
#pragma once

#include <cstdint>

#include "kernels/op_args.h"

namespace ttt {

// Causal depthwise convolution with carried history, added to `output`:
//     output[p, c] += bias[c] + sum_j weight[j, c] * u[p - K + 1 + j, c]
// with u the session's inputs, zero before its start. Section 4. Leaves the
// last K - 1 inputs in `tail`.
struct CausalConvArgs {
  StepRows rows;
  const float* input;   // [num_rows, hidden_size]
  const float* weight;  // [kernel, hidden_size], tap kernel - 1 is the newest
  const float* bias;    // [hidden_size]
  StatePlane tail;      // float [kernel - 1, hidden_size] a slot, in/out
  float* output;        // [num_rows, hidden_size] in/out
  int32_t hidden_size;  // > 0
  int32_t kernel;       // in [2, kMaxConvKernel]
};

}  // namespace ttt
