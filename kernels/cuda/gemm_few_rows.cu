// Products of few rows, but for the fewest: stream the weights once, near the
// rate of the memory.
//
// A block holds the sums of all rows for some strips of outputs; its warpgroups
// have 64 rows each. A matrix that is cut (NumParts) is summed by clusters of a
// block a part, which then add their sums in order, each for a quarter of the
// outputs: it keeps its own of these, and is sent those of the others. With
// more rows than a block has, two such fours are a cluster, whose blocks of the
// same part bring each other half of the weights. Of any other matrix a block
// walks all inputs, and the blocks of a cluster bring each other the rows.
#include <algorithm>
#include <type_traits>

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
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpgroupRows = 64;
constexpr int kMmaInputs = 16;
constexpr uint64_t kDescriptorStep = kMmaInputs * 2 / 16;  // a product on
// Of so many outputs a thread has two neighbours, so of a strip two pairs.
constexpr int kMmaOutputs = 8;
constexpr int kMaxStages = 32;
constexpr int kAlignment = 1024;  // of swizzled tiles
// A warpgroup reads as many strips and rows as its instruction takes; the sums
// of those that a stage lacks are of whatever follows, and are not stored.
constexpr int kOverreadBytes = 6 * 1024;
constexpr int kRingBytes = 208 * 1024;
constexpr int kSharedBytes = kRingBytes + kOverreadBytes + kAlignment +
                             (2 * kMaxStages + 1) * int(sizeof(CopyBarrier));

// What a block does; the same for all of a launch.
struct Plan {
  int32_t num_strips;     // of the matrix
  int32_t padded_strips;  // as they lie in memory
  int32_t num_tiles;      // of the inputs
  int32_t strips;         // most of a block
  int32_t box_rows;       // that a block brings
  int32_t share;          // blocks that bring each other rows
  int32_t pair;           // blocks that bring each other weights: 1 or 2
  int32_t num_stages;
  // Of a matrix that is cut: sums of other blocks are received from this stage
  // on, once parts_tile, the last tile of a part that lies there, has been
  // read; -1: none ever lies there.
  int32_t parts_stage;
  int32_t parts_tile;
};

// The forms of the kernel: so many warpgroups, and strips of their instruction.
constexpr int kMostBlockRows = 2 * kWarpgroupRows;
template <int kWarpgroupsOfBlock, int kStripsOfBlock, bool kIsCutMatrix>
struct Shape {
  static constexpr bool kIsCut = kIsCutMatrix;
  static constexpr bool kMayPair = kIsCut && kWarpgroupsOfBlock == 2;
  static constexpr int kWarpgroups = kWarpgroupsOfBlock;
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;
  static constexpr int kConsumers = kWarpgroups * kWarpgroup;  // threads
  static constexpr int kThreads = kConsumers + kWarpSize;
  static constexpr int kSums = kStripsOfBlock * kStripOutputs / 2;
  // The strips that a block finishes: all, or of a cluster every fourth.
  static constexpr int kStrips = kStripsOfBlock;
  static constexpr int kOwnStep = kIsCut ? kMostParts : 1;
  static constexpr int kOwnStrips = (kStrips + kOwnStep - 1) / kOwnStep;
  // What each other block sends: float4 [kOwnStrips, 2, kConsumers].
  static constexpr int kPartBytes =
      kOwnStrips * 2 * kConsumers * int(sizeof(float4));
};

__device__ inline float4 Add(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

template <typename S>
class Block {
 public:
  __device__ Block(const Product& product, const Plan& plan, std::byte* shared)
      : product_(product),
        args_(product.args),
        plan_(plan),
        rank_(S::kIsCut ? ClusterRank() % kMostParts : ClusterRank()),
        weight_bytes_(plan.strips * kTileBytes),
        stage_bytes_(weight_bytes_ + plan.share * plan.box_rows * kRowBytes) {
    first_row_ = blockIdx.y * S::kRows;
    num_rows_ = min(S::kRows, args_.num_rows - first_row_);
    const int unit = S::kIsCut ? blockIdx.x / kMostParts : blockIdx.x;
    const int units = S::kIsCut ? gridDim.x / kMostParts : gridDim.x;
    first_strip_ = unit * plan.num_strips / units;
    strips_ = (unit + 1) * plan.num_strips / units - first_strip_;
    first_tile_ = S::kIsCut ? PartBegin(rank_, plan.num_tiles) : 0;
    num_tiles_ = S::kIsCut ? PartBegin(rank_ + 1, plan.num_tiles) - first_tile_
                           : plan.num_tiles;
    const uint32_t over = SharedAddress(shared) % kAlignment;
    ring_ = shared + (over == 0 ? 0 : kAlignment - over);
    full_ = reinterpret_cast<CopyBarrier*>(ring_ + kRingBytes + kOverreadBytes);
    empty_ = full_ + kMaxStages;
    received_ = empty_ + kMaxStages;
  }

  __device__ void Init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < plan_.num_stages; ++stage) {
        full_[stage].Init(1);
        empty_[stage].Init(S::kWarpgroups * plan_.share * plan_.pair);
      }
      if constexpr (S::kIsCut) received_->Init(1);
      FenceBarrierInit();
      if constexpr (S::kIsCut) received_->ArriveAndExpect(PartsBytes());
    }
    __syncthreads();
    // The phases of the cluster: 1, the barriers are there; 2, where NeedsRoom,
    // room has been made; 3, where BringsOthers, all that is brought has come.
    if (HasOthers()) ClusterArrive();
  }

  // A warp, of which one thread works. Asks for the weights of the first stages
  // before it waits for the kernels that write the input.
  __device__ void Produce() {
    const int ahead = min(plan_.num_stages, num_tiles_);
    if (IsPaired()) ClusterWait();
    if (ElectLane()) {
      PrefetchMap(product_.input);
#pragma unroll 1
      for (int stage = 0; stage < ahead; ++stage) LoadWeights(stage, stage);
    }
    __syncwarp();
    if (plan_.share > 1) ClusterWait();
    if (ElectLane()) {
      OnlyWaitForKernelsBefore();
#pragma unroll 1
      for (int stage = 0; stage < ahead; ++stage) LoadRows(stage, stage);
      LoadRest(ahead);
    }
    __syncwarp();
    MakeRoom();
    JoinSenders();
    if (BringsOthers()) ClusterArrive();
  }

  // A warpgroup.
  __device__ void Consume(int warpgroup) {
    if (BringsOthers()) ClusterWait();
    OnlyWaitForKernelsBefore();
    float sums[S::kSums] = {};
    FenceSums(sums);
    int stage = 0;
    int last_stage = 0;
    uint32_t parity = 0;
    for (int tile = 0; tile < num_tiles_; ++tile) {
      full_[stage].Wait(parity);
      const uint32_t at = SharedAddress(ring_ + stage * stage_bytes_);
      const uint64_t weights = TileDescriptor(at);
      const uint64_t rows = TileDescriptor(
          at + weight_bytes_ + warpgroup * kWarpgroupRows * kRowBytes);
      WarpgroupArrive();
#pragma unroll
      for (int k = 0; k < kTileInputs / kMmaInputs; ++k) {
        MultiplyAdd(sums, rows + k * kDescriptorStep,
                    weights + k * kDescriptorStep);
      }
      WarpgroupCommit();
      WarpgroupWait<1>();
      // The products of the tile before have ended.
      if (tile > 0 && tile <= num_tiles_ - plan_.num_stages) {
        Release(last_stage);
      }
      if (tile - 1 == plan_.parts_tile) MakeRoom();
      last_stage = stage;
      Next(stage, parity);
    }
    WarpgroupWait<0>();
    FenceSums(sums);
    if (plan_.parts_tile >= num_tiles_ - 1) MakeRoom();
    JoinSenders();
    if (BringsOthers()) ClusterArrive();
    if constexpr (S::kIsCut) {
      Own own = {};
      SendSums(sums, own);
      Store([&](int i, int half) { return Sum(own[i][half], i, half); });
    } else {
      Store([&](int i, int half) { return SumsOf(sums, i, half); });
    }
  }

  // Every thread: nobody leaves before what it brings others has come.
  __device__ void Leave() const {
    if (BringsOthers()) ClusterWait();
  }

 private:
  __device__ bool HasOthers() const { return S::kIsCut || plan_.share > 1; }
  // Whether the block below or above brings half of the weights.
  __device__ bool IsPaired() const { return S::kMayPair && plan_.pair > 1; }
  __device__ bool BringsOthers() const { return plan_.share > 1 || IsPaired(); }
  // Whether sums are received where tiles are before.
  __device__ bool NeedsRoom() const {
    return S::kIsCut && plan_.parts_tile >= 0;
  }
  // When the instructions that read what lies there have ended, so that there
  // is nothing to release.
  __device__ void MakeRoom() const {
    if (!NeedsRoom()) return;
    if (!IsPaired()) ClusterWait();
    ClusterArrive();
  }
  // Until every block can take what it is sent.
  __device__ void JoinSenders() const {
    if (S::kIsCut && (NeedsRoom() || !IsPaired())) ClusterWait();
  }
  // In the cluster.
  __device__ uint32_t BlockOfPart(int part) const {
    return IsPaired() ? blockIdx.y * kMostParts + part : part;
  }

  __device__ void Next(int& stage, uint32_t& parity) const {
    if (++stage < plan_.num_stages) return;
    stage = 0;
    parity ^= 1;
  }

  // Has the stage wait for its rows, too. Kernels after this one may begin, and
  // ask for their weights, when no more than a ring of these is left to ask
  // for: they would take of the memory's rate what this one waits for.
  __device__ void LoadWeights(int stage, int tile) {
    if (tile == max(num_tiles_ - plan_.num_stages, 0)) LetNextKernelBegin();
    full_[stage].ArriveAndExpect(strips_ * kTileBytes +
                                 plan_.share * plan_.box_rows * kRowBytes);
    if (strips_ == 0) return;
    const int64_t from =
        int64_t{first_tile_ + tile} * plan_.padded_strips + first_strip_;
    if (IsPaired()) {
      const int half = (strips_ + 1) / 2;
      const int first = blockIdx.y * half;
      const int count = min(half, strips_ - first);
      if (count == 0) return;
      CopyBulkToBlocks(ring_ + stage * stage_bytes_ + first * kTileBytes,
                       static_cast<const std::byte*>(product_.weights.data) +
                           (from + first) * kTileBytes,
                       count * kTileBytes, full_[stage],
                       (1 << kMostParts | 1) << rank_, GiveUpFirst());
      return;
    }
    CopyBulk(ring_ + stage * stage_bytes_,
             static_cast<const std::byte*>(product_.weights.data) +
                 from * kTileBytes,
             strips_ * kTileBytes, full_[stage], GiveUpFirst());
  }
  __device__ void LoadRows(int stage, int tile) {
    const int column = (first_tile_ + tile) * kTileInputs;
    std::byte* const to = ring_ + stage * stage_bytes_ + weight_bytes_;
    if (plan_.share == 1) {
      CopyBox(to, product_.input, column, first_row_, full_[stage]);
      return;
    }
    const int first = rank_ * plan_.box_rows;
    CopyBoxToBlocks(to + first * kRowBytes, product_.input, column,
                    first_row_ + first, full_[stage], (1 << plan_.share) - 1);
  }

  __device__ void LoadRest(int first) {
    int stage = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (int tile = first; tile < num_tiles_; ++tile) {
      empty_[stage].Wait(parity);
      LoadWeights(stage, tile);
      LoadRows(stage, tile);
      Next(stage, parity);
    }
  }

  // To all blocks that bring this one its rows or weights.
  __device__ void Release(int stage) {
    const int thread = threadIdx.x % kWarpgroup;
    if (IsPaired()) {
      if (thread < 2) empty_[stage].ArriveAt(thread * kMostParts + rank_);
      return;
    }
    if (thread >= plan_.share) return;
    if (plan_.share == 1) {
      empty_[stage].Arrive();
    } else {
      empty_[stage].ArriveAt(thread);
    }
  }

  __device__ int32_t end_output() const {
    return min((first_strip_ + strips_) * kStripOutputs,
               product_.weights.num_outputs);
  }
  // A thread has sums of two rows, `half` 0 and 1, and of each strip of these
  // outputs OutputOf, the next one, and the same kMmaOutputs on.
  __device__ static int32_t RowOf(int half) {
    return threadIdx.x / kWarpSize * 16 + threadIdx.x % kWarpSize / 4 +
           half * 8;
  }
  __device__ int32_t OutputOf(int strip) const {
    return (first_strip_ + strip) * kStripOutputs + threadIdx.x % 4 * 2;
  }
  using Sums = float[S::kSums];
  __device__ static float4 SumsOf(const Sums& sums, int strip, int half) {
    const int i = strip * 8 + half * 2;
    return {sums[i], sums[i + 1], sums[i + 4], sums[i + 5]};
  }

  __device__ int OwnStrip(int i) const {
    return S::kIsCut ? i * S::kOwnStep + rank_ : i;
  }

  // sum(i, half) of own strip i, when all of it has been received.
  template <typename OwnSum>
  __device__ void Store(const OwnSum& sum) const {
    if (product_.gated != nullptr) {
      StoreGatedSums(sum);
    } else if (PairsOfRow::Suit(product_)) {
      StoreSums<PairsOfRow>(sum);
    } else {
      StoreSums<AnyPairsOfRow>(sum);
    }
  }
  template <typename OwnSum>
  __device__ void StoreGatedSums(const OwnSum& sum) const {
    if constexpr (S::kIsCut) received_->WaitForCluster(0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t row = RowOf(half);
      if (row >= num_rows_) return;
#pragma unroll
      for (int i = 0; i < S::kOwnStrips; ++i) {
        const float4 sums = sum(i, half);
        StoreGated(product_, end_output(), first_row_ + row,
                   OutputOf(OwnStrip(i)), {sums.x, sums.y}, {sums.z, sums.w});
      }
    }
  }
  template <typename Pairs, typename OwnSum>
  __device__ void StoreSums(const OwnSum& sum) const {
    // At once: before the wait all, else as many as registers allow.
    constexpr int kHalves = S::kIsCut ? 2 : 1;
#pragma unroll
    for (int first = 0; first < 2; first += kHalves) {
      float4 before[kHalves][S::kOwnStrips] = {};
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int32_t row = RowOf(first + half);
        if (!args_.accumulate || row >= num_rows_) break;
        const Pairs from = PairsOf<Pairs>(row);
#pragma unroll
        for (int i = 0; i < S::kOwnStrips; ++i) {
          const float2 low = from.Load(OffsetOf(i));
          const float2 high = from.Load(OffsetOf(i) + kMmaOutputs);
          before[half][i] = {low.x, low.y, high.x, high.y};
        }
      }
      if constexpr (S::kIsCut) received_->WaitForCluster(0);
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int32_t row = RowOf(first + half);
        if (row >= num_rows_) return;
        const Pairs to = PairsOf<Pairs>(row);
#pragma unroll
        for (int i = 0; i < S::kOwnStrips; ++i) {
          float4 sums = sum(i, first + half);
          if (args_.accumulate) sums = Add(before[half][i], sums);
          to.Store(OffsetOf(i), {sums.x, sums.y});
          to.Store(OffsetOf(i) + kMmaOutputs, {sums.z, sums.w});
        }
      }
    }
  }
  // From the first own strip on.
  template <typename Pairs>
  __device__ Pairs PairsOf(int32_t row) const {
    return {args_, end_output(), first_row_ + row, OutputOf(OwnStrip(0))};
  }
  __device__ static constexpr int OffsetOf(int i) {
    return i * S::kOwnStep * kStripOutputs;
  }

  // What a thread keeps, of own strip i and both rows.
  using Own = float4[S::kOwnStrips][2];
  // Of all parts.
  __device__ float4 Sum(float4 own, int i, int half) const {
    float4 sum = {};
#pragma unroll
    for (int part = 0; part < kMostParts; ++part) {
      float4 next = own;
      if (part != rank_) {
        next = *reinterpret_cast<const float4*>(
            Parts() + SentOffset(part, rank_, i, half));
      }
      sum = part == 0 ? next : Add(sum, next);
    }
    return sum;
  }
  // Each block gets, of the others of its cluster, the sums that it finishes.
  __device__ void SendSums(const Sums& sums, Own& own) const {
    switch (rank_) {
      case 0:
        return SendSumsOf<0>(sums, own);
      case 1:
        return SendSumsOf<1>(sums, own);
      case 2:
        return SendSumsOf<2>(sums, own);
      case 3:
        return SendSumsOf<3>(sums, own);
    }
  }
  template <int kPart>
  __device__ void SendSumsOf(const Sums& sums, Own& own) const {
#pragma unroll
    for (int away = 0; away < kMostParts; ++away) {
      // Not all to the same block at once.
      const int to = (kPart + away) % kMostParts;
      const uint32_t parts = AddressAt(Parts(), BlockOfPart(to));
      const uint32_t received = AddressAt(received_, BlockOfPart(to));
#pragma unroll
      for (int i = 0; i < S::kOwnStrips; ++i) {
        const int strip = i * kMostParts + to;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (strip >= S::kStrips) continue;
          if (to == kPart) {
            own[i][half] = SumsOf(sums, strip, half);
          } else if (strip < strips_ && RowOf(half) < num_rows_) {
            StoreAt(parts + SentOffset(kPart, to, i, half),
                    SumsOf(sums, strip, half), received);
          }
        }
      }
    }
  }
  // What this block receives, in bytes.
  __device__ uint32_t PartsBytes() const {
    const int strips = (strips_ + kMostParts - 1 - rank_) / kMostParts;
    return (kMostParts - 1) * strips * kStripOutputs * num_rows_ *
           int(sizeof(float));
  }
  __device__ std::byte* Parts() const {
    return ring_ + plan_.parts_stage * stage_bytes_;
  }
  // Of what this thread of the block of part `from` sends to that of part `to`,
  // in bytes.
  __device__ static int SentOffset(int from, int to, int i, int half) {
    return (from - (from > to)) * S::kPartBytes +
           ((i * 2 + half) * S::kConsumers + int(threadIdx.x)) *
               int(sizeof(float4));
  }

  const Product& product_;
  const GemmArgs& args_;
  const Plan& plan_;
  const int32_t rank_;          // in its cluster: its part, if there are some
  const int32_t weight_bytes_;  // of a stage
  const int32_t stage_bytes_;
  int32_t first_row_;
  int32_t num_rows_;  // of this block
  int32_t first_strip_;
  int32_t strips_;
  int32_t first_tile_;
  int32_t num_tiles_;
  std::byte* ring_;
  CopyBarrier* full_;
  CopyBarrier* empty_;
  CopyBarrier* received_;  // parts, of a matrix that is cut
};

// grid [blocks, rows / S::kRows], or [units * kMostParts, ..] of a matrix that
// is cut.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1)
    GemmFewRowsKernel(const __grid_constant__ Product product,
                      const __grid_constant__ Plan plan) {
  extern __shared__ std::byte few_rows_shared[];
  Block<S> block(product, plan, few_rows_shared);
  block.Init();
  if (threadIdx.x < S::kConsumers) {
    block.Consume(__shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0));
  } else {
    block.Produce();
  }
  block.Leave();
}

// Of a block: of what is cut as many as take 256 strips to 29 clusters, else as
// its registers allow.
constexpr int32_t MostStrips(int32_t warpgroups, bool is_cut) {
  if (is_cut) return 9;
  return warpgroups <= 1 ? 16 : 8;
}

bool IsCut(const PackedMatrix& weights) {
  return NumParts(weights.num_outputs, weights.padded_inputs) > 1;
}

// Of a stage.
int32_t RowsOfBlock(int32_t num_rows) {
  int32_t rows = 32;
  while (rows < num_rows && rows < kMostBlockRows) rows *= 2;
  return rows;
}
// How many blocks bring each other rows, so that the L2 cache gives fewer.
int32_t Share(const PackedMatrix& weights, int32_t num_rows) {
  if (IsCut(weights)) return 1;
  return num_rows <= 64 ? 2 : 4;
}

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

// In the stages whose last tiles are read earliest, by the longest part: in a
// shorter one they are read no later.
void PlaceParts(int32_t bytes, int32_t stage_bytes, Plan& plan) {
  const int32_t stages = DivideUp(bytes, stage_bytes);
  const int32_t tiles = DivideUp(plan.num_tiles, kMostParts);
  const auto last_tile_in = [&](int32_t stage) {
    return stage < tiles
               ? stage + (tiles - 1 - stage) / plan.num_stages * plan.num_stages
               : -1;
  };
  plan.parts_tile = tiles;
  for (int32_t first = 0; first + stages <= plan.num_stages; ++first) {
    int32_t last = -1;
    for (int32_t i = 0; i < stages; ++i) {
      last = std::max(last, last_tile_in(first + i));
    }
    if (last >= plan.parts_tile) continue;
    plan.parts_tile = last;
    plan.parts_stage = first;
  }
}

template <typename S>
cudaError_t Launch(const Product& product, Plan plan, int32_t units,
                   cudaStream_t stream) {
  const int32_t stage_bytes =
      plan.strips * kTileBytes + plan.share * plan.box_rows * kRowBytes;
  plan.num_stages = kRingBytes / stage_bytes;
  if (plan.num_stages > kMaxStages) plan.num_stages = kMaxStages;
  plan.parts_tile = -1;
  if (S::kIsCut) {
    PlaceParts((kMostParts - 1) * S::kPartBytes, stage_bytes, plan);
  }
  return LaunchClusters(GemmFewRowsKernel<S>,
                        dim3(S::kIsCut ? units * kMostParts : units,
                             DivideUp(product.args.num_rows, S::kRows)),
                        dim3(S::kIsCut ? kMostParts : plan.share, plan.pair),
                        S::kThreads, kSharedBytes, stream, product, plan);
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmFewRowsKernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedBytes);
}

// visit(Shape) of the form that takes so many warpgroups and strips.
template <int kWarpgroups, bool kIsCut, typename Visit>
cudaError_t VisitStrips(int32_t strips, const Visit& visit) {
  const auto shape = [&](auto most) {
    return visit(Shape<kWarpgroups, decltype(most)::value, kIsCut>());
  };
  if (strips <= 2) return shape(std::integral_constant<int, 2>());
  if (strips <= 3) return shape(std::integral_constant<int, 3>());
  if (strips <= 4) return shape(std::integral_constant<int, 4>());
  if (strips <= 6) return shape(std::integral_constant<int, 6>());
  if (strips <= 8) return shape(std::integral_constant<int, 8>());
  if constexpr (kIsCut) {
    // On 15 clusters of 8, or the most of it on 29 to 31 of 4.
    if (strips <= 9) return shape(std::integral_constant<int, 9>());
  } else if constexpr (MostStrips(kWarpgroups, kIsCut) > 8) {
    if (strips <= 12) return shape(std::integral_constant<int, 12>());
    if (strips <= 16) return shape(std::integral_constant<int, 16>());
  }
  return cudaErrorInvalidValue;
}
template <bool kIsCut, typename Visit>
cudaError_t VisitShape(int32_t warpgroups, int32_t strips, const Visit& visit) {
  return warpgroups == 1 ? VisitStrips<1, kIsCut>(strips, visit)
                         : VisitStrips<2, kIsCut>(strips, visit);
}

template <bool kIsCut>
cudaError_t PrepareAll() {
  const auto prepare = [](auto shape) { return Prepare<decltype(shape)>(); };
  for (const int32_t warpgroups : {1, 2}) {
    for (const int32_t strips : {2, 3, 4, 6, 8, 9, 12, 16}) {
      if (strips > MostStrips(warpgroups, kIsCut)) continue;
      if (const cudaError_t error =
              VisitShape<kIsCut>(warpgroups, strips, prepare);
          error != cudaSuccess) {
        return error;
      }
    }
  }
  return cudaSuccess;
}

cudaError_t CountClusters(int32_t blocks, int32_t* clusters) {
  using S = Shape<2, 8, true>;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {unsigned(blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t error =
      cudaOccupancyMaxActiveClusters(clusters, GemmFewRowsKernel<S>, &config);
  if (*clusters < 1) *clusters = 1;
  return error;
}

// How a launch has its outputs in units, of a block or, of a matrix that is
// cut, of a block a part.
struct Units {
  int32_t count;
  int32_t waves;
  int32_t strips;  // Plan
  int32_t pair;
};

Units UnitsOf(const PackedMatrix& weights, const GemmDevice& device,
              int32_t num_rows, int32_t warpgroups) {
  const bool is_cut = IsCut(weights);
  const int32_t share = Share(weights, num_rows);
  const int32_t num_strips = DivideUp(weights.num_outputs, kStripOutputs);
  // Whole waves of units, and no more than there are strips.
  const auto fill = [&](int32_t at_once) -> Units {
    at_once = std::max(at_once, 1);
    const int32_t waves =
        DivideUp(DivideUp(num_strips, MostStrips(warpgroups, is_cut)), at_once);
    int32_t units = waves * at_once;
    if (units > num_strips) units = DivideUp(num_strips, share) * share;
    return {units, waves, DivideUp(num_strips, units), 1};
  };
  if (!is_cut) {
    return fill(share == 4 ? device.clusters_of_4 * 4
                           : device.clusters_of_2 * 2);
  }
  if (num_rows <= kMostBlockRows) return fill(device.clusters_of_4);
  Units paired = fill(device.clusters_of_8);
  paired.pair = 2;
  const Units alone = fill(device.clusters_of_4 / 2);
  return paired.waves <= alone.waves ? paired : alone;
}

}  // namespace

// Of what is cut as measured: with more outputs the blocks of the parts add
// their sums for longer than GemmManyRows takes, where a block has all inputs.
int32_t MostFewRows(const PackedMatrix& weights) {
  return IsCut(weights) && weights.num_outputs <= 2048 ? 2 * kMostBlockRows
                                                       : kMostBlockRows;
}

int32_t FewRowsBox(const PackedMatrix& weights, int32_t num_rows) {
  return RowsOfBlock(num_rows) / Share(weights, num_rows);
}

cudaError_t LaunchGemmFewRows(const Product& product, const GemmDevice& device,
                              cudaStream_t stream) {
  const PackedMatrix& weights = product.weights;
  const int32_t num_rows = product.args.num_rows;
  const int32_t rows = RowsOfBlock(num_rows);
  const int32_t warpgroups = DivideUp(rows, kWarpgroupRows);
  const Units units = UnitsOf(weights, device, num_rows, warpgroups);
  Plan plan = {};
  plan.num_strips = DivideUp(weights.num_outputs, kStripOutputs);
  plan.padded_strips = PaddedStrips(weights.num_outputs);
  plan.num_tiles = weights.padded_inputs / kTileInputs;
  plan.strips = units.strips;
  plan.box_rows = FewRowsBox(weights, num_rows);
  plan.share = Share(weights, num_rows);
  plan.pair = units.pair;
  const auto launch = [&](auto shape) {
    return Launch<decltype(shape)>(product, plan, units.count, stream);
  };
  return IsCut(weights) ? VisitShape<true>(warpgroups, plan.strips, launch)
                        : VisitShape<false>(warpgroups, plan.strips, launch);
}

cudaError_t PrepareGemmFewRows(GemmDevice* device) {
  for (const cudaError_t error : {PrepareAll<true>(), PrepareAll<false>(),
                                  CountClusters(2, &device->clusters_of_2),
                                  CountClusters(4, &device->clusters_of_4),
                                  CountClusters(8, &device->clusters_of_8)}) {
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
