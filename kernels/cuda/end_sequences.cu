#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 128;

// grid [batch / kThreads]; a thread owns a sequence.
//
// Comes right before EmbedTokens: kernels that read StepRows before their own
// wait begin after that one has waited for this.
__global__ void EndSequencesKernel(const EndSequencesArgs args) {
  WaitForKernelsBefore();
  const int32_t sequence = blockIdx.x * kThreads + threadIdx.x;
  if (sequence >= args.batch) return;
  const int32_t before = args.before[sequence];
  if (before < 0 || args.ended[before] == 0) return;
  args.sequences[sequence].num_rows = 0;
}

}  // namespace

cudaError_t LaunchEndSequences(const EndSequencesArgs& args,
                               cudaStream_t stream) {
  if (args.batch == 0) return cudaSuccess;
  return LaunchOverlapped(EndSequencesKernel,
                          dim3((args.batch + kThreads - 1) / kThreads),
                          kThreads, 0, stream, args);
}

}  // namespace ttt
