#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;

// grid [batch]; a block owns a sequence.
__global__ void SaveHiddenKernel(const SaveHiddenArgs args) {
  WaitForKernelsBefore();
  const SequenceRows sequence = args.rows.sequences[blockIdx.x];
  bool finite = true;
  if (sequence.num_rows > 0) {
    const int64_t last = int64_t{sequence.first_row} + sequence.num_rows - 1;
    const float* const hidden = args.hidden + last * args.hidden_size;
    float* const kept = SlotOf<float>(args.last_hidden, sequence.slot);
    for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
      kept[c] = hidden[c];
      finite = finite && isfinite(hidden[c]);
    }
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0) args.finite[blockIdx.x] = finite;
}

// grid [num_rows]; a block owns a row.
__global__ void GatherHiddenKernel(const GatherHiddenArgs args) {
  WaitForKernelsBefore();
  const int32_t row = args.rows[blockIdx.x];
  const float* const from =
      row >= 0 ? args.hidden + int64_t{row} * args.hidden_size
               : SlotOf<float>(args.last_hidden, args.slots[blockIdx.x]);
  float* const to = args.output + int64_t{blockIdx.x} * args.hidden_size;
  for (int c = threadIdx.x; c < args.hidden_size; c += kThreads) {
    to[c] = from[c];
  }
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
