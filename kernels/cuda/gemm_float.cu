#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kTile = 64;      // rows, and outputs, of a block
constexpr int kInputs = 16;    // staged at a time
constexpr int kThreads = 256;  // 16 x 16, each 4 rows x 4 outputs
constexpr int kOfAThread = 4;
constexpr int kStride = kTile + 4;  // spreads columns over the banks

// grid [outputs / kTile, rows / kTile].
__global__ void __launch_bounds__(kThreads)
    GemmFloatKernel(const GemmArgs args, const PackedMatrix weights) {
  __shared__ float rows_t[kInputs][kStride];
  __shared__ float weights_t[kInputs][kStride];
  WaitForKernelsBefore();
  const int32_t first_output = blockIdx.x * kTile;
  const int32_t first_row = blockIdx.y * kTile;
  const float* const input = static_cast<const float*>(args.input.data);
  const float* const matrix = static_cast<const float*>(weights.data);
  const int tx = threadIdx.x % 16 * kOfAThread;
  const int ty = threadIdx.x / 16 * kOfAThread;
  float sums[kOfAThread][kOfAThread] = {};
  for (int32_t begin = 0; begin < weights.num_inputs; begin += kInputs) {
    for (int i = threadIdx.x; i < kTile * kInputs; i += kThreads) {
      const int32_t k = begin + i % kInputs;
      const int32_t row = first_row + i / kInputs;
      const bool is_inside = k < weights.num_inputs && row < args.num_rows;
      rows_t[i % kInputs][i / kInputs] =
          is_inside ? input[int64_t{row} * weights.num_inputs + k] : 0.0f;
      weights_t[i % kInputs][i / kInputs] =
          matrix[int64_t{first_output + i / kInputs} * weights.padded_inputs +
                 k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&rows_t[k][ty]);
      const float4 w = *reinterpret_cast<const float4*>(&weights_t[k][tx]);
      const float xs[] = {x.x, x.y, x.z, x.w};
      const float ws[] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int r = 0; r < kOfAThread; ++r) {
#pragma unroll
        for (int n = 0; n < kOfAThread; ++n) {
          sums[r][n] = fmaf(xs[r], ws[n], sums[r][n]);
        }
      }
    }
    __syncthreads();
  }
  for (int r = 0; r < kOfAThread; ++r) {
    const int32_t row = first_row + ty + r;
    if (row >= args.num_rows) break;
    for (int n = 0; n < kOfAThread; ++n) {
      const int32_t output = first_output + tx + n;
      if (output >= weights.num_outputs) break;
      float* const to = args.output + row * args.output_stride + output;
      *to = args.accumulate ? *to + sums[r][n] : sums[r][n];
    }
  }
}

}  // namespace

cudaError_t LaunchGemmFloat(const GemmArgs& args, const PackedMatrix& weights,
                            cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const dim3 grid((weights.num_outputs + kTile - 1) / kTile,
                  (args.num_rows + kTile - 1) / kTile);
  return LaunchOverlapped(GemmFloatKernel, grid, kThreads, 0, stream, args,
                          weights);
}

}  // namespace ttt
