// Products of a few rows: bound by the memory, and by all that a step of a few
// rows waits for besides it.
//
// A warp sums a strip of outputs, or a part of the inputs of one (NumParts),
// with the weights as the rows of mma.sync: a wgmma is of 64 rows, of which few
// would be any. One warp asks for the weights, long before the rows are there,
// and one for these. Weights are asked for so few at a time as keeps the memory
// busy, as what other kernels read queues behind them; and they leave the L2
// cache first, which would else have nothing but weights when the next layer
// wants its rows, and its code.
#include <algorithm>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/gemm_store.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kWarpSize = 32;
constexpr int kWarps = 8;  // that multiply
constexpr int kThreads = (kWarps + 2) * kWarpSize;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMmaInputs = 16;
constexpr int kMmaRows = 8;  // of the step
constexpr int kMmasOfTile = kTileInputs / kMmaInputs;
constexpr int kMaxStages = 32;
constexpr int kAlignment = 1024;  // of swizzled tiles

// What a block does; the same for all of a launch.
struct Plan {
  int32_t padded_strips;  // of the matrix, as they lie in memory
  int32_t num_tiles;      // of the inputs
  int32_t parts;          // of the inputs
  int32_t least_strips;   // of a block
  int32_t one_more;       // so many blocks have one strip more
  int32_t strips;         // most of a block; with the parts, at most kWarps
  int32_t num_stages;
  int32_t window;  // stages that are asked for at a time, at most num_stages
  uint32_t zero;   // which the compiler does not know to be zero
};

// A place in the ring, and how often the ring has come round.
struct Stage {
  int32_t index = 0;
  uint32_t parity = 0;

  __device__ void Next(int32_t num_stages) {
    if (++index < num_stages) return;
    index = 0;
    parity ^= 1;
  }
};

// For rows of kBlocks * kMmaRows.
template <int kBlocks>
class Block {
 public:
  static constexpr int kRowTileBytes = kBlocks * kMmaRows * kRowBytes;
  static constexpr int kSums = kBlocks * kWarps * kWarpSize;  // float4
  // Of up to 16 rows two blocks just fit on a multiprocessor: one has its first
  // weights brought while the other ends.
  static constexpr int kRingBytes =
      (kBlocks <= 2 ? 108 - 4 * kBlocks : 200) * 1024;
  // What is asked for at a time; as measured, more with more rows.
  static constexpr int kWindowBytes =
      (kBlocks == 1 ? 40 : 32 + 16 * kBlocks) * 1024;
  static constexpr int kSharedBytes = kAlignment + kRingBytes +
                                      kSums * int(sizeof(float4)) +
                                      3 * kMaxStages * int(sizeof(CopyBarrier));
  static_assert(kBlocks > 2 || 2 * (kSharedBytes + 1024) <= 228 * 1024,
                "two blocks, each with what the driver takes");

  __device__ Block(const Product& product, const Plan& plan, std::byte* shared)
      : product_(product), plan_(plan) {
    first_strip_ = Strip(blockIdx.x);
    strips_ = Strip(blockIdx.x + 1) - first_strip_;
    steps_ = (plan.num_tiles + plan.parts - 1) / plan.parts;
    rows_offset_ = plan.parts * plan.strips * kTileBytes;
    stage_bytes_ = rows_offset_ + plan.parts * kRowTileBytes;
    const uint32_t over = SharedAddress(shared) % kAlignment;
    ring_ = shared + (over == 0 ? 0 : kAlignment - over);
    sums_ = reinterpret_cast<float4*>(ring_ + kRingBytes);
    weights_ = reinterpret_cast<CopyBarrier*>(sums_ + kSums);
    rows_ = weights_ + kMaxStages;
    empty_ = rows_ + kMaxStages;
  }
  __device__ void Init() {
    if (threadIdx.x < plan_.num_stages) {
      weights_[threadIdx.x].Init(1);
      rows_[threadIdx.x].Init(1);
      empty_[threadIdx.x].Init(chains() * kWarpSize);
      FenceBarrierInit();
    }
    __syncthreads();
  }

  // Warps: those of the sums, and two of which one thread works.
  __device__ void Run(int warp) {
    const int lane = threadIdx.x % kWarpSize;
    if (warp < kWarps) {
      if (warp < chains()) Sum(warp, lane);
    } else if (ElectLane()) {
      if (warp == kWarps) {
        BringWeights();
      } else {
        BringRows();
      }
    }
  }

 private:
  // A block has neighbouring strips.
  __device__ int32_t Strip(int32_t block) const {
    return block * plan_.least_strips + min(block, plan_.one_more);
  }
  // A strip's part of the inputs.
  __device__ int32_t chains() const { return strips_ * plan_.parts; }

  __device__ int32_t FirstTile(int part) const {
    return plan_.parts == 1 ? 0 : PartBegin(part, plan_.num_tiles);
  }
  __device__ int32_t EndTile(int part) const {
    return plan_.parts == 1 ? plan_.num_tiles
                            : PartBegin(part + 1, plan_.num_tiles);
  }

  // Parts that have a tile for this step, as bits: some lack the last.
  __device__ uint32_t PartsOf(int32_t step) const {
    uint32_t parts = 0;
#pragma unroll
    for (int part = 0; part < kMostParts; ++part) {
      if (part < plan_.parts && FirstTile(part) + step < EndTile(part)) {
        parts |= 1u << part;
      }
    }
    return parts;
  }

  // Weights are never written: asked for before the kernels before have ended.
  __device__ void BringWeights() {
    const int32_t bytes = strips_ * kTileBytes;
    const int64_t stride = int64_t{plan_.padded_strips} * kTileBytes;
    const auto* from = static_cast<const std::byte*>(product_.weights.data) +
                       int64_t{first_strip_} * kTileBytes;
    const uint64_t policy = GiveUpFirst();
    Stage stage;
    Stage there;  // the next that is not known to have come
    // Kernels after this one may begin, and ask for their weights, when no more
    // than most of a ring of these is left to ask for: they would take of the
    // memory's rate what this one waits for. As measured.
    const int32_t left =
        plan_.parts == 1 ? plan_.num_stages * 3 / 4 : plan_.num_stages;
    const int32_t lets_next = max(steps_ - left, 0);
#pragma unroll 1
    for (int32_t step = 0; step < steps_; ++step) {
      if (step == lets_next) LetNextKernelBegin();
      if (step >= plan_.num_stages) {
        empty_[stage.index].Wait(stage.parity ^ 1);
      }
      if (step >= plan_.window) {
        weights_[there.index].Wait(there.parity);
        there.Next(plan_.num_stages);
      }
      CopyBarrier& barrier = weights_[stage.index];
      const uint32_t parts = PartsOf(step);
      barrier.ArriveAndExpect(__popc(parts) * bytes);
      std::byte* const to = ring_ + stage.index * stage_bytes_;
#pragma unroll
      for (int part = 0; part < kMostParts; ++part) {
        if ((parts >> part & 1) == 0) continue;
        CopyBulk(to + part * plan_.strips * kTileBytes,
                 from + FirstTile(part) * stride, bytes, barrier, policy);
      }
      from += stride;
      stage.Next(plan_.num_stages);
    }
  }

  __device__ void BringRows() {
    Stage stage;
    PrefetchMap(product_.input);
    OnlyWaitForKernelsBefore();
#pragma unroll 1
    for (int32_t step = 0; step < steps_; ++step) {
      if (step >= plan_.num_stages) {
        empty_[stage.index].Wait(stage.parity ^ 1);
      }
      CopyBarrier& barrier = rows_[stage.index];
      const uint32_t parts = PartsOf(step);
      barrier.ArriveAndExpect(__popc(parts) * kRowTileBytes);
      std::byte* const to = ring_ + stage.index * stage_bytes_ + rows_offset_;
#pragma unroll
      for (int part = 0; part < kMostParts; ++part) {
        if ((parts >> part & 1) == 0) continue;
        CopyBox(to + part * kRowTileBytes, product_.input,
                (FirstTile(part) + step) * kTileInputs, 0, barrier);
      }
      stage.Next(plan_.num_stages);
    }
  }

  // Of a tile: the weights of a strip as operands A, rows as operands B.
  struct Operands {
    uint32_t weights[kMmasOfTile][4];
    uint32_t rows[kMmasOfTile][kBlocks][2];
  };
  // In chunks of 16 bytes, c of row r at c ^ r % 8 (gemm_layout.h).
  __device__ static uint32_t ChunkOf(int row, int chunk) {
    return row * kRowBytes + (chunk ^ row % 8) * 16;
  }
  static __device__ void Load(Operands& to, uint32_t weights, uint32_t rows) {
#pragma unroll
    for (int k = 0; k < kMmasOfTile; ++k) {
      const uint32_t at = k * 2 * 16;  // two chunks a product
      LoadMatrices(to.weights[k], weights ^ at);
      if constexpr (kBlocks == 1) {
        LoadMatrices(to.rows[k][0], rows ^ at);
      } else {
#pragma unroll
        for (int n = 0; n < kBlocks; n += 2) {
          uint32_t both[4];
          LoadMatrices(both, (rows ^ at) + n * kMmaRows * kRowBytes);
#pragma unroll
          for (int i = 0; i < 4; ++i) to.rows[k][n + i / 2][i % 2] = both[i];
        }
      }
    }
  }

  // Where to arrive at `barrier`, once the operands have come: it is of their
  // bits. An arrival waits for no load before it, and the copies that it lets
  // begin overtook these where another kernel was at work beside this one.
  __device__ uint32_t OnceThere(const Operands& operands,
                                uint32_t barrier) const {
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < kMmasOfTile; ++k) {
      bits ^= operands.weights[k][0];
#pragma unroll
      for (int n = 0; n < kBlocks; n += 2) bits ^= operands.rows[k][n][0];
    }
    return barrier | (bits & plan_.zero);
  }

  // Sums of outputs lane / 4 and lane / 4 + 8 of a strip, of two rows each.
  using Sums = float[kBlocks][4];

  __device__ void Sum(int chain, int lane) {
    const int part = chain % plan_.parts;
    const int strip = chain / plan_.parts;
    const int row = lane % 8;
    // Matrices of 8 x 8: of the weights, outputs before inputs; of the rows
    // the other way round.
    uint32_t weights_at = SharedAddress(ring_) +
                          (part * plan_.strips + strip) * kTileBytes +
                          ChunkOf(lane / 8 % 2 * 8 + row, lane / 16);
    uint32_t rows_at = SharedAddress(ring_) + rows_offset_ +
                       part * kRowTileBytes +
                       ChunkOf(lane / 16 * 8 + row, lane / 8 % 2);
    const int32_t tiles = EndTile(part) - FirstTile(part);
    const bool stores = part == 0;
    // From a barrier of a stage to the next of the same.
    constexpr uint32_t kBarriers = kMaxStages * sizeof(CopyBarrier);
    uint32_t first_barrier = SharedAddress(weights_);
    uint32_t end_barrier =
        first_barrier + plan_.num_stages * uint32_t{sizeof(CopyBarrier)};
    uint32_t stage_bytes = stage_bytes_;
    // Has the compiler find these once, and before the rows are there.
    asm volatile(""
                 : "+r"(weights_at), "+r"(rows_at), "+r"(first_barrier),
                   "+r"(end_barrier), "+r"(stage_bytes));

    OnlyWaitForKernelsBefore();
    Sums before = {};
    if (stores && product_.args.accumulate) LoadOutputs(strip, lane, before);
    Sums sums = {};
    uint32_t barrier = first_barrier;
    uint32_t stage_at = 0;
    uint32_t parity = 0;
    const auto load = [&](Operands& to) {
      CopyBarrier::WaitHere(barrier, parity);
      CopyBarrier::WaitHere(barrier + kBarriers, parity);
      Load(to, weights_at + stage_at, rows_at + stage_at);
    };
    // Every lane: one alone, after a __syncwarp, is no faster, and racecheck
    // does not follow it.
    const auto release = [&](const Operands& operands) {
      CopyBarrier::ArriveHere(OnceThere(operands, barrier + 2 * kBarriers));
      barrier += sizeof(CopyBarrier);
      stage_at += stage_bytes;
      if (barrier != end_barrier) return;
      barrier = first_barrier;
      stage_at = 0;
      parity ^= 1;
    };
    const auto multiply = [&](const Operands& by, int k) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        MultiplyAdd(sums[n], by.weights[k], by.rows[k][n][0], by.rows[k][n][1]);
      }
    };
    // A product waits for the one before it: the next tile is loaded meanwhile.
    const auto multiply_tile = [&](const Operands& own, Operands& next,
                                   bool has_next) {
      multiply(own, 0);
      if (has_next) load(next);
#pragma unroll
      for (int k = 1; k < kMmasOfTile; ++k) multiply(own, k);
      if (has_next) release(next);
    };
    Operands even;
    Operands odd;
    load(even);
    release(even);
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; tile += 2) {
      multiply_tile(even, odd, tile + 1 < tiles);
      if (tile + 1 < tiles) multiply_tile(odd, even, tile + 2 < tiles);
    }
    if (plan_.parts > 1) AddParts(chain, lane, sums);
    if (!stores) return;
    if (product_.gated != nullptr) {
      StoreGatedOutputs(strip, lane, sums);
      return;
    }
    StoreOutputs(strip, lane, before, sums);
  }

  // To the chain of part 0, in order.
  __device__ void AddParts(int chain, int lane, Sums& sums) {
    const auto place = [&](int of, int n) -> float4& {
      return sums_[(of * kBlocks + n) * kWarpSize + lane];
    };
    const int part = chain % plan_.parts;
    if (part > 0) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        place(chain, n) = {sums[n][0], sums[n][1], sums[n][2], sums[n][3]};
      }
    }
    asm volatile("bar.sync 1, %0;\n" ::"r"(chains() * kWarpSize) : "memory");
    if (part > 0) return;
#pragma unroll 1
    for (int other = 1; other < plan_.parts; ++other) {
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const float4 more = place(chain + other, n);
        sums[n][0] += more.x;
        sums[n][1] += more.y;
        sums[n][2] += more.z;
        sums[n][3] += more.w;
      }
    }
  }

  // visit(n, i, row, output) of each sum that is an output.
  template <typename Function>
  __device__ void ForEachOutput(int strip, int lane, Function visit) const {
    const int32_t output = (first_strip_ + strip) * kStripOutputs + lane / 4;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t row = n * kMmaRows + lane % 4 * 2 + i % 2;
        const int32_t of = output + i / 2 * 8;
        if (row < product_.args.num_rows && of < product_.weights.num_outputs) {
          visit(n, i, row, of);
        }
      }
    }
  }
  __device__ float* Output(int32_t row, int32_t output) const {
    return product_.args.output + row * product_.args.output_stride + output;
  }
  __device__ void LoadOutputs(int strip, int lane, Sums& outputs) const {
    ForEachOutput(strip, lane, [&](int n, int i, int32_t row, int32_t of) {
      outputs[n][i] = *Output(row, of);
    });
  }
  __device__ void StoreOutputs(int strip, int lane, const Sums& before,
                               const Sums& sums) const {
    const bool adds = product_.args.accumulate;
    ForEachOutput(strip, lane, [&](int n, int i, int32_t row, int32_t of) {
      *Output(row, of) = adds ? before[n][i] + sums[n][i] : sums[n][i];
    });
  }
  // A strip is eight gates, and the ups of the same channels.
  __device__ void StoreGatedOutputs(int strip, int lane,
                                    const Sums& sums) const {
    static_assert(kGateOutputs == 8, "as the sums of a lane are");
    const int64_t inner = product_.weights.num_outputs / 2;
    ForEachOutput(strip, lane, [&](int n, int i, int32_t row, int32_t of) {
      if (i >= 2) return;
      const int64_t channel = (of - lane / 4) / 2 + lane / 4;
      static_cast<__nv_bfloat16*>(product_.gated)[row * inner + channel] =
          __float2bfloat16_rn(Gated(sums[n][i], sums[n][i + 2]));
    });
  }

  const Product& product_;
  const Plan& plan_;
  int32_t first_strip_;
  int32_t strips_;
  int32_t steps_;        // of the longest part
  int32_t rows_offset_;  // in a stage
  int32_t stage_bytes_;
  std::byte* ring_;
  float4* sums_;          // [kWarps, kBlocks, kWarpSize], of parts
  CopyBarrier* weights_;  // [num_stages] each
  CopyBarrier* rows_;
  CopyBarrier* empty_;
};

// grid [blocks], each with neighbouring strips.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks <= 2 ? 2 : 1)
    GemmLeastRowsKernel(const __grid_constant__ Product product,
                        const __grid_constant__ Plan plan) {
  extern __shared__ std::byte least_rows_shared[];
  Block<kBlocks> block(product, plan, least_rows_shared);
  block.Init();
  block.Run(__shfl_sync(kAllLanes, threadIdx.x / kWarpSize, 0));
}

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

template <int kBlocks>
cudaError_t Launch(const Product& product, Plan plan, int32_t blocks,
                   cudaStream_t stream) {
  using B = Block<kBlocks>;
  const int32_t stage_bytes =
      plan.parts * (plan.strips * kTileBytes + B::kRowTileBytes);
  plan.num_stages = std::min(B::kRingBytes / stage_bytes, kMaxStages);
  plan.window = std::clamp(B::kWindowBytes / stage_bytes, 1, plan.num_stages);
  return LaunchOverlapped(GemmLeastRowsKernel<kBlocks>, dim3(blocks), kThreads,
                          B::kSharedBytes, stream, product, plan);
}

template <int kBlocks>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmLeastRowsKernel<kBlocks>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              Block<kBlocks>::kSharedBytes);
}

}  // namespace

// A block of a matrix that is cut reads all of the rows, and has few outputs.
int32_t MostLeastRows(const PackedMatrix& weights) {
  return NumParts(weights.num_outputs, weights.padded_inputs) > 1 ? 16 : 32;
}

int32_t LeastRowsBox(int32_t num_rows) {
  int32_t rows = kMmaRows;
  while (rows < num_rows) rows *= 2;
  return rows;
}

cudaError_t LaunchGemmLeastRows(const Product& product,
                                const GemmDevice& device, cudaStream_t stream) {
  const PackedMatrix& weights = product.weights;
  Plan plan = {};
  const int32_t num_strips = DivideUp(weights.num_outputs, kStripOutputs);
  plan.padded_strips = PaddedStrips(weights.num_outputs);
  plan.num_tiles = weights.padded_inputs / kTileInputs;
  plan.parts = NumParts(weights.num_outputs, weights.padded_inputs);
  // Whole waves of blocks, and no more than there are strips.
  const int32_t waves = DivideUp(DivideUp(num_strips, kWarps / plan.parts),
                                 device.num_multiprocessors);
  const int32_t blocks =
      std::min(waves * device.num_multiprocessors, num_strips);
  plan.least_strips = num_strips / blocks;
  plan.one_more = num_strips % blocks;
  plan.strips = DivideUp(num_strips, blocks);
  switch (LeastRowsBox(product.args.num_rows)) {
    case 8:
      return Launch<1>(product, plan, blocks, stream);
    case 16:
      return Launch<2>(product, plan, blocks, stream);
    default:
      return Launch<4>(product, plan, blocks, stream);
  }
}

cudaError_t PrepareGemmLeastRows() {
  for (cudaError_t (*prepare)() : {Prepare<1>, Prepare<2>, Prepare<4>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
