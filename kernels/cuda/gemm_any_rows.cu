// Products whose rows the copy engine cannot read: plain loads, for matrices of
// unusual sizes.
#include <cuda_bf16.h>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 32;
constexpr int kRows = 16;  // of a warp
constexpr int kOutputs = 8;
constexpr int kMmaInputs = 16;

// Inputs k and k + 1 of a row, zero beyond it.
__device__ uint32_t LoadPair(const GemmArgs& args, int32_t num_inputs,
                             int32_t row, int32_t k) {
  const auto* const input = static_cast<const uint16_t*>(args.input.data) +
                            int64_t{row} * num_inputs + k;
  if (row >= args.num_rows) return 0;
  const uint32_t low = k < num_inputs ? input[0] : 0;
  const uint32_t high = k + 1 < num_inputs ? input[1] : 0;
  return low | high << 16;
}

// grid [outputs / kOutputs, rows / kRows]; a warp each.
__global__ void GemmAnyRowsKernel(const __grid_constant__ GemmArgs args,
                                  const __grid_constant__ PackedMatrix
                                      weights) {
  WaitForKernelsBefore();
  const int lane = threadIdx.x;
  const int32_t row = blockIdx.y * kRows + lane / 4;
  const int32_t first_output = blockIdx.x * kOutputs;
  const auto* const matrix = static_cast<const uint16_t*>(weights.data);
  const int32_t strips = PaddedStrips(weights.num_outputs);
  float sums[4] = {};
  for (int32_t begin = 0; begin < weights.padded_inputs; begin += kMmaInputs) {
    const int32_t k = begin + lane % 4 * 2;
    const uint32_t a[4] = {LoadPair(args, weights.num_inputs, row, k),
                           LoadPair(args, weights.num_inputs, row + 8, k),
                           LoadPair(args, weights.num_inputs, row, k + 8),
                           LoadPair(args, weights.num_inputs, row + 8, k + 8)};
    const auto weight_pair = [&](int32_t input) {
      return *reinterpret_cast<const uint32_t*>(
          matrix + PackedOffset(first_output + lane / 4, input, strips));
    };
    MultiplyAdd(sums, a, weight_pair(k), weight_pair(k + 8));
  }
  for (int i = 0; i < 4; ++i) {
    const int32_t to_row = row + i / 2 * 8;
    const int32_t output = first_output + lane % 4 * 2 + i % 2;
    if (to_row >= args.num_rows || output >= weights.num_outputs) continue;
    float* const to = args.output + to_row * args.output_stride + output;
    *to = args.accumulate ? *to + sums[i] : sums[i];
  }
}

}  // namespace

cudaError_t LaunchGemmAnyRows(const GemmArgs& args, const PackedMatrix& weights,
                              cudaStream_t stream) {
  const dim3 grid((weights.num_outputs + kOutputs - 1) / kOutputs,
                  (args.num_rows + kRows - 1) / kRows);
  return LaunchOverlapped(GemmAnyRowsKernel, grid, kThreads, 0, stream, args,
                          weights);
}

}  // namespace ttt
