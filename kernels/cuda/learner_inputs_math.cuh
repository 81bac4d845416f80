// What the kernels that make a learner's inputs compute of a value, each with
// the same bits.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_math.cuh"

namespace ttt {

// A pair of channels at its row's place in the mini-batch.
__device__ inline float2 RotatePair(float cosine, float sine, float even,
                                    float odd) {
  return {fmaf(even, cosine, -odd * sine), fmaf(odd, cosine, even * sine)};
}

__device__ inline float LearningRate(float base_lr, float logit, float bias,
                                     int32_t head_dim) {
  return base_lr * Sigmoid(logit + bias) / head_dim;
}

}  // namespace ttt
