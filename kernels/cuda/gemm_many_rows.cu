// Products of many rows: bound by the tensor cores and what feeds them.
//
// Clusters of two blocks walk the tiles of the output, so that blocks of the
// same time share rows and weights in the L2 cache. The blocks of a cluster
// have the same outputs of neighbouring rows, and each brings both of them half
// of the weights. The next tile is loaded while one is stored.
#include <cuda_bf16.h>

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/gemm_store.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace ttt {
namespace {

constexpr int kWarpSize = 32;
constexpr int kWarpgroup = 4 * kWarpSize;
constexpr int kConsumers = 2;  // warpgroups; one more brings the operands
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpgroupRows = 64;
constexpr int kRows = kConsumers * kWarpgroupRows;  // of a block
constexpr int kCluster = 2;
constexpr uint16_t kBothBlocks = 3;
constexpr int kGroup = 8;  // clusters that share their outputs
constexpr int kMmaInputs = 16;
constexpr uint64_t kDescriptorStep = kMmaInputs * 2 / 16;  // a product on
constexpr int kMmaOutputs = 8;  // that a thread has two neighbours of
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kAlignment = 1024;  // of swizzled tiles
constexpr int kRingBytes = 200 * 1024;
constexpr int kRowTileBytes = kRows * kRowBytes;
static_assert(kRows == kManyRowsBox);

// Tiles of kRows x kStrips, of inputs in kPartsOfInputs (NumParts).
template <int kStripsOfTile, int kPartsOfInputs>
struct Shape {
  static constexpr int kStrips = kStripsOfTile;
  static constexpr int kParts = kPartsOfInputs;
  static constexpr int kSums = kStrips * kStripOutputs / 2;
  static constexpr int kColumns = kSums / 4;  // of kMmaOutputs
  static constexpr int kLot = kStrips > 12 ? 8 : kStrips;
  static constexpr int kStageBytes = kRowTileBytes + kStrips * kTileBytes;
  static constexpr int kStages = kRingBytes / kStageBytes;
  static constexpr int kSharedBytes =
      kRingBytes + kAlignment + 2 * kStages * int(sizeof(CopyBarrier));
};

// The tiles of a launch; the same for all blocks.
struct Plan {
  int32_t num_strips;     // of the matrix
  int32_t padded_strips;  // as they lie in memory
  int32_t num_tiles;      // of the inputs
  int32_t row_pairs;      // of kCluster * kRows
  int32_t widths;         // tiles of a row, of kStrips
};

__device__ inline uint32_t OfOtherLane(uint32_t value, int apart) {
  return __shfl_xor_sync(kAllLanes, value, apart);
}
__device__ inline float2 OfOtherLane(float2 value, int apart) {
  return {__shfl_xor_sync(kAllLanes, value.x, apart),
          __shfl_xor_sync(kAllLanes, value.y, apart)};
}

// Of two lanes so far apart the lower has then both `low`, the other both
// `high`, each the lower's first. All lanes of a warp.
template <int kApart, typename T>
__device__ void Exchange(T& low, T& high) {
  const bool is_upper = (threadIdx.x & kApart) != 0;
  const T got = OfOtherLane(is_upper ? low : high, kApart);
  (is_upper ? low : high) = got;
}

template <typename S>
class Block {
 public:
  __device__ Block(const Product& product, const Plan& plan, std::byte* shared)
      : product_(product),
        args_(product.args),
        plan_(plan),
        rank_(ClusterRank()) {
    const uint32_t over = SharedAddress(shared) % kAlignment;
    ring_ = shared + (over == 0 ? 0 : kAlignment - over);
    full_ = reinterpret_cast<CopyBarrier*>(ring_ + kRingBytes);
    empty_ = full_ + S::kStages;
  }

  __device__ void Init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < S::kStages; ++stage) {
        full_[stage].Init(1);
        empty_[stage].Init(kConsumers * kCluster);
      }
      FenceBarrierInit();
    }
    __syncthreads();
    ClusterArrive();
    ClusterWait();
  }

  // One thread. Asks for the weights of the first stages before it waits for
  // the kernels that write the input.
  __device__ void Produce() {
    PrefetchMap(product_.input);
    int ahead = min(S::kStages, plan_.num_tiles);
    const Item first = ItemOf(FirstItem());
#pragma unroll 1
    for (int tile = 0; tile < ahead; ++tile) LoadWeights(first, tile, tile);
    WaitForKernelsBefore();
    int stage = 0;
    uint32_t parity = 1;  // The first round finds every stage empty.
    for (int item = FirstItem(); item < num_items(); item += ItemStep()) {
      const Item at = ItemOf(item);
#pragma unroll 1
      for (int tile = 0; tile < plan_.num_tiles; ++tile) {
        empty_[stage].Wait(parity);
        if (--ahead < 0) LoadWeights(at, tile, stage);
        LoadRows(at, tile, stage);
        Next(stage, parity);
      }
    }
  }

  // A warpgroup.
  __device__ void Consume(int warpgroup) {
    WaitForKernelsBefore();
    int stage = 0;
    uint32_t parity = 0;
    const int items = (num_items() - FirstItem() + ItemStep() - 1) / ItemStep();
    num_refills_ = items * plan_.num_tiles - S::kStages;
    for (int item = FirstItem(); item < num_items(); item += ItemStep()) {
      const Item at = ItemOf(item);
      if constexpr (S::kParts == 1) {
        float sums[S::kSums] = {};
        Multiply(warpgroup, plan_.num_tiles, stage, parity, sums);
        Store(warpgroup, at, sums);
      } else {
        // Of the parts of the inputs before the one that `sums` are of.
        float done[S::kSums];
        for (int part = 0; part < S::kParts; ++part) {
          float sums[S::kSums] = {};
          Multiply(warpgroup,
                   PartBegin(part + 1, plan_.num_tiles) -
                       PartBegin(part, plan_.num_tiles),
                   stage, parity, sums);
#pragma unroll
          for (int i = 0; i < S::kSums; ++i) {
            done[i] = part == 0 ? sums[i] : done[i] + sums[i];
          }
        }
        Store(warpgroup, at, done);
      }
    }
  }

  // Every thread: nobody leaves before what it brings the other has come.
  __device__ void Leave() const {
    __syncwarp();
    ClusterArrive();
    ClusterWait();
  }

 private:
  // A tile of the output.
  struct Item {
    int32_t row;
    int32_t strip;
  };

  __device__ int FirstItem() const { return blockIdx.x / kCluster; }
  __device__ int ItemStep() const { return gridDim.x / kCluster; }
  __device__ int num_items() const { return plan_.row_pairs * plan_.widths; }
  // Groups of kGroup pairs of rows, each over all outputs.
  __device__ Item ItemOf(int item) const {
    const int group = item / (kGroup * plan_.widths);
    const int size = min(kGroup, plan_.row_pairs - group * kGroup);
    const int within = item % (kGroup * plan_.widths);
    const int pair = group * kGroup + within % size;
    return {(pair * kCluster + rank_) * kRows, within / size * S::kStrips};
  }

  __device__ static void Next(int& stage, uint32_t& parity) {
    if (++stage < S::kStages) return;
    stage = 0;
    parity ^= 1;
  }

  // Has the stage wait for its rows, too.
  __device__ void LoadWeights(const Item& at, int tile, int stage) {
    constexpr int kHalf = (S::kStrips + 1) / kCluster;
    const int strips = min(S::kStrips, plan_.num_strips - at.strip);
    full_[stage].ArriveAndExpect(kRowTileBytes + strips * kTileBytes);
    const int first = rank_ * kHalf;
    const int count = min(kHalf, strips - first);
    if (count <= 0) return;
    const int64_t from = int64_t{tile} * plan_.padded_strips + at.strip + first;
    CopyBulkToBlocks(
        ring_ + stage * S::kStageBytes + kRowTileBytes + first * kTileBytes,
        static_cast<const std::byte*>(product_.weights.data) +
            from * kTileBytes,
        count * kTileBytes, full_[stage], kBothBlocks,
        // If no other cluster reads them.
        plan_.row_pairs == 1 ? GiveUpFirst() : KeepAsUsual());
  }
  __device__ void LoadRows(const Item& at, int tile, int stage) {
    CopyBox(ring_ + stage * S::kStageBytes, product_.input, tile * kTileInputs,
            at.row, full_[stage]);
  }

  // Adds the products of so many tiles.
  __device__ void Multiply(int warpgroup, int num_tiles, int& stage,
                           uint32_t& parity, float (&sums)[S::kSums]) {
    FenceSums(sums);
    int last_stage = 0;
    for (int tile = 0; tile < num_tiles; ++tile) {
      full_[stage].Wait(parity);
      const uint32_t at = SharedAddress(ring_ + stage * S::kStageBytes);
      const uint64_t rows =
          TileDescriptor(at + warpgroup * kWarpgroupRows * kRowBytes);
      const uint64_t weights = TileDescriptor(at + kRowTileBytes);
      WarpgroupArrive();
#pragma unroll
      for (int k = 0; k < kTileInputs / kMmaInputs; ++k) {
        MultiplyAdd(sums, rows + k * kDescriptorStep,
                    weights + k * kDescriptorStep);
      }
      WarpgroupCommit();
      WarpgroupWait<1>();
      // The products of the stage before have ended.
      if (tile > 0) Release(last_stage);
      last_stage = stage;
      Next(stage, parity);
    }
    WarpgroupWait<0>();
    FenceSums(sums);
    Release(last_stage);
  }

  // Both blocks bring this one its weights.
  __device__ void Release(int stage) {
    if (--num_refills_ < 0) return;
    const int thread = threadIdx.x % kWarpgroup;
    if (thread < kCluster) empty_[stage].ArriveAt(thread);
  }

  __device__ void Store(int warpgroup, const Item& at,
                        const float (&sums)[S::kSums]) const {
    const int thread = threadIdx.x % kWarpgroup;
    const int32_t first_row = at.row + warpgroup * kWarpgroupRows +
                              thread / kWarpSize * 16 + thread % kWarpSize / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = first_row + half * 8;
      const auto sum = [&](int column) -> float2 {
        return {sums[4 * column + 2 * half], sums[4 * column + 2 * half + 1]};
      };
      if (product_.gated != nullptr) {
        StoreGatedRow(at, row, sum);
      } else if (FoursOfRow::Suit(product_)) {
        StoreFours(at, row, sum);
      } else {
        StorePairs(at, row, sum);
      }
    }
  }

  // Of a warp's row, which may not exist, what lane % 4 holds of it: `sum` of
  // a column is of outputs 8 column + lane % 4 * 2 and the next.
  template <typename Sum>
  __device__ void StoreGatedRow(const Item& at, int32_t row, Sum sum) const {
    const int lane = threadIdx.x % 4;
    const int32_t inner = product_.weights.num_outputs / 2;
    const int32_t left =
        row < args_.num_rows ? inner - at.strip * kGateOutputs : 0;
    auto* const to = static_cast<__nv_bfloat16*>(product_.gated) +
                     int64_t{row} * inner + at.strip * kGateOutputs;
    const auto gated = [&](int strip) {
      const __nv_bfloat162 pair = Gated(sum(2 * strip), sum(2 * strip + 1));
      return reinterpret_cast<const uint32_t&>(pair);
    };
    constexpr int kFours = S::kStrips / 4 * 4;
#pragma unroll
    for (int strip = 0; strip < kFours; strip += 4) {
      uint4 words = {gated(strip), gated(strip + 1), gated(strip + 2),
                     gated(strip + 3)};
      Exchange<1>(words.x, words.y);
      Exchange<1>(words.z, words.w);
      Exchange<2>(words.x, words.z);
      Exchange<2>(words.y, words.w);
      const int32_t channel = (strip + lane) * kGateOutputs;
      if (channel < left) *reinterpret_cast<uint4*>(to + channel) = words;
    }
#pragma unroll
    for (int strip = kFours; strip < S::kStrips; ++strip) {
      const int32_t channel = strip * kGateOutputs + 2 * lane;
      if (channel < left) {
        *reinterpret_cast<uint32_t*>(to + channel) = gated(strip);
      }
    }
  }
  template <typename Sum>
  __device__ void StoreFours(const Item& at, int32_t row, Sum sum) const {
    const int lane = threadIdx.x % 4;
    const FoursOfRow to(
        args_, row < args_.num_rows ? product_.weights.num_outputs : 0, row,
        at.strip * kStripOutputs + lane % 2 * kMmaOutputs + lane / 2 * 4);
#pragma unroll
    for (int first = 0; first < S::kStrips; first += S::kLot) {
      // The loads of a lot before its stores, which they may not pass.
      float4 before[S::kLot] = {};
      if (args_.accumulate) {
#pragma unroll
        for (int i = 0; i < S::kLot; ++i) {
          before[i] = to.Load((first + i) * kStripOutputs);
        }
      }
#pragma unroll
      for (int i = 0; i < S::kLot; ++i) {
        float2 one = sum(2 * (first + i));
        float2 two = sum(2 * (first + i) + 1);
        Exchange<1>(one, two);
        float4 next = {one.x, one.y, two.x, two.y};
        if (args_.accumulate) {
          next = {before[i].x + next.x, before[i].y + next.y,
                  before[i].z + next.z, before[i].w + next.w};
        }
        to.Store((first + i) * kStripOutputs, next);
      }
    }
  }
  template <typename Sum>
  __device__ void StorePairs(const Item& at, int32_t row, Sum sum) const {
    const AnyPairsOfRow to(args_, product_.weights.num_outputs, row,
                           at.strip * kStripOutputs + threadIdx.x % 4 * 2);
#pragma unroll
    for (int column = 0; column < S::kColumns; ++column) {
      float2 next = sum(column);
      if (args_.accumulate) {
        const float2 before = to.Load(column * kMmaOutputs);
        next = {before.x + next.x, before.y + next.y};
      }
      to.Store(column * kMmaOutputs, next);
    }
  }

  const Product& product_;
  const GemmArgs& args_;
  const Plan& plan_;
  const int32_t rank_;   // in its cluster
  int32_t num_refills_;  // for which stages are still to be given back
  std::byte* ring_;
  CopyBarrier* full_;
  CopyBarrier* empty_;
};

// grid [kCluster * clusters].
template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    GemmManyRowsKernel(const __grid_constant__ Product product,
                       const __grid_constant__ Plan plan) {
  extern __shared__ std::byte many_rows_shared[];
  Block<S> block(product, plan, many_rows_shared);
  block.Init();
  const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
  if (warpgroup == kConsumers) {
    asm volatile(
        "setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kProducerRegisters));
    if (threadIdx.x % kWarpgroup == 0) block.Produce();
    block.Leave();
  } else {
    asm volatile(
        "setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kConsumerRegisters));
    block.Consume(warpgroup);
    block.Leave();
  }
}

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

// The strips of the tiles that take least time: each costs its products and
// about as much as some strips for being begun and stored. Where the rows are
// those of one cluster, tiles of more widths are compiled, as there are a few
// of them only.
int32_t BestStrips(const Product& product, const GemmDevice& device) {
  constexpr int64_t kTileStrips = 4;
  constexpr int64_t kLoneTileStrips = 8;
  const PackedMatrix& weights = product.weights;
  const int32_t row_pairs = DivideUp(product.args.num_rows, kCluster * kRows);
  const int32_t num_strips = DivideUp(weights.num_outputs, kStripOutputs);
  int32_t best = 0;
  int64_t best_cost = 0;
  const auto consider = [&](std::initializer_list<int32_t> choices,
                            int64_t tile_strips) {
    for (const int32_t strips : choices) {
      const int64_t rounds = DivideUp(row_pairs * DivideUp(num_strips, strips),
                                      device.clusters_of_2);
      const int64_t cost = rounds * (strips + tile_strips);
      if (best != 0 && cost >= best_cost) continue;
      best = strips;
      best_cost = cost;
    }
  };
  if (NumParts(weights.num_outputs, weights.padded_inputs) > 1) {
    consider({12, 8, 4}, kTileStrips);
    // Gated outputs are stored in fours of strips.
    if (row_pairs == 1 && product.gated == nullptr) consider({3}, kTileStrips);
  } else if (row_pairs > 1) {
    consider({16, 12, 8, 4}, kTileStrips);
  } else {
    consider({16, 12, 11, 8, 7, 6, 4}, kLoneTileStrips);
  }
  return best;
}

template <typename S>
cudaError_t Launch(const Product& product, const GemmDevice& device,
                   cudaStream_t stream) {
  const PackedMatrix& weights = product.weights;
  Plan plan = {};
  plan.num_strips = DivideUp(weights.num_outputs, kStripOutputs);
  plan.padded_strips = PaddedStrips(weights.num_outputs);
  plan.num_tiles = weights.padded_inputs / kTileInputs;
  plan.row_pairs = DivideUp(product.args.num_rows, kCluster * kRows);
  plan.widths = DivideUp(plan.num_strips, S::kStrips);
  const int32_t clusters =
      std::min(plan.row_pairs * plan.widths, device.clusters_of_2);
  return LaunchClusters(GemmManyRowsKernel<S>, dim3(clusters * kCluster),
                        dim3(kCluster), kThreads, S::kSharedBytes, stream,
                        product, plan);
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmManyRowsKernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              S::kSharedBytes);
}

}  // namespace

cudaError_t LaunchGemmManyRows(const Product& product, const GemmDevice& device,
                               cudaStream_t stream) {
  const PackedMatrix& weights = product.weights;
  const int32_t strips = BestStrips(product, device);
  if (NumParts(weights.num_outputs, weights.padded_inputs) > 1) {
    switch (strips) {
      case 12:
        return Launch<Shape<12, kMostParts>>(product, device, stream);
      case 8:
        return Launch<Shape<8, kMostParts>>(product, device, stream);
      case 4:
        return Launch<Shape<4, kMostParts>>(product, device, stream);
      default:
        return Launch<Shape<3, kMostParts>>(product, device, stream);
    }
  }
  switch (strips) {
    case 16:
      return Launch<Shape<16, 1>>(product, device, stream);
    case 12:
      return Launch<Shape<12, 1>>(product, device, stream);
    case 11:
      return Launch<Shape<11, 1>>(product, device, stream);
    case 8:
      return Launch<Shape<8, 1>>(product, device, stream);
    case 7:
      return Launch<Shape<7, 1>>(product, device, stream);
    case 6:
      return Launch<Shape<6, 1>>(product, device, stream);
    default:
      return Launch<Shape<4, 1>>(product, device, stream);
  }
}

cudaError_t PrepareGemmManyRows() {
  for (cudaError_t (*prepare)() :
       {Prepare<Shape<4, 1>>, Prepare<Shape<6, 1>>, Prepare<Shape<7, 1>>,
        Prepare<Shape<8, 1>>, Prepare<Shape<11, 1>>, Prepare<Shape<12, 1>>,
        Prepare<Shape<16, 1>>, Prepare<Shape<3, kMostParts>>,
        Prepare<Shape<4, kMostParts>>, Prepare<Shape<8, kMostParts>>,
        Prepare<Shape<12, kMostParts>>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
