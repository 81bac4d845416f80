// Products of many rows: bound by the tensor cores, or with few row tiles by
// the memory.
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace ttt {
namespace {

constexpr int kWarpSize = 32;
constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kConsumers = 2;  // warpgroups; one more brings the operands
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kWarpgroupRows = 64;
constexpr int kRows = kConsumers * kWarpgroupRows;  // of a block
constexpr int kMmaInputs = 16;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kAlignment = 1024;  // of swizzled tiles
constexpr int kRingBytes = 192 * 1024;
constexpr int kRowTileBytes = kRows * kTileInputs * 2;
static_assert(kRows == kManyRowsBox);

// A block computes kRows x kOutputs, of inputs in kPartsOfInputs (NumParts).
template <int kOutputsOfTile, int kPartsOfInputs>
struct Shape {
  static constexpr int kOutputs = kOutputsOfTile;
  static constexpr int kInputParts = kPartsOfInputs;
  static constexpr int kMmaOutputs = kOutputs < 128 ? kOutputs : 128;
  static constexpr int kParts = kOutputs / kMmaOutputs;
  static constexpr int kStrips = kOutputs / kStripOutputs;
  static constexpr int kStageBytes = kRowTileBytes + kStrips * kTileBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
  static constexpr int kSharedBytes =
      kRingBytes + kAlignment + 2 * kStages * int(sizeof(CopyBarrier));
};

template <typename S>
class Block {
 public:
  __device__ Block(const GemmArgs& args, const PackedMatrix& weights,
                   std::byte* shared)
      : args_(args),
        weights_(weights),
        num_tiles_(weights.padded_inputs / kTileInputs),
        first_row_(blockIdx.x * kRows),
        first_output_(blockIdx.y * S::kOutputs) {
    const uint32_t over = SharedAddress(shared) % kAlignment;
    ring_ = shared + (over == 0 ? 0 : kAlignment - over);
    full_ = reinterpret_cast<CopyBarrier*>(ring_ + kRingBytes);
    empty_ = full_ + S::kStages;
  }

  __device__ void Init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < S::kStages; ++stage) {
        full_[stage].Init(1);
        empty_[stage].Init(kConsumers);
      }
      FenceBarrierInit();
    }
    __syncthreads();
  }

  // One thread.
  __device__ void Produce(const CUtensorMap& input) {
    const auto* const matrix = static_cast<const std::byte*>(weights_.data);
    const int32_t left =
        (weights_.num_outputs - first_output_ + kStripOutputs - 1) /
        kStripOutputs;
    const int32_t strips = left < S::kStrips ? left : S::kStrips;
    int stage = 0;
    uint32_t parity = 1;  // The first round finds every stage empty.
    for (int tile = 0; tile < num_tiles_; ++tile) {
      empty_[stage].Wait(parity);
      full_[stage].ArriveAndExpect(kRowTileBytes + strips * kTileBytes);
      std::byte* const to = ring_ + stage * S::kStageBytes;
      CopyBox(to, input, tile * kTileInputs, first_row_, full_[stage]);
      for (int strip = 0; strip < strips; ++strip) {
        const int64_t from =
            PackedOffset(first_output_ + strip * kStripOutputs,
                         tile * kTileInputs, weights_.padded_inputs);
        CopyBulk(to + kRowTileBytes + strip * kTileBytes, matrix + from * 2,
                 kTileBytes, full_[stage]);
      }
      Next(stage, parity);
    }
  }

  // A warpgroup.
  __device__ void Consume(int warpgroup) {
    constexpr int kSums = S::kMmaOutputs / 2;
    float sums[S::kParts][kSums] = {};
    // Of the parts of the inputs before the one that `sums` are of.
    float done[S::kInputParts > 1 ? S::kParts : 1]
              [S::kInputParts > 1 ? kSums : 1];
    const int32_t tiles_of_part =
        (num_tiles_ + S::kInputParts - 1) / S::kInputParts;
    int32_t part_end = tiles_of_part;
    int stage = 0;
    int last_stage = 0;
    uint32_t parity = 0;
    for (int tile = 0; tile < num_tiles_; ++tile) {
      full_[stage].Wait(parity);
      const uint32_t rows = SharedAddress(ring_ + stage * S::kStageBytes) +
                            warpgroup * (kRowTileBytes / kConsumers);
      const uint32_t weights =
          SharedAddress(ring_ + stage * S::kStageBytes + kRowTileBytes);
      WarpgroupArrive();
#pragma unroll
      for (int k = 0; k < kTileInputs / kMmaInputs; ++k) {
#pragma unroll
        for (int part = 0; part < S::kParts; ++part) {
          MultiplyAdd(sums[part], TileDescriptor(rows + k * kMmaInputs * 2),
                      TileDescriptor(weights + k * kMmaInputs * 2 +
                                     part * S::kMmaOutputs * kTileInputs * 2));
        }
      }
      WarpgroupCommit();
      WarpgroupWait<1>();
      // The products of the stage before have ended.
      if (tile > 0 && threadIdx.x % kWarpgroup == 0) {
        empty_[last_stage].Arrive();
      }
      last_stage = stage;
      Next(stage, parity);
      if constexpr (S::kInputParts > 1) {
        if (tile + 1 < part_end) continue;
        WarpgroupWait<0>();
        AddPart(part_end == tiles_of_part, done, sums);
        part_end = min(part_end + tiles_of_part, num_tiles_);
      }
    }
    WarpgroupWait<0>();
#pragma unroll
    for (int part = 0; part < S::kParts; ++part) {
      if constexpr (S::kInputParts > 1) {
        Store(warpgroup, part, done[part]);
      } else {
        Store(warpgroup, part, sums[part]);
      }
    }
  }

 private:
  __device__ static void Next(int& stage, uint32_t& parity) {
    if (++stage < S::kStages) return;
    stage = 0;
    parity ^= 1;
  }

  // Adds the sums of a part to those of the parts before it, and clears them.
  template <int kSums>
  __device__ static void AddPart(bool is_first, float (&done)[S::kParts][kSums],
                                 float (&sums)[S::kParts][kSums]) {
#pragma unroll
    for (int part = 0; part < S::kParts; ++part) {
      FenceSums(sums[part]);
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        done[part][i] =
            is_first ? sums[part][i] : done[part][i] + sums[part][i];
        sums[part][i] = 0;
      }
      FenceSums(sums[part]);
    }
  }

  template <int kSums>
  __device__ void Store(int warpgroup, int part,
                        const float (&sums)[kSums]) const {
    const int thread = threadIdx.x % kWarpgroup;
    const int32_t row = first_row_ + warpgroup * kWarpgroupRows +
                        thread / kWarpSize * 16 + thread % kWarpSize / 4;
    const int32_t output =
        first_output_ + part * S::kMmaOutputs + thread % 4 * 2;
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      Store(row + i / 2 % 2 * 8, output + i / 4 * 8 + i % 2, sums[i]);
    }
  }
  __device__ void Store(int32_t row, int32_t output, float sum) const {
    if (row >= args_.num_rows || output >= weights_.num_outputs) return;
    float* const to = args_.output + row * args_.output_stride + output;
    *to = args_.accumulate ? *to + sum : sum;
  }

  const GemmArgs& args_;
  const PackedMatrix& weights_;
  const int32_t num_tiles_;
  const int32_t first_row_;
  const int32_t first_output_;
  std::byte* ring_;
  CopyBarrier* full_;
  CopyBarrier* empty_;
};

// grid [rows / kRows, outputs / S::kOutputs].
template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    GemmManyRowsKernel(const __grid_constant__ GemmArgs args,
                       const __grid_constant__ PackedMatrix weights,
                       const __grid_constant__ CUtensorMap input) {
  extern __shared__ std::byte many_rows_shared[];
  Block<S> block(args, weights, many_rows_shared);
  block.Init();
  WaitForKernelsBefore();
  const int warpgroup = threadIdx.x / kWarpgroup;
  if (warpgroup == kConsumers) {
    asm volatile(
        "setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kProducerRegisters));
    if (threadIdx.x % kWarpgroup == 0) block.Produce(input);
  } else {
    asm volatile(
        "setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kConsumerRegisters));
    block.Consume(warpgroup);
  }
}

template <typename S>
cudaError_t Launch(const GemmArgs& args, const PackedMatrix& weights,
                   const OperandMap& input, cudaStream_t stream) {
  const dim3 grid((args.num_rows + kRows - 1) / kRows,
                  (weights.num_outputs + S::kOutputs - 1) / S::kOutputs);
  return LaunchOverlapped(GemmManyRowsKernel<S>, grid, kThreads,
                          S::kSharedBytes, stream, args, weights, input.map);
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmManyRowsKernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              S::kSharedBytes);
}

// The blocks that tiles of so many outputs give.
int64_t NumBlocks(const GemmArgs& args, const PackedMatrix& weights,
                  int32_t outputs) {
  return int64_t{(args.num_rows + kRows - 1) / kRows} *
         ((weights.num_outputs + outputs - 1) / outputs);
}

// The largest tile of at most 128 outputs that gives most of the
// multiprocessors a block.
template <int kInputParts>
cudaError_t LaunchLargest(const GemmArgs& args, const PackedMatrix& weights,
                          const OperandMap& input, int32_t num_multiprocessors,
                          cudaStream_t stream) {
  const int32_t wanted = num_multiprocessors * 3 / 4;
  if (NumBlocks(args, weights, 128) >= wanted) {
    return Launch<Shape<128, kInputParts>>(args, weights, input, stream);
  }
  if (NumBlocks(args, weights, 64) >= wanted) {
    return Launch<Shape<64, kInputParts>>(args, weights, input, stream);
  }
  return Launch<Shape<32, kInputParts>>(args, weights, input, stream);
}

}  // namespace

cudaError_t LaunchGemmManyRows(const GemmArgs& args,
                               const PackedMatrix& weights,
                               const OperandMap& input,
                               int32_t num_multiprocessors,
                               cudaStream_t stream) {
  if (NumParts(weights.num_outputs, weights.padded_inputs) > 1) {
    return LaunchLargest<kMostParts>(args, weights, input, num_multiprocessors,
                                     stream);
  }
  if (NumBlocks(args, weights, 256) >= num_multiprocessors) {
    return Launch<Shape<256, 1>>(args, weights, input, stream);
  }
  return LaunchLargest<1>(args, weights, input, num_multiprocessors, stream);
}

cudaError_t PrepareGemmManyRows() {
  for (cudaError_t (*prepare)() :
       {Prepare<Shape<32, 1>>, Prepare<Shape<64, 1>>, Prepare<Shape<128, 1>>,
        Prepare<Shape<256, 1>>, Prepare<Shape<32, kMostParts>>,
        Prepare<Shape<64, kMostParts>>, Prepare<Shape<128, kMostParts>>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
