// Writes what a product has summed.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/launchers.h"

namespace ttt {

// Pairs of neighbouring outputs of `row`, before `end`, from `output` on; of
// none if there is no such row.
class AnyPairsOfRow {
 public:
  __device__ AnyPairsOfRow(const GemmArgs& args, int32_t end, int32_t row,
                           int32_t output)
      : to_(args.output + row * args.output_stride + output),
        left_(row < args.num_rows ? end - output : 0),
        is_aligned_(args.output_stride % 2 == 0) {}

  // `offset` outputs on; zero for what does not exist.
  __device__ float2 Load(int32_t offset) const {
    const float* const from = to_ + offset;
    if (is_aligned_ && offset + 1 < left_) {
      return *reinterpret_cast<const float2*>(from);
    }
    return {offset < left_ ? from[0] : 0.0f,
            offset + 1 < left_ ? from[1] : 0.0f};
  }
  __device__ void Store(int32_t offset, float2 sums) const {
    float* const to = to_ + offset;
    if (is_aligned_ && offset + 1 < left_) {
      *reinterpret_cast<float2*>(to) = sums;
      return;
    }
    if (offset < left_) to[0] = sums.x;
    if (offset + 1 < left_) to[1] = sums.y;
  }

 private:
  float* to_;
  int32_t left_;
  bool is_aligned_;
};

// The same for several neighbours, float2 or float4, in less code, where all
// outputs are of such and these are aligned.
template <typename Neighbours>
class NeighboursOfRow {
 public:
  __device__ static bool Suit(const Product& product) {
    return (product.args.output_stride | product.weights.num_outputs) %
               (sizeof(Neighbours) / sizeof(float)) ==
           0;
  }
  // `end` is 0 for a row that does not exist.
  __device__ NeighboursOfRow(const GemmArgs& args, int32_t end, int32_t row,
                             int32_t output)
      : to_(args.output + row * args.output_stride + output),
        left_(end - output) {}

  // `offset` outputs on; zero for what does not exist.
  __device__ Neighbours Load(int32_t offset) const {
    return offset < left_ ? *reinterpret_cast<const Neighbours*>(to_ + offset)
                          : Neighbours{};
  }
  __device__ void Store(int32_t offset, Neighbours sums) const {
    if (offset < left_) *reinterpret_cast<Neighbours*>(to_ + offset) = sums;
  }

 private:
  float* to_;
  int32_t left_;
};
using PairsOfRow = NeighboursOfRow<float2>;
using FoursOfRow = NeighboursOfRow<float4>;

// silu(gate) * up.
__device__ inline float Gated(float gate, float up) {
  return gate * Sigmoid(gate) * up;
}
__device__ inline __nv_bfloat162 Gated(float2 gate, float2 up) {
  return __floats2bfloat162_rn(Gated(gate.x, up.x), Gated(gate.y, up.y));
}

// Of two channels, the first of them that of output `output` before `end`;
// channels come in eights.
__device__ inline void StoreGated(const Product& product, int32_t end,
                                  int32_t row, int32_t output, float2 gate,
                                  float2 up) {
  if (row >= product.args.num_rows || output >= end) return;
  const int64_t inner = product.weights.num_outputs / 2;
  const int32_t channel =
      output / kStripOutputs * kGateOutputs + output % kStripOutputs;
  auto* const to = static_cast<__nv_bfloat16*>(product.gated) + row * inner;
  *reinterpret_cast<__nv_bfloat162*>(to + channel) = Gated(gate, up);
}

}  // namespace ttt
