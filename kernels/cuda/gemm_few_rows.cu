// Products of few rows: streams the weights once, near the rate of the memory.
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kWarpSize = 32;
constexpr int kConsumers = 8;  // warps; one more brings the operands
constexpr int kThreads = (kConsumers + 1) * kWarpSize;
constexpr int kConsumerThreads = kConsumers * kWarpSize;
constexpr int kMmaInputs = 16;
constexpr int kMaxStages = 24;
constexpr int kAlignment = 1024;  // of swizzled tiles
// Of a block's shared memory; what is left holds the barriers.
constexpr int kRingBytes = 208 * 1024;
constexpr int kSharedBytes =
    kRingBytes + kAlignment + 2 * kMaxStages * int(sizeof(CopyBarrier));

// What a block does; the same for all of a launch.
struct Plan {
  int32_t strips;      // of a block
  int32_t num_strips;  // of the matrix
  int32_t num_tiles;   // of a strip; even
  int32_t num_rounds;  // each a stage of tiles
  int32_t num_stages;
};

// kRows rows of the input, of which a warp takes kWarpRows at a time. With
// inputs in kParts parts (NumParts) a stage has a tile of each; else, two tiles
// that follow each other.
template <int kRowsOfBlock, int kRowsOfWarp, int kPartsOfInputs>
struct Shape {
  static constexpr int kParts = kPartsOfInputs;
  static constexpr int kTiles = kParts > 1 ? kParts : 2;  // of a stage
  static constexpr int kMaxStrips = kParts > 1 ? 2 : 8;   // of a block
  static constexpr int kTilesOfUnit = kTiles / kParts;    // of a stage
  static constexpr int kRows = kRowsOfBlock;
  static constexpr int kWarpRows = kRowsOfWarp;
  static constexpr int kGroups = kRows / kWarpRows;
  static constexpr int kRowTileBytes = kRows * kTileInputs * 2;
  static constexpr int kUnits =
      (kMaxStrips * kGroups * kParts + kConsumers - 1) /
      kConsumers;  // of a warp
};

template <typename S>
class Block {
 public:
  __device__ Block(const GemmArgs& args, const PackedMatrix& weights,
                   const Plan& plan, std::byte* shared)
      : args_(args),
        weights_(weights),
        plan_(plan),
        first_strip_(blockIdx.x * plan.strips),
        strips_(min(plan.strips, plan.num_strips - first_strip_)),
        weight_bytes_(plan.strips * S::kTiles * kTileBytes),
        stage_bytes_(weight_bytes_ + S::kTiles * S::kRowTileBytes) {
    const uint32_t over = SharedAddress(shared) % kAlignment;
    ring_ = shared + (over == 0 ? 0 : kAlignment - over);
    full_ = reinterpret_cast<CopyBarrier*>(ring_ + kRingBytes);
    empty_ = full_ + kMaxStages;
  }

  __device__ void Init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < plan_.num_stages; ++stage) {
        full_[stage].Init(1);
        empty_[stage].Init(kConsumers);
      }
      FenceBarrierInit();
    }
    __syncthreads();
  }

  // One thread. Asks for the weights of the first stages before it waits for
  // the kernels that write the input.
  __device__ void Produce(const CUtensorMap& input) {
    const int ahead = min(plan_.num_stages, plan_.num_rounds);
    for (int stage = 0; stage < ahead; ++stage) LoadWeights(stage, stage);
    WaitForKernelsBefore();
    for (int stage = 0; stage < ahead; ++stage) LoadRows(input, stage, stage);
    int stage = 0;
    uint32_t parity = 0;
    for (int round = ahead; round < plan_.num_rounds; ++round) {
      empty_[stage].Wait(parity);
      LoadWeights(stage, round);
      LoadRows(input, stage, round);
      if (++stage == plan_.num_stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

  __device__ void Consume() {
    const int lane = threadIdx.x % kWarpSize;
    const int warp = threadIdx.x / kWarpSize;
    int stage = 0;
    uint32_t parity = 0;
    for (int round = 0; round < plan_.num_rounds; ++round) {
      full_[stage].Wait(parity);
      const std::byte* const from = ring_ + stage * stage_bytes_;
#pragma unroll
      for (int i = 0; i < S::kUnits; ++i) {
        const int unit = warp + i * kConsumers;
        if (unit >= num_units()) break;
        if (HasTile(round, PartOf(unit))) Multiply(from, unit, lane, sums_[i]);
      }
      __syncwarp();
      if (lane == 0) empty_[stage].Arrive();
      if (++stage == plan_.num_stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    if constexpr (S::kParts > 1) AddParts(warp, lane);
#pragma unroll
    for (int i = 0; i < S::kUnits; ++i) {
      const int unit = warp + i * kConsumers;
      if (unit >= num_units()) break;
      if (PartOf(unit) == 0) Store(unit, lane, sums_[i]);
    }
  }

 private:
  // A unit of work is a part of the inputs, a group of rows and a strip.
  __device__ int num_units() const { return strips_ * S::kGroups * S::kParts; }
  __device__ static int PartOf(int unit) { return unit % S::kParts; }
  __device__ static int GroupOf(int unit) {
    return unit / S::kParts % S::kGroups;
  }
  __device__ static int StripOf(int unit) {
    return unit / (S::kParts * S::kGroups);
  }

  // Of tile `i` of a stage.
  __device__ int Tile(int round, int i) const {
    return S::kParts > 1 ? i * plan_.num_rounds + round : round * S::kTiles + i;
  }
  // The last part may have fewer tiles than the others.
  __device__ bool HasTile(int round, int i) const {
    return S::kParts == 1 || Tile(round, i) < plan_.num_tiles;
  }

  // Has the stage wait for its rows, too.
  __device__ void LoadWeights(int stage, int round) {
    int tiles = 0;
    for (int i = 0; i < S::kTiles; ++i) tiles += HasTile(round, i);
    full_[stage].ArriveAndExpect(tiles *
                                 (strips_ * kTileBytes + S::kRowTileBytes));
    for (int strip = 0; strip < strips_; ++strip) {
      for (int part = 0; part < S::kParts; ++part) {
        if (!HasTile(round, part)) continue;
        const int64_t tile =
            int64_t{first_strip_ + strip} * plan_.num_tiles + Tile(round, part);
        CopyBulk(
            ring_ + stage * stage_bytes_ +
                (strip * S::kTiles + part) * kTileBytes,
            static_cast<const std::byte*>(weights_.data) + tile * kTileBytes,
            S::kTilesOfUnit * kTileBytes, full_[stage]);
      }
    }
  }
  __device__ void LoadRows(const CUtensorMap& input, int stage, int round) {
    for (int i = 0; i < S::kTiles; ++i) {
      if (!HasTile(round, i)) continue;
      CopyBox(
          ring_ + stage * stage_bytes_ + weight_bytes_ + i * S::kRowTileBytes,
          input, Tile(round, i) * kTileInputs, blockIdx.y * S::kRows,
          full_[stage]);
    }
  }

  static constexpr int kRowTiles = S::kWarpRows / 8;  // of 8 rows
  using Sums = float[kRowTiles][4];

  // Of one step of the tensor cores: a strip, and pairs of row tiles (inputs
  // 0..7 and 8..15 of 8 rows, then of 8 more).
  struct Fragments {
    uint32_t weights[4];
    uint32_t rows[kRowTiles / 2][4];
  };

  __device__ static void Load(Fragments& to, const std::byte* strip,
                              const std::byte* rows, int first_row, int step,
                              int lane) {
    constexpr int kSteps = kTileInputs / kMmaInputs;  // of a tile
    const int chunk = step % kSteps * 2;
    LoadMatrices(to.weights, Chunk(strip + step / kSteps * kTileBytes,
                                   lane % 16, chunk + lane / 16));
#pragma unroll
    for (int r = 0; r < kRowTiles / 2; ++r) {
      LoadMatrices(to.rows[r],
                   Chunk(rows + step / kSteps * S::kRowTileBytes,
                         first_row + r * 16 + lane / 16 * 8 + lane % 8,
                         chunk + lane / 8 % 2));
    }
  }

  // A strip times a group of rows. Loads a step ahead of the products.
  __device__ void Multiply(const std::byte* stage, int unit, int lane,
                           Sums& sums) {
    constexpr int kSteps = S::kTilesOfUnit * kTileInputs / kMmaInputs;
    const std::byte* const strip =
        stage + (StripOf(unit) * S::kTiles + PartOf(unit)) * kTileBytes;
    const std::byte* const rows =
        stage + weight_bytes_ + PartOf(unit) * S::kRowTileBytes;
    const int first_row = GroupOf(unit) * S::kWarpRows;
    Fragments fragments[2];
    Load(fragments[0], strip, rows, first_row, 0, lane);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) {
        Load(fragments[(step + 1) % 2], strip, rows, first_row, step + 1, lane);
      }
      const Fragments& now = fragments[step % 2];
#pragma unroll
      for (int r = 0; r < kRowTiles / 2; ++r) {
        MultiplyAdd(sums[2 * r], now.weights, now.rows[r][0], now.rows[r][1]);
        MultiplyAdd(sums[2 * r + 1], now.weights, now.rows[r][2],
                    now.rows[r][3]);
      }
    }
  }
  __device__ static const std::byte* Chunk(const std::byte* tile, int row,
                                           int chunk) {
    return tile + (row * kChunksOfARow + (chunk ^ row % 8)) * 16;
  }

  // Adds the sums of the other parts to those of the first, in their order.
  __device__ void AddParts(int warp, int lane) {
    WaitForConsumers();  // The ring has been read to its end.
#pragma unroll
    for (int i = 0; i < S::kUnits; ++i) {
      const int unit = warp + i * kConsumers;
      if (unit >= num_units()) break;
      if (PartOf(unit) == 0) continue;
#pragma unroll
      for (int j = 0; j < kRowTiles * 4; ++j) {
        PartialSum(unit, j, lane) = sums_[i][j / 4][j % 4];
      }
    }
    WaitForConsumers();
#pragma unroll
    for (int i = 0; i < S::kUnits; ++i) {
      const int unit = warp + i * kConsumers;
      if (unit >= num_units()) break;
      if (PartOf(unit) != 0) continue;
#pragma unroll
      for (int j = 0; j < kRowTiles * 4; ++j) {
        float& sum = sums_[i][j / 4][j % 4];
        for (int part = 1; part < S::kParts; ++part) {
          sum += PartialSum(unit + part, j, lane);
        }
      }
    }
  }
  __device__ float& PartialSum(int unit, int index, int lane) {
    return reinterpret_cast<float*>(
        ring_)[(unit * kRowTiles * 4 + index) * kWarpSize + lane];
  }
  __device__ static void WaitForConsumers() {
    asm volatile("bar.sync 1, %0;\n" ::"n"(kConsumerThreads) : "memory");
  }

  __device__ void Store(int unit, int lane, const Sums& sums) const {
    const int32_t output =
        (first_strip_ + StripOf(unit)) * kStripOutputs + lane / 4;
    const int32_t first_row =
        blockIdx.y * S::kRows + GroupOf(unit) * S::kWarpRows + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      for (int i = 0; i < 4; ++i) {
        Store(first_row + r * 8 + i % 2, output + i / 2 * 8, sums[r][i]);
      }
    }
  }
  __device__ void Store(int32_t row, int32_t output, float sum) const {
    if (row >= args_.num_rows || output >= weights_.num_outputs) return;
    float* const to = args_.output + row * args_.output_stride + output;
    *to = args_.accumulate ? *to + sum : sum;
  }

  const GemmArgs& args_;
  const PackedMatrix& weights_;
  const Plan& plan_;
  const int32_t first_strip_;
  const int32_t strips_;
  const int32_t weight_bytes_;  // of a stage
  const int32_t stage_bytes_;
  std::byte* ring_;
  CopyBarrier* full_;
  CopyBarrier* empty_;
  Sums sums_[S::kUnits] = {};
};

// grid [strips / plan.strips, rows / S::kRows].
template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    GemmFewRowsKernel(const __grid_constant__ GemmArgs args,
                      const __grid_constant__ PackedMatrix weights,
                      const __grid_constant__ Plan plan,
                      const __grid_constant__ CUtensorMap input) {
  extern __shared__ std::byte few_rows_shared[];
  Block<S> block(args, weights, plan, few_rows_shared);
  block.Init();
  if (threadIdx.x / kWarpSize < kConsumers) {
    WaitForKernelsBefore();
    block.Consume();
  } else if (threadIdx.x % kWarpSize == 0) {
    block.Produce(input);
  }
}

template <typename S>
cudaError_t Launch(const GemmArgs& args, const PackedMatrix& weights,
                   const OperandMap& input, Plan plan, cudaStream_t stream) {
  if (plan.strips > S::kMaxStrips) plan.strips = S::kMaxStrips;
  plan.num_rounds = S::kParts > 1 ? (plan.num_tiles + S::kParts - 1) / S::kParts
                                  : plan.num_tiles / S::kTiles;
  const int32_t stage_bytes =
      S::kTiles * (plan.strips * kTileBytes + S::kRowTileBytes);
  plan.num_stages = kRingBytes / stage_bytes;
  if (plan.num_stages > kMaxStages) plan.num_stages = kMaxStages;
  const dim3 grid((plan.num_strips + plan.strips - 1) / plan.strips,
                  (args.num_rows + S::kRows - 1) / S::kRows);
  return LaunchOverlapped(GemmFewRowsKernel<S>, grid, kThreads, kSharedBytes,
                          stream, args, weights, plan, input.map);
}

// With few strips a block, more warps share its rows.
template <int kRows>
cudaError_t LaunchRows(const GemmArgs& args, const PackedMatrix& weights,
                       const OperandMap& input, const Plan& plan,
                       cudaStream_t stream) {
  if (plan.strips * (kRows / 16) <= kConsumers) {
    return Launch<Shape<kRows, 16, 1>>(args, weights, input, plan, stream);
  }
  return Launch<Shape<kRows, 32, 1>>(args, weights, input, plan, stream);
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmFewRowsKernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedBytes);
}

}  // namespace

cudaError_t LaunchGemmFewRows(const GemmArgs& args, const PackedMatrix& weights,
                              const OperandMap& input,
                              int32_t num_multiprocessors,
                              cudaStream_t stream) {
  Plan plan = {};
  plan.num_strips = (weights.num_outputs + kStripOutputs - 1) / kStripOutputs;
  plan.num_tiles = weights.padded_inputs / kTileInputs;
  plan.strips =
      (plan.num_strips + num_multiprocessors - 1) / num_multiprocessors;
  const bool is_cut = NumParts(weights.num_outputs, weights.padded_inputs) > 1;
  switch (FewRowsBox(args.num_rows)) {
    case 16:
      return is_cut
                 ? Launch<Shape<16, 16, kMostParts>>(args, weights, input, plan,
                                                     stream)
                 : Launch<Shape<16, 16, 1>>(args, weights, input, plan, stream);
    case 32:
      return is_cut ? Launch<Shape<32, 16, kMostParts>>(args, weights, input,
                                                        plan, stream)
                    : LaunchRows<32>(args, weights, input, plan, stream);
    default:
      return is_cut ? Launch<Shape<64, 32, kMostParts>>(args, weights, input,
                                                        plan, stream)
                    : LaunchRows<64>(args, weights, input, plan, stream);
  }
}

cudaError_t PrepareGemmFewRows() {
  for (cudaError_t (*prepare)() :
       {Prepare<Shape<16, 16, 1>>, Prepare<Shape<32, 16, 1>>,
        Prepare<Shape<32, 32, 1>>, Prepare<Shape<64, 16, 1>>,
        Prepare<Shape<64, 32, 1>>, Prepare<Shape<16, 16, kMostParts>>,
        Prepare<Shape<32, 16, kMostParts>>,
        Prepare<Shape<64, 32, kMostParts>>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
