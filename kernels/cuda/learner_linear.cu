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
struct PrefillHalves {
  struct Space {
    LinearPrefillSpace<kHeadDim, kWarps> halves[2];
    LinearHandover<kHeadDim, kWarps> handover;
  };
  static constexpr int kThreads = 2 * kWarps * kWarpSize;
  static constexpr int kBlocks = kHeadDim == 96 ? 1 : 2;
  static constexpr int32_t kSharedBytes = sizeof(Space);
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
  static constexpr int32_t kMostItems = (kHeadDim == 96 ? 1 : 2) * 132;
  static constexpr int32_t kSharedBytes = sizeof(LinearSpreadSpace<kHeadDim>);
  static_assert(kSharedBytes <= 48 * 1024, "more must be asked for");
};

// grid [num_heads, batch].
template <int kHeadDim, int kWarps>
__global__ void __launch_bounds__(Prefill<kHeadDim, kWarps>::kThreads,
                                  Prefill<kHeadDim, kWarps>::kBlocks)
    LinearPrefillKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ float4 shared[];
  LinearPrefill<kHeadDim, kWarps>(
      args, blockIdx.x, threadIdx.x % Prefill<kHeadDim, kWarps>::kThreads,
      *reinterpret_cast<LinearPrefillSpace<kHeadDim, kWarps>*>(shared))
      .Run();
}

// grid [num_heads, batch]. The first half of a block's threads learns.
template <int kHeadDim, int kWarps>
__global__ void __launch_bounds__(PrefillHalves<kHeadDim, kWarps>::kThreads,
                                  PrefillHalves<kHeadDim, kWarps>::kBlocks)
    LinearPrefillHalvesKernel(const __grid_constant__ LearnerArgs args) {
  using H = PrefillHalves<kHeadDim, kWarps>;
  extern __shared__ float4 shared[];
  auto& space = *reinterpret_cast<typename H::Space*>(shared);
  if (threadIdx.x == 0) space.handover.Init();
  __syncthreads();
  const int half = __shfl_sync(kAllLanes, threadIdx.x / (H::kThreads / 2), 0);
  const int thread = threadIdx.x % (H::kThreads / 2);
  if (half == 0) {
    LinearPrefill<kHeadDim, kWarps, LinearPart::kLearns>(
        args, blockIdx.x, thread, space.halves[0], &space.handover)
        .Run();
  } else {
    LinearPrefill<kHeadDim, kWarps, LinearPart::kReads>(
        args, blockIdx.x, thread, space.halves[1], &space.handover)
        .Run();
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

// grid [num_heads, batch], all three. `inputs` is read if kIsProjected.
template <int kHeadDim, bool kIsProjected>
__device__ void RunSpread(const LearnerArgs& args,
                          const LearnerInputsArgs* inputs) {
  extern __shared__ float4 shared[];
  LetNextKernelBegin();
  __builtin_assume(threadIdx.x < Spread<kHeadDim>::kThreads);
  const SequenceRows sequence = LoadWholeSequence(args.rows, blockIdx.y);
  LinearSpread<kHeadDim, kIsProjected> head(
      args, inputs, blockIdx.x, threadIdx.x,
      *reinterpret_cast<LinearSpreadSpace<kHeadDim>*>(shared));
  head.Run(sequence);
}
template <int kHeadDim>
__global__ void __launch_bounds__(Spread<kHeadDim>::kThreads,
                                  Spread<kHeadDim>::kBlocks)
    LinearSpreadKernel(const __grid_constant__ LearnerArgs args) {
  RunSpread<kHeadDim, false>(args, nullptr);
}
template <int kHeadDim>
__global__ void __launch_bounds__(Spread<kHeadDim>::kThreads,
                                  Spread<kHeadDim>::kBlocks)
    LinearProjectedKernel(
        const __grid_constant__ LearnerOfProjectionsArgs args) {
  RunSpread<kHeadDim, true>(args.learner, &args.inputs);
}

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
cudaError_t LaunchPrefillHalves(const LearnerArgs& args, cudaStream_t stream) {
  using H = PrefillHalves<kHeadDim, kWarps>;
  return LaunchOverlapped(LinearPrefillHalvesKernel<kHeadDim, kWarps>,
                          dim3(args.num_heads, args.rows.batch), H::kThreads,
                          H::kSharedBytes, stream, args);
}

template <int kHeadDim>
bool IsSpread(const LearnerArgs& args) {
  return args.rows.num_rows <= args.rows.batch &&
         args.rows.batch * args.num_heads <= Spread<kHeadDim>::kMostItems;
}

// `kernel` is one of the two.
template <int kHeadDim, typename Args>
cudaError_t LaunchSpread(void (*kernel)(Args), const StepRows& rows,
                         int32_t num_heads, const Args& args,
                         cudaStream_t stream) {
  using S = Spread<kHeadDim>;
  return LaunchOverlapped(kernel, dim3(num_heads, rows.batch), S::kThreads,
                          S::kSharedBytes, stream, args);
}

template <int kHeadDim, int kWarps>
cudaError_t LaunchDecode(const LearnerArgs& args, cudaStream_t stream) {
  using D = Decode<kHeadDim, kWarps>;
  const int32_t items =
      args.rows.batch * args.num_heads <= kMostLoneItems ? 1 : D::kMostItems;
  return LaunchOverlapped(
      LinearDecodeKernel<kHeadDim, kWarps>,
      dim3((args.num_heads + items - 1) / items, args.rows.batch),
      items * D::kItemThreads, items * D::kItemBytes, stream, args);
}

template <int kHeadDim, int kManyWarps, int kDecodeWarps>
cudaError_t LaunchForm(const LearnerArgs& args, cudaStream_t stream) {
  if (IsSpread<kHeadDim>(args)) {
    return LaunchSpread<kHeadDim>(LinearSpreadKernel<kHeadDim>, args.rows,
                                  args.num_heads, args, stream);
  }
  if (args.rows.num_rows <= args.rows.batch) {
    return LaunchDecode<kHeadDim, kDecodeWarps>(args, stream);
  }
  constexpr int kWideWarps = kHeadDim / kOutputsOfTile;
  // Up to which all blocks have a place at once.
  constexpr int32_t kMostHalvesItems =
      132 * PrefillHalves<kHeadDim, kWideWarps>::kBlocks;
  if (args.rows.batch * args.num_heads > kMostHalvesItems) {
    return LaunchPrefill<kHeadDim, kManyWarps>(args, stream);
  }
  return LaunchPrefillHalves<kHeadDim, kWideWarps>(args, stream);
}

template <int kHeadDim, int kWarps>
cudaError_t PreparePrefill() {
  return cudaFuncSetAttribute(LinearPrefillKernel<kHeadDim, kWarps>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              Prefill<kHeadDim, kWarps>::kSharedBytes);
}
template <int kHeadDim>
cudaError_t PreparePrefillHalves() {
  constexpr int kWarps = kHeadDim / kOutputsOfTile;
  return cudaFuncSetAttribute(LinearPrefillHalvesKernel<kHeadDim, kWarps>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              PrefillHalves<kHeadDim, kWarps>::kSharedBytes);
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

bool IsLinearSpread(const LearnerArgs& args) {
  switch (args.head_dim) {
    case 32:
      return IsSpread<32>(args);
    case 64:
      return IsSpread<64>(args);
    default:
      return IsSpread<96>(args);
  }
}

cudaError_t LaunchLearnerLinearOfProjections(
    const LearnerOfProjectionsArgs& args, cudaStream_t stream) {
  const StepRows& rows = args.learner.rows;
  const int32_t heads = args.learner.num_heads;
  switch (args.learner.head_dim) {
    case 32:
      return LaunchSpread<32>(LinearProjectedKernel<32>, rows, heads, args,
                              stream);
    case 64:
      return LaunchSpread<64>(LinearProjectedKernel<64>, rows, heads, args,
                              stream);
    default:
      return LaunchSpread<96>(LinearProjectedKernel<96>, rows, heads, args,
                              stream);
  }
}

cudaError_t PrepareLearnerLinear() {
  for (cudaError_t (*prepare)() :
       {PreparePrefill<32, 2>, PreparePrefill<64, 2>, PreparePrefill<96, 6>,
        PreparePrefillHalves<32>, PreparePrefillHalves<64>,
        PreparePrefillHalves<96>, PrepareDecode<32, 1>, PrepareDecode<64, 1>,
        PrepareDecode<96, 3>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
