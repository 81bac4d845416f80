// The row of a head as a learner takes it, made of the projections by the block
// of that head: what LearnerInputs computes, of a row a sequence and with both
// convolutions.
#pragma once

#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/learner_inputs_math.cuh"
#include "kernels/cuda/learner_tile.cuh"

namespace ttt {

// Found where it stands. The compiler would find an address where it is used:
// after the wait for the kernels before, and anew each time.
template <typename T>
__device__ T* Found(T* address) {
  asm volatile("" : "+l"(address));
  return address;
}

__device__ inline uint32_t& Word(void* at) {
  return *static_cast<uint32_t*>(at);
}

// What a thread has of it: a pair of channels of the query, or of the key and
// the target. Half a warp makes queries, and the other half the keys of the
// same channels, so that both have the same tail. `thread` is below kThreads.
template <int kHeadDim>
class ProjectedPair {
  static constexpr int kPairs = kHeadDim / 2;
  static constexpr int kHalf = kWarpSize / 2;
  static_assert(kPairs % kHalf == 0);
  static constexpr int kBefore = kFastConvKernel - 1;

 public:
  static constexpr int kThreads = 2 * kPairs;

  // Begins to bring what no kernel of the step writes before: weights, and the
  // tail, which the step before wrote.
  __device__ ProjectedPair(const LearnerInputsArgs& args,
                           const SequenceRows& sequence, int32_t head,
                           int phase, int thread)
      : is_key_(thread % kWarpSize >= kHalf),
        pair_(thread / kWarpSize * kHalf + thread % kHalf),
        channel_(head * kHeadDim + 2 * pair_),
        width_(args.num_heads * kHeadDim),
        tail_(SlotOf<float>(args.tail, sequence.slot) + channel_) {
    const float* const row =
        args.projections + sequence.first_row * args.row_stride + channel_;
    shared_ = Found(row + args.query_offset);
    value_ = Found(row + args.value_offset);
    const float* const taps =
        (is_key_ ? args.conv_k_weight : args.conv_q_weight) + channel_;
#pragma unroll
    for (int j = 0; j < kFastConvKernel; ++j) {
      LoadFromL2(taps + int64_t{j} * width_, taps_[j]);
    }
    LoadFromL2((is_key_ ? args.conv_k_bias : args.conv_q_bias) + channel_,
               bias_);
    LoadFromL2(args.rope + phase * kHeadDim + 2 * pair_, rope_);
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      LoadFromL2(tail_ + int64_t{j} * width_, window_[j]);
    }
  }

  __device__ bool is_key() const { return is_key_; }
  __device__ int channel() const { return 2 * pair_; }  // of the head

  struct Words {
    uint32_t row;     // query or key
    uint32_t target;  // of a key
  };
  // Of the sequence's first row of the step, after the kernels before.
  __device__ Words Make() {
    uint32_t values[2];
    LoadFromL2(shared_, window_[kBefore]);
    LoadFromL2(value_, values);
    float sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sums[i] = __uint_as_float(bias_[i]);
#pragma unroll
      for (int j = 0; j < kFastConvKernel; ++j) {
        sums[i] = fmaf(__uint_as_float(taps_[j][i]),
                       __uint_as_float(window_[j][i]), sums[i]);
      }
    }
    const float2 rotated = RotatePair(
        __uint_as_float(rope_[0]), __uint_as_float(rope_[1]), sums[0], sums[1]);
    return {PackPair(rotated.x, rotated.y),
            PackPair(__uint_as_float(values[0]) - rotated.x,
                     __uint_as_float(values[1]) - rotated.y)};
  }
  // After Make; all lanes of the warp.
  __device__ void ReplaceTail() const {
    __syncwarp();  // All have read the old one.
    if (is_key_) return;
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      StoreWords(tail_ + int64_t{j} * width_, window_[j + 1]);
    }
  }

 private:
  const bool is_key_;
  const int pair_;
  const int channel_;
  const int width_;
  float* const tail_;
  const float* shared_;  // the projection that is convolved
  const float* value_;
  uint32_t taps_[kFastConvKernel][2];
  uint32_t bias_[2];
  uint32_t rope_[2];  // cosine, sine
  uint32_t window_[kFastConvKernel][2];
};

}  // namespace ttt
