#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_linear_decode.cuh"
#include "kernels/cuda/learner_linear_prefill.cuh"
#include "kernels/cuda/learner_linear_spread.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

// Blocks of a multiprocessor, which bound the registers of a thread: 65,536
// divided by all their threads.
template <int kHeadDim, int kWarps>
struct Prefill {
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kBlocks = kHeadDim == 64 ? 4 : 2;
  static constexpr int32_t kSharedBytes =
      sizeof(LinearPrefillSpace<kHeadDim, kWarps>);
};
template <int kHeadDim, int kWarps>
struct Decode {
  // Barriers are the block's: an item of several warps has one to itself.
  static constexpr int kMostItems = kWarps == 1 ? 2 : 1;  // of a block
  static constexpr int kItemThreads = kWarps * kWarpSize;
  static constexpr int kBlocks = kWarps == 1 ? 8 : 5;
  static constexpr int32_t kItemBytes =
      sizeof(LinearDecodeSpace<kHeadDim, kWarps>);
};

template <int kHeadDim>
struct Spread {
  static constexpr int kThreads = kHeadDim / kOutputsOfTile * kWarpSize;
  static constexpr int kBlocks = kHeadDim == 96 ? 2 : 5;
  // Up to which all have a place at once, beside a block of the products.
  static constexpr int32_t kMostItems = (kHeadDim == 96 ? 2 : 4) * 132;
  static constexpr int32_t kSharedBytes = sizeof(LinearSpreadSpace<kHeadDim>);
};

// grid [num_heads, batch].
template <int kHeadDim, int kWarps>
__global__ void __launch_bounds__(Prefill<kHeadDim, kWarps>::kThreads,
                                  Prefill<kHeadDim, kWarps>::kBlocks)
    LinearPrefillKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ float4 shared[];
  LinearPrefill<kHeadDim, kWarps> head(
      args, blockIdx.x, threadIdx.x % Prefill<kHeadDim, kWarps>::kThreads,
      *reinterpret_cast<LinearPrefillSpace<kHeadDim, kWarps>*>(shared));
  WaitForKernelsBefore();
  const SequenceRows sequence = args.rows.sequences[blockIdx.y];
  if (sequence.num_rows > 0) {
    head.Run(sequence);
  } else {
    WaitForCopies();
  }
}

// grid [num_heads / items, batch], with so many items a block.
template <int kHeadDim, int kWarps>
__global__ void __launch_bounds__(Decode<kHeadDim, kWarps>::kMostItems*
                                      Decode<kHeadDim, kWarps>::kItemThreads,
                                  Decode<kHeadDim, kWarps>::kBlocks)
    LinearDecodeKernel(const __grid_constant__ LearnerArgs args) {
  using D = Decode<kHeadDim, kWarps>;
  constexpr int kItemThreads = D::kItemThreads;
  extern __shared__ float4 shared[];
  LetNextKernelBegin();
  __builtin_assume(threadIdx.x < D::kMostItems * kItemThreads);
  const int index = threadIdx.x / kItemThreads;
  const auto head_index =
      static_cast<int32_t>(blockIdx.x * (blockDim.x / kItemThreads) + index);
  if (head_index >= args.num_heads) return;
  const SequenceRows sequence = LoadWholeSequence(args.rows, blockIdx.y);
  LinearDecode<kHeadDim, kWarps> head(
      args, head_index, threadIdx.x % kItemThreads,
      reinterpret_cast<LinearDecodeSpace<kHeadDim, kWarps>*>(shared)[index]);
  head.Run(sequence);
}

// grid [num_heads, batch].
template <int kHeadDim>
__global__ void __launch_bounds__(Spread<kHeadDim>::kThreads,
                                  Spread<kHeadDim>::kBlocks)
    LinearSpreadKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ float4 shared[];
  LetNextKernelBegin();
  __builtin_assume(threadIdx.x < Spread<kHeadDim>::kThreads);
  const SequenceRows sequence = LoadWholeSequence(args.rows, blockIdx.y);
  LinearSpread<kHeadDim> head(
      args, blockIdx.x, threadIdx.x,
      *reinterpret_cast<LinearSpreadSpace<kHeadDim>*>(shared));
  head.Run(sequence);
}

// Items of a step up to which as many warps as can be share each; above, the
// multiprocessors of an H200 have enough of them.
constexpr int32_t kMostSpreadItems = 2 * 132;
// Items up to which one is a block: all multiprocessors have some.
constexpr int32_t kMostLoneItems = 8 * 132;

template <int kHeadDim, int kWarps>
cudaError_t LaunchPrefill(const LearnerArgs& args, cudaStream_t stream) {
  using P = Prefill<kHeadDim, kWarps>;
  return LaunchOverlapped(LinearPrefillKernel<kHeadDim, kWarps>,
                          dim3(args.num_heads, args.rows.batch), P::kThreads,
                          P::kSharedBytes, stream, args);
}

template <int kHeadDim, int kWarps>
cudaError_t LaunchDecode(const LearnerArgs& args, cudaStream_t stream) {
  const int32_t all_items = args.rows.batch * args.num_heads;
  using S = Spread<kHeadDim>;
  if (all_items <= S::kMostItems) {
    return LaunchOverlapped(LinearSpreadKernel<kHeadDim>,
                            dim3(args.num_heads, args.rows.batch), S::kThreads,
                            S::kSharedBytes, stream, args);
  }
  using D = Decode<kHeadDim, kWarps>;
  const int32_t items = all_items <= kMostLoneItems ? 1 : D::kMostItems;
  return LaunchOverlapped(
      LinearDecodeKernel<kHeadDim, kWarps>,
      dim3((args.num_heads + items - 1) / items, args.rows.batch),
      items * D::kItemThreads, items * D::kItemBytes, stream, args);
}

template <int kHeadDim, int kManyWarps, int kDecodeWarps>
cudaError_t LaunchForm(const LearnerArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows <= args.rows.batch) {
    return LaunchDecode<kHeadDim, kDecodeWarps>(args, stream);
  }
  if (args.rows.batch * args.num_heads > kMostSpreadItems) {
    return LaunchPrefill<kHeadDim, kManyWarps>(args, stream);
  }
  return LaunchPrefill<kHeadDim, kHeadDim / kOutputsOfTile>(args, stream);
}

template <int kHeadDim, int kWarps>
cudaError_t PreparePrefill() {
  return cudaFuncSetAttribute(LinearPrefillKernel<kHeadDim, kWarps>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              Prefill<kHeadDim, kWarps>::kSharedBytes);
}
template <int kHeadDim, int kWarps>
cudaError_t PrepareDecode() {
  using D = Decode<kHeadDim, kWarps>;
  return cudaFuncSetAttribute(LinearDecodeKernel<kHeadDim, kWarps>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              D::kMostItems * D::kItemBytes);
}

}  // namespace

cudaError_t LaunchLearnerLinear(const LearnerArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  switch (args.head_dim) {
    case 32:
      return LaunchForm<32, 2, 1>(args, stream);
    case 64:
      return LaunchForm<64, 2, 1>(args, stream);
    default:
      return LaunchForm<96, 6, 3>(args, stream);
  }
}

cudaError_t PrepareLearnerLinear() {
  for (cudaError_t (*prepare)() :
       {PreparePrefill<32, 2>, PreparePrefill<64, 2>, PreparePrefill<64, 4>,
        PreparePrefill<96, 6>, PrepareDecode<32, 1>, PrepareDecode<64, 1>,
        PrepareDecode<96, 3>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
