// The functions of the model in float32, as cpu/reference_ops.cc has them. No
// fast-math approximation: the bits are the C library's within its error.
#pragma once

namespace ttt {

inline constexpr float kLayerNormEpsilon = 1e-6f;
inline constexpr float kGeluScale = 0.7978845608f;  // sqrt(2 / pi)

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float Gelu(float x) {
  return 0.5f * x * (1.0f + tanhf(kGeluScale * (x + 0.044715f * x * x * x)));
}

__device__ inline float GeluDerivative(float x) {
  const float t = tanhf(kGeluScale * x * (1.0f + 0.044715f * x * x));
  return 0.5f * x * (1.0f - t * t) * (kGeluScale + 0.1070322243f * x * x) +
         0.5f * (1.0f + t);
}

}  // namespace ttt
