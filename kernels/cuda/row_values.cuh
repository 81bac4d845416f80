// A row that a block keeps in registers, so that it is read from memory once.
#pragma once

#include "kernels/cuda/device_rows.cuh"

namespace ttt {

// Of up to kThreads * 4 * kVectors floats: thread t has the fours t, t +
// kThreads, .. of it. Zero beyond it.
template <int kThreads, int kVectors>
class RowValues {
 public:
  static constexpr int kMaxSize = kThreads * 4 * kVectors;

  // All loads are on their way before the first is used. `row` is 16-byte
  // aligned if size is a multiple of 4.
  __device__ RowValues(const float* row, int size) : size_(size) {
#pragma unroll
    for (int n = 0; n < kVectors; ++n) {
      const int c = Channel(n);
      float4 four = {0.0f, 0.0f, 0.0f, 0.0f};
      if (size % 4 == 0 && c < size) {
        four = *reinterpret_cast<const float4*>(row + c);
      } else if (c < size) {
        four.x = row[c];
        if (c + 1 < size) four.y = row[c + 1];
        if (c + 2 < size) four.z = row[c + 2];
        if (c + 3 < size) four.w = row[c + 3];
      }
      values_[4 * n] = four.x;
      values_[4 * n + 1] = four.y;
      values_[4 * n + 2] = four.z;
      values_[4 * n + 3] = four.w;
    }
  }

  // visit(channel, value) for each of the thread's own.
  template <typename Function>
  __device__ void Visit(Function visit) {
#pragma unroll
    for (int i = 0; i < 4 * kVectors; ++i) {
      const int c = Channel(i / 4) + i % 4;
      if (c < size_) visit(c, values_[i]);
    }
  }

 private:
  __device__ static int Channel(int n) {
    return 4 * (int(threadIdx.x) + n * kThreads);
  }

  const int size_;
  float values_[4 * kVectors];
};

// Of four kernels for rows of up to 1, 2 and 4 vectors a thread, and of any
// size, the first that takes rows of `size`.
template <int kThreads, typename Kernel>
Kernel KernelOfRowSize(int32_t size, Kernel one, Kernel two, Kernel four,
                       Kernel any) {
  return size <= RowValues<kThreads, 1>::kMaxSize   ? one
         : size <= RowValues<kThreads, 2>::kMaxSize ? two
         : size <= RowValues<kThreads, 4>::kMaxSize ? four
                                                    : any;
}

}  // namespace ttt
