// What a kernel does after its wait for the kernels before, done once before.
#pragma once

#include <cstdint>

#include "kernels/cuda/overlap.cuh"

namespace ttt {

// In steps of so many rows at most, whose blocks mostly wait for the kernel
// before.
inline constexpr int32_t kMostRowsRehearsed = 16;

// Calls run(true) when the kernels before have ended and, with few rows,
// run(false) before that, which must read nothing that these write, and write
// nothing but shared memory. It brings the instructions: a layer has more than
// a multiprocessor keeps, and one row waits longer for them than for its data.
template <typename Function>
__device__ void Rehearse(int32_t num_rows, Function run) {
#pragma unroll 1
  for (int pass = num_rows <= kMostRowsRehearsed ? 0 : 1; pass < 2; ++pass) {
    const bool is_real = pass == 1;
    if (is_real) WaitForKernelsBefore();
    run(is_real);
  }
}

}  // namespace ttt
