#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// Copies `size` floats with the whole block; false if this thread copied one
// that is not finite.
__device__ bool CopyRow(float* to, const float* from, int size) {
  bool finite = true;
  if (size % 4 == 0) {
    for (int c = 4 * threadIdx.x; c < size; c += 4 * kThreads) {
      const float4 x = LoadFour(from + c);
      StoreFour(to + c, x);
      finite = finite && isfinite(x.x) && isfinite(x.y) && isfinite(x.z) &&
               isfinite(x.w);
    }
    return finite;
  }
  for (int c = threadIdx.x; c < size; c += kThreads) {
    to[c] = from[c];
    finite = finite && isfinite(from[c]);
  }
  return finite;
}

// grid [batch]; a block owns a sequence.
__global__ void SaveHiddenKernel(const SaveHiddenArgs args) {
  WaitForKernelsBefore();
  const SequenceRows sequence = LoadSequence(args.rows, blockIdx.x);
  bool finite = true;
  if (sequence.num_rows > 0) {
    const int64_t last = int64_t{sequence.first_row} + sequence.num_rows - 1;
    finite = CopyRow(SlotOf<float>(args.last_hidden, sequence.slot),
                     args.hidden + last * args.hidden_size, args.hidden_size);
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0) args.finite[blockIdx.x] = finite;
}

// grid [num_rows]; a block owns a row.
__global__ void GatherHiddenKernel(const GatherHiddenArgs args) {
  WaitForKernelsBefore();
  const int32_t row = args.rows[blockIdx.x];
  const int32_t slot = args.slots[blockIdx.x];
  CopyRow(args.output + int64_t{blockIdx.x} * args.hidden_size,
          row >= 0 ? args.hidden + int64_t{row} * args.hidden_size
                   : SlotOf<float>(args.last_hidden, slot),
          args.hidden_size);
}

}  // namespace

cudaError_t LaunchSaveHidden(const SaveHiddenArgs& args, cudaStream_t stream) {
  if (args.rows.batch == 0) return cudaSuccess;
  return LaunchOverlapped(SaveHiddenKernel, dim3(args.rows.batch), kThreads, 0,
                          stream, args);
}

cudaError_t LaunchGatherHidden(const GatherHiddenArgs& args,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  return LaunchOverlapped(GatherHiddenKernel, dim3(args.num_rows), kThreads, 0,
                          stream, args);
}

}  // namespace ttt
