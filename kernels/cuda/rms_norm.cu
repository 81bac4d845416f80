#include <cuda_bf16.h>

#include "kernels/cuda/launchers.h"

namespace ttt {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// The sum over the block, the same in all threads.
__device__ float BlockSum(float value) {
  __shared__ float warp_sums[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

__device__ void StoreOperand(const Operand& to, int64_t index, float value) {
  if (to.type == DType::kFloat32) {
    static_cast<float*>(to.data)[index] = value;
  } else {
    static_cast<__nv_bfloat16*>(to.data)[index] = __float2bfloat16_rn(value);
  }
}

// grid [num_rows]; a block owns a row.
__global__ void RmsNormKernel(const RmsNormArgs args) {
  const int64_t first = int64_t{blockIdx.x} * args.hidden_size;
  const float* const input = args.input + first;
  float squares = 0.0f;
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    squares = fmaf(input[c], input[c], squares);
  }
  const float mean = BlockSum(squares) / args.hidden_size;
  const float scale = 1.0f / sqrtf(mean + args.epsilon);
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    StoreOperand(args.output, first + c, args.weight[c] * (input[c] * scale));
  }
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  RmsNormKernel<<<args.num_rows, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace ttt
