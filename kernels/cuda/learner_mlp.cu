// The inner learner of two layers in bfloat16 precision, on tensor cores.
//
// A block owns a head of a sequence and walks its mini-batches. A warp owns 32
// inner channels, which are columns of W1 and rows of W2; their high halves
// stay in its registers as operands of m16n8k16, whose M are the 16 rows of a
// mini-batch. The low halves are read only by a call that ends a mini-batch.
//
// Rounded to bfloat16, in every path alike: k, q and v - k as they come, W1 and
// W2 as their high halves, the inner activations of keys and queries, the
// gradients of both layers times their rates, and the scores q . k + 1. All
// else is float32: sums over the inner channels are of a warp's first, and then
// in the order of the warps.
//
// Lane (g, q) = (lane / 4, lane % 4) of a warp holds of a sum tile [16, 8] the
// places {(g, 2q), (g, 2q+1), (g+8, 2q), (g+8, 2q+1)}. So that it reads and
// writes whole runs of the fast weights, column c of inner tile i is inner
// channel 4 c + i of the warp, and column c of output tile i is channel
// head_dim / 8 * c + i.
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_tile.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kWarpInner = 32;   // inner channels of a warp
constexpr int kInnerTiles = 4;   // of 8 of them
constexpr int kLanesOfRow = 16;  // that normalise one
// How far ahead fast weights are asked for: about as many blocks as run at
// once.
constexpr int kBlocksAhead = 264;
// Larger ones round to infinity.
constexpr float kMaxFinite = 3.38e38f;
constexpr uint32_t kOnes = 0x3f803f80;  // two bfloat16

template <int kHeadDim>
struct Shape {
  static constexpr int kInner = 4 * kHeadDim;
  static constexpr int kWarps = kInner / kWarpInner;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kBlocks = kHeadDim < 96 ? 2 : 1;  // a multiprocessor
  static constexpr int kTiles = kHeadDim / 8;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kMatrix = kHeadDim * kInner;
  // Words of a run of W1 and of W2: half as many channels.
  static constexpr int kRun1 = kInnerTiles / 2;
  static constexpr int kRun2 = kTiles / 2;
  // Low halves stay on chip over the mini-batches of a call, if there is room.
  static constexpr bool kKeepsLow = kHeadDim < 96;
  // Rows that a lane normalises, one after the other, and pairs of channels of
  // each: kLanesOfRow apart.
  static constexpr int kRowsAtOnce = kThreads / kLanesOfRow;
  static constexpr int kLaneRows =
      kRowsAtOnce < kMaxMiniBatch ? kMaxMiniBatch / kRowsAtOnce : 1;
  static constexpr int kPairs = kHeadDim / (2 * kLanesOfRow);
};

// What one block has in shared memory.
template <int kHeadDim>
struct Shared {
  using S = Shape<kHeadDim>;
  static constexpr int kLow = S::kKeepsLow ? S::kMatrix / 8 : 1;

  // Low halves as the threads own them: [unit][thread].
  uint4 low1[kLow];
  uint4 low2[kLow];
  // Of each warp: what its inner channels give of the output, [rows, head_dim]
  // by OutputIndex; and of the scores of the second layer, [3, 8, 8]:
  // rows 0 to 7 with keys 0 to 7, rows 8 to 15 with keys 0 to 7 and 8 to 15.
  float outputs[S::kWarps][kMaxMiniBatch * kHeadDim];
  float scores[S::kWarps][3 * 64];
  RowTile<kHeadDim> keys;
  RowTile<kHeadDim> queries;
  // Gradients of the output times their rates; zero of a row that is broken or
  // not there. These and the next three are in the places of output tiles.
  RowTile<kHeadDim> gradients;
  float bias2[kHeadDim];
  float norm_weight[kHeadDim];
  float norm_bias[kHeadDim];
  float bias1[S::kInner];
  float token_scale[kMaxMiniBatch];
  uint32_t is_broken[kMaxMiniBatch];  // its gradient is not finite
};

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Of an 8 x 8 matrix that lane (g, q) holds (g, 2q), (g, 2q+1) of: (2q, g),
// (2q+1, g).
__device__ inline uint32_t Turn(uint32_t pair) {
  uint32_t turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n"
               : "=r"(turned)
               : "r"(pair));
  return turned;
}

// sums[16, 8] = a[16, 16] b[8, 16]^T in bfloat16.
__device__ inline void Multiply(float (&sums)[4], const uint32_t (&a)[4],
                                uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};\n"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
        "f"(0.0f));
}

__device__ inline void CopyAsync8(void* shared, const void* global) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(SharedAddress(shared)),
      "l"(global)
      : "memory");
}

// Asks the L2 cache for memory that will be read. Of any contents: a hint.
__device__ inline void PrefetchBulk(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(global),
               "r"(bytes));
}

// gelu(x) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
struct InnerActivation {
  float value;
  float slope;

  __device__ explicit InnerActivation(float x) {
    constexpr float kExponent = -2.0f * 1.4426950409f * kGeluScale;
    const float square = x * x;
    const float y =
        x * fmaf(square, kExponent * 0.044715f, kExponent);  // -2 u log2(e)
    const float gate = Reciprocal(1.0f + Exp2(y));
    value = x * gate;
    slope = fmaf(fmaf(-value, gate, value),
                 fmaf(square, 6.0f * 0.044715f * kGeluScale, 2.0f * kGeluScale),
                 gate);
  }
};

// An access of 16 bytes, or several of 8, by the alignment of a run.
template <int kWords>
__device__ void LoadRun(const void* from, uint32_t (&words)[kWords]) {
  constexpr int kAccess = kWords % 4 == 0 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < kWords; i += kAccess) {
    uint32_t part[kAccess];
    LoadWords(static_cast<const uint32_t*>(from) + i, part);
#pragma unroll
    for (int j = 0; j < kAccess; ++j) words[i + j] = part[j];
  }
}
template <int kWords>
__device__ void StoreRun(void* to, const uint32_t (&words)[kWords]) {
  constexpr int kAccess = kWords % 4 == 0 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < kWords; i += kAccess) {
    uint32_t part[kAccess];
#pragma unroll
    for (int j = 0; j < kAccess; ++j) part[j] = words[i + j];
    StoreWords(static_cast<uint32_t*>(to) + i, part);
  }
}

// Sum over the lanes of a row, the same in all of them.
__device__ inline float RowSum(float value) {
#pragma unroll
  for (int offset = kLanesOfRow / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// One head of one sequence.
template <int kHeadDim>
class MlpHead {
  using S = Shape<kHeadDim>;

 public:
  __device__ __forceinline__ MlpHead(const LearnerArgs& args,
                                     const SequenceRows& sequence, int32_t head,
                                     Shared<kHeadDim>& shared)
      : args_(args),
        sequence_(sequence),
        head_(head),
        shared_(shared),
        thread_(threadIdx.x) {
    Locate();
  }

  __device__ __forceinline__ void Run() {
    MiniBatchRows rows = MiniBatchAt(sequence_, 0, args_.mini_batch);
    const bool commits_any =
        rows.begin + sequence_.num_rows >= args_.mini_batch;
    Incoming incoming = LoadIncoming(rows);
    LoadWeights();
    if (S::kKeepsLow && commits_any) CopyLow();
    LoadConstants();
    while (true) {
      Locate();
      StoreIncoming(incoming);
      __syncthreads();
      ReadKeys(rows);
      __syncthreads();
      Locate();
      FindGradients(rows, incoming);
      __syncthreads();
      Locate();
      ReadQueries(rows);
      __syncthreads();
      Locate();
      const MiniBatchRows now = rows;
      const int32_t row = now.first + now.num_added();
      const int32_t left = sequence_.num_rows - row;
      if (left > 0) {
        rows = {0, min(left, args_.mini_batch), row};
        incoming = LoadIncoming(rows);
      }
      WriteOutputs(now);
      Locate();
      if (now.end < args_.mini_batch) {
        KeepRows(now);
        break;
      }
      Commit();
      __syncthreads();
      CommitOutputBias();
      if (left == 0) break;
    }
    Locate();
    if (commits_any) SaveWeights();
  }

 private:
  // Finds the thread's place, and again in each part of the routine: addresses
  // that are derived of it and kept would take the registers of the weights.
  __device__ __forceinline__ void Locate() {
    asm volatile("" : "+r"(thread_));
    warp_ = thread_ / kWarpSize;
    lane_ = thread_ % kWarpSize;
    group_ = lane_ / 4;
    quad_ = lane_ % 4;
  }

  // What a thread loads of a mini-batch ahead of its use: 16 bytes of a row of
  // keys or queries, and the targets and rates of the rows it normalises.
  struct Incoming {
    uint4 unit;
    uint32_t targets[S::kLaneRows][S::kPairs];
    float rates[S::kLaneRows];
  };

  // Of this head in row `row` of the sequence.
  __device__ int64_t RowIndex(int32_t row) const {
    return (int64_t{sequence_.first_row} + row) * args_.num_heads + head_;
  }
  // Of row `row` of the mini-batch. `pending` and `added` are the plane and the
  // operand.
  __device__ const __nv_bfloat16* RowAt(const StatePlane& pending,
                                        const Operand& added,
                                        const MiniBatchRows& rows,
                                        int32_t row) const {
    return row < rows.begin
               ? PendingRow(pending, row)
               : static_cast<const __nv_bfloat16*>(added.data) +
                     RowIndex(rows.first + row - rows.begin) * kHeadDim;
  }
  __device__ __nv_bfloat16* PendingRow(const StatePlane& pending,
                                       int32_t row) const {
    return SlotOf<__nv_bfloat16>(pending, sequence_.slot) +
           (int64_t{head_} * (args_.mini_batch - 1) + row) * kHeadDim;
  }
  __device__ float* PendingRate(int32_t row) const {
    return SlotOf<float>(args_.pending_rates, sequence_.slot) +
           int64_t{head_} * (args_.mini_batch - 1) + row;
  }
  // The halves of W1 and W2: the low ones are kMatrix behind the high ones.
  __device__ uint16_t* Weights(const StatePlane& plane) const {
    return SlotOf<uint16_t>(plane, sequence_.slot) +
           int64_t{head_} * (2 * S::kMatrix);
  }
  // Of the runs of channels that a lane has of W1: its column of all inner
  // tiles, in the row that is place 2 quad + odd of a tile of head_dim.
  __device__ int FirstRun1() const {
    return 2 * quad_ * S::kInner + kWarpInner * warp_ + kInnerTiles * group_;
  }
  static constexpr int Run1(int tile, int odd) {
    return (8 * tile + odd) * S::kInner;
  }
  // And of W2: its column of all output tiles, in the row that is place 2 quad
  // + odd of an inner tile.
  __device__ int FirstRun2() const {
    return (kWarpInner * warp_ + 2 * kInnerTiles * quad_) * kHeadDim +
           S::kTiles * group_;
  }
  static constexpr int Run2(int tile, int odd) {
    return (kInnerTiles * odd + tile) * kHeadDim;
  }
  __device__ uint16_t* High1() const { return Weights(args_.w1) + FirstRun1(); }
  __device__ uint16_t* High2() const { return Weights(args_.w2) + FirstRun2(); }

  // The n-th row that the thread normalises.
  __device__ int LaneRow(int n) const {
    return thread_ / kLanesOfRow + n * S::kRowsAtOnce;
  }
  // Of the two of its warp, the first.
  __device__ int FirstRowOfWarp(int n) const {
    return 2 * warp_ + n * S::kRowsAtOnce;
  }
  // The n-th pair of places of these rows that the thread has.
  __device__ int LanePair(int n) const {
    return thread_ % kLanesOfRow + n * kLanesOfRow;
  }

  // The place of a channel among the columns of output tiles, and back.
  __device__ static int PlaceOf(int channel) {
    return 8 * (channel % S::kTiles) + channel / S::kTiles;
  }
  __device__ static int ChannelAt(int place) {
    return S::kTiles * (place % 8) + place / 8;
  }

  // Where column `column` of an output tile stands in Shared::outputs, so that
  // the lanes of StoreOutputs and of Gather meet in no bank.
  __device__ static int OutputIndex(int row, int tile, int column) {
    return row * kHeadDim + 8 * (tile ^ (row & 3)) + column;
  }

  __device__ __forceinline__ Incoming
  LoadIncoming(const MiniBatchRows& rows) const {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    static_assert(2 * kMaxMiniBatch * kUnits == S::kThreads,
                  "a thread a unit of keys and queries");
    Incoming incoming = {};
    const bool is_key = thread_ < S::kThreads / 2;
    const int unit = thread_ % kUnits;
    const int row = thread_ / kUnits % kMaxMiniBatch;
    if (row < rows.end && (is_key || row >= rows.begin)) {
      const __nv_bfloat16* const from = RowAt(
          args_.pending_keys, is_key ? args_.keys : args_.queries, rows, row);
      incoming.unit = reinterpret_cast<const uint4*>(from)[unit];
    }
#pragma unroll
    for (int n = 0; n < S::kLaneRows; ++n) {
      const int lane_row = LaneRow(n);
      if (lane_row >= rows.end) continue;
      const auto* const targets = reinterpret_cast<const uint16_t*>(
          RowAt(args_.pending_targets, args_.targets, rows, lane_row));
#pragma unroll
      for (int j = 0; j < S::kPairs; ++j) {
        const int channel = ChannelAt(2 * LanePair(j));
        incoming.targets[n][j] =
            LowHalves(targets[channel], targets[channel + S::kTiles]);
      }
      incoming.rates[n] =
          lane_row < rows.begin
              ? *PendingRate(lane_row)
              : args_.rates[RowIndex(rows.first + lane_row - rows.begin)];
    }
    return incoming;
  }

  __device__ __forceinline__ void StoreIncoming(const Incoming& incoming) {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    const int unit = thread_ % kUnits;
    const int row = thread_ / kUnits % kMaxMiniBatch;
    RowTile<kHeadDim>& tile =
        thread_ < S::kThreads / 2 ? shared_.keys : shared_.queries;
    tile.units[RowTile<kHeadDim>::Index(row, unit)] = incoming.unit;
  }

  __device__ __forceinline__ void LoadWeights() {
    const uint16_t* const high1 = High1();
    const uint16_t* const high2 = High2();
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      uint32_t even[S::kRun1], odd[S::kRun1];
      LoadRun(high1 + Run1(tile, 0), even);
      LoadRun(high1 + Run1(tile, 1), odd);
#pragma unroll
      for (int i = 0; i < S::kRun1; ++i) {
        w1_[tile][2 * i] = LowHalves(even[i], odd[i]);
        w1_[tile][2 * i + 1] = HighHalves(even[i], odd[i]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      uint32_t even[S::kRun2], odd[S::kRun2];
      LoadRun(high2 + Run2(tile, 0), even);
      LoadRun(high2 + Run2(tile, 1), odd);
#pragma unroll
      for (int i = 0; i < S::kRun2; ++i) {
        w2_[tile][2 * i] = LowHalves(even[i], odd[i]);
        w2_[tile][2 * i + 1] = HighHalves(even[i], odd[i]);
      }
    }
  }

  __device__ __forceinline__ void LoadConstants() {
    static_assert(S::kInner == S::kThreads, "a thread an inner channel");
    shared_.bias1[thread_] =
        SlotOf<float>(args_.b1, sequence_.slot)[head_ * S::kInner + thread_];
    if (thread_ < kHeadDim) {
      const int c = head_ * kHeadDim + thread_;
      const int place = PlaceOf(thread_);
      shared_.bias2[place] = SlotOf<float>(args_.b2, sequence_.slot)[c];
      shared_.norm_weight[place] = args_.norm_weight[c];
      shared_.norm_bias[place] = args_.norm_bias[c];
    }
    if (thread_ < kMaxMiniBatch) {
      shared_.token_scale[thread_] =
          thread_ < args_.mini_batch ? args_.token_scale[thread_] : 0.0f;
    }
  }

  // Low halves of the runs 2 quad and 2 quad + 1 of a tile, as they stand in
  // the slot, in the thread's own units.
  __device__ uint4* Low1(int tile) const {
    return shared_.low1 + tile * S::kThreads + thread_;
  }
  __device__ uint4* Low2(int tile, int unit) const {
    return shared_.low2 + (tile * (S::kRun2 / 2) + unit) * S::kThreads +
           thread_;
  }

  __device__ __forceinline__ void CopyLow() {
    const uint16_t* const low1 = High1() + S::kMatrix;
    const uint16_t* const low2 = High2() + S::kMatrix;
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      auto* const to = reinterpret_cast<uint2*>(Low1(tile));
      CopyAsync8(to, low1 + Run1(tile, 0));
      CopyAsync8(to + 1, low1 + Run1(tile, 1));
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      if constexpr (S::kRun2 == 4) {
        CopyAsync16(Low2(tile, 0), low2 + Run2(tile, 0), true);
        CopyAsync16(Low2(tile, 1), low2 + Run2(tile, 1), true);
      } else {
        auto* const to = reinterpret_cast<uint2*>(Low2(tile, 0));
        CopyAsync8(to, low2 + Run2(tile, 0));
        CopyAsync8(to + 1, low2 + Run2(tile, 1));
      }
    }
  }

  __device__ __forceinline__ void LoadLow1(int tile, uint32_t (&even)[S::kRun1],
                                           uint32_t (&odd)[S::kRun1]) const {
    if constexpr (S::kKeepsLow) {
      const uint4 four = *Low1(tile);
      even[0] = four.x;
      even[1] = four.y;
      odd[0] = four.z;
      odd[1] = four.w;
    } else {
      const uint16_t* const low = High1() + S::kMatrix;
      LoadRun(low + Run1(tile, 0), even);
      LoadRun(low + Run1(tile, 1), odd);
    }
  }
  __device__ __forceinline__ void KeepLow1(
      int tile, const uint32_t (&even)[S::kRun1],
      const uint32_t (&odd)[S::kRun1]) const {
    if constexpr (S::kKeepsLow) {
      *Low1(tile) = {even[0], even[1], odd[0], odd[1]};
    } else {
      SaveLow1(tile, even, odd);
    }
  }
  __device__ __forceinline__ void SaveLow1(
      int tile, const uint32_t (&even)[S::kRun1],
      const uint32_t (&odd)[S::kRun1]) const {
    uint16_t* const low = High1() + S::kMatrix;
    StoreRun(low + Run1(tile, 0), even);
    StoreRun(low + Run1(tile, 1), odd);
  }

  __device__ __forceinline__ void LoadLow2(int tile, uint32_t (&even)[S::kRun2],
                                           uint32_t (&odd)[S::kRun2]) const {
    if constexpr (!S::kKeepsLow) {
      const uint16_t* const low = High2() + S::kMatrix;
      LoadRun(low + Run2(tile, 0), even);
      LoadRun(low + Run2(tile, 1), odd);
    } else if constexpr (S::kRun2 == 4) {
      LoadRun(Low2(tile, 0), even);
      LoadRun(Low2(tile, 1), odd);
    } else {
      LoadRun(Low2(tile, 0), even);
      LoadRun(reinterpret_cast<const uint2*>(Low2(tile, 0)) + 1, odd);
    }
  }
  __device__ __forceinline__ void KeepLow2(
      int tile, const uint32_t (&even)[S::kRun2],
      const uint32_t (&odd)[S::kRun2]) const {
    if constexpr (!S::kKeepsLow) {
      SaveLow2(tile, even, odd);
    } else if constexpr (S::kRun2 == 4) {
      StoreRun(Low2(tile, 0), even);
      StoreRun(Low2(tile, 1), odd);
    } else {
      StoreRun(Low2(tile, 0), even);
      StoreRun(reinterpret_cast<uint2*>(Low2(tile, 0)) + 1, odd);
    }
  }
  __device__ __forceinline__ void SaveLow2(
      int tile, const uint32_t (&even)[S::kRun2],
      const uint32_t (&odd)[S::kRun2]) const {
    uint16_t* const low = High2() + S::kMatrix;
    StoreRun(low + Run2(tile, 0), even);
    StoreRun(low + Run2(tile, 1), odd);
  }

  __device__ __forceinline__ void SaveWeights() {
    uint16_t* const high1 = High1();
    uint16_t* const high2 = High2();
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      uint32_t even[S::kRun1], odd[S::kRun1];
#pragma unroll
      for (int i = 0; i < S::kRun1; ++i) {
        even[i] = LowHalves(w1_[tile][2 * i], w1_[tile][2 * i + 1]);
        odd[i] = HighHalves(w1_[tile][2 * i], w1_[tile][2 * i + 1]);
      }
      StoreRun(high1 + Run1(tile, 0), even);
      StoreRun(high1 + Run1(tile, 1), odd);
      if constexpr (S::kKeepsLow) {
        LoadLow1(tile, even, odd);
        SaveLow1(tile, even, odd);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      uint32_t even[S::kRun2], odd[S::kRun2];
#pragma unroll
      for (int i = 0; i < S::kRun2; ++i) {
        even[i] = LowHalves(w2_[tile][2 * i], w2_[tile][2 * i + 1]);
        odd[i] = HighHalves(w2_[tile][2 * i], w2_[tile][2 * i + 1]);
      }
      StoreRun(high2 + Run2(tile, 0), even);
      StoreRun(high2 + Run2(tile, 1), odd);
      if constexpr (S::kKeepsLow) {
        LoadLow2(tile, even, odd);
        SaveLow2(tile, even, odd);
      }
    }
    SlotOf<float>(args_.b1, sequence_.slot)[head_ * S::kInner + thread_] =
        shared_.bias1[thread_];
    if (thread_ < kHeadDim) {
      SlotOf<float>(args_.b2, sequence_.slot)[head_ * kHeadDim + thread_] =
          shared_.bias2[PlaceOf(thread_)];
    }
  }

  // The operand A of 16 rows, of places 16 step to 16 step + 15.
  __device__ void LoadRows(uint32_t (&to)[4], const RowTile<kHeadDim>& rows,
                           int step) const {
    LoadMatrices(to, rows.At(lane_ % 16, 16 * step + lane_ / 16 * 8));
  }

  // z = b1 of the lane's columns, in all rows.
  __device__ __forceinline__ void StartInner(float (&z)[kInnerTiles][4]) const {
    static_assert(kInnerTiles == 4, "a vector a column");
    const float* const bias =
        shared_.bias1 + kWarpInner * warp_ + 2 * kInnerTiles * quad_;
    const float4 even = *reinterpret_cast<const float4*>(bias);
    const float4 odd = *reinterpret_cast<const float4*>(bias + kInnerTiles);
    const float columns[2][4] = {{even.x, even.y, even.z, even.w},
                                 {odd.x, odd.y, odd.z, odd.w}};
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) z[tile][i] = columns[i % 2][tile];
    }
  }

  // What the warp's inner channels give of the output, for rows 0 to 7 and rows
  // 8 to 15 if they are wanted.
  __device__ __forceinline__ void StoreOutputs(
      const uint32_t (&x)[kInnerTiles][2], bool has_first, bool has_second) {
    float* const to = shared_.outputs[warp_];
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      float sums[4];
      Multiply(sums, {x[0][0], x[0][1], x[1][0], x[1][1]}, w2_[0][tile],
               w2_[1][tile]);
      MultiplyAdd(sums, {x[2][0], x[2][1], x[3][0], x[3][1]}, w2_[2][tile],
                  w2_[3][tile]);
      if (has_first) {
        *reinterpret_cast<float2*>(
            to + OutputIndex(group_, tile, 2 * quad_)) = {sums[0], sums[1]};
      }
      if (has_second) {
        *reinterpret_cast<float2*>(
            to + OutputIndex(group_ + 8, tile, 2 * quad_)) = {sums[2], sums[3]};
      }
    }
  }

  // A row of the output in its lanes: b2 and what the warps gave.
  __device__ __forceinline__ void Gather(int row,
                                         float (&z)[S::kPairs][2]) const {
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      const int pair = LanePair(j);
      const int index = OutputIndex(row, pair / 4, 2 * (pair % 4));
      const float2 bias =
          *reinterpret_cast<const float2*>(shared_.bias2 + 2 * pair);
      z[j][0] = bias.x;
      z[j][1] = bias.y;
#pragma unroll
      for (int warp = 0; warp < S::kWarps; ++warp) {
        const float2 part =
            *reinterpret_cast<const float2*>(shared_.outputs[warp] + index);
        z[j][0] += part.x;
        z[j][1] += part.y;
      }
    }
  }

  // Normalises a row in its lanes; returns 1 / sqrt(variance + epsilon).
  __device__ __forceinline__ static float Normalise(float (&z)[S::kPairs][2]) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) sum += z[j][0] + z[j][1];
    const float mean = RowSum(sum) * (1.0f / kHeadDim);
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        z[j][c] -= mean;
        squares = fmaf(z[j][c], z[j][c], squares);
      }
    }
    const float scale =
        rsqrtf(fmaf(RowSum(squares), 1.0f / kHeadDim, kLayerNormEpsilon));
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      z[j][0] *= scale;
      z[j][1] *= scale;
    }
    return scale;
  }

  // Of the n-th pair of the thread.
  __device__ float2 NormWeight(int n) const {
    return *reinterpret_cast<const float2*>(shared_.norm_weight +
                                            2 * LanePair(n));
  }
  __device__ float2 Affine(int n, const float (&z)[2]) const {
    const float2 weight = NormWeight(n);
    const float2 bias =
        *reinterpret_cast<const float2*>(shared_.norm_bias + 2 * LanePair(n));
    return {fmaf(weight.x, z[0], bias.x), fmaf(weight.y, z[1], bias.y)};
  }

  __device__ __forceinline__ void ReadKeys(const MiniBatchRows& rows) {
    float z[kInnerTiles][4];
    StartInner(z);
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t k[4];
      LoadRows(k, shared_.keys, step);
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyAdd(z[tile], k, w1_[2 * step][tile], w1_[2 * step + 1][tile]);
      }
    }
    const bool has_second = rows.end > 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        float* const slopes = slopes_[tile] + 2 * half;
        if (half == 1 && !has_second) {
          inner_keys_[tile][half] = 0;
          slopes[0] = slopes[1] = 0.0f;
          continue;
        }
        const InnerActivation even(z[tile][2 * half]);
        const InnerActivation odd(z[tile][2 * half + 1]);
        inner_keys_[tile][half] = PackPair(even.value, odd.value);
        slopes[0] = even.slope;
        slopes[1] = odd.slope;
      }
    }
    StoreOutputs(inner_keys_, true, has_second);
  }

  // Of the loss of each row with respect to the learner's output, times the
  // rate.
  __device__ __forceinline__ void FindGradients(const MiniBatchRows& rows,
                                                const Incoming& incoming) {
#pragma unroll
    for (int n = 0; n < S::kLaneRows; ++n) {
      if (FirstRowOfWarp(n) >= kMaxMiniBatch) break;
      float gradient[S::kPairs][2] = {};
      bool is_finite = true;
      const int row = LaneRow(n);
      if (FirstRowOfWarp(n) < rows.end) {
        FindGradient(row, incoming.targets[n], incoming.rates[n], gradient);
#pragma unroll
        for (int j = 0; j < S::kPairs; ++j) {
          is_finite = is_finite && fabsf(gradient[j][0]) <= kMaxFinite &&
                      fabsf(gradient[j][1]) <= kMaxFinite;
        }
      }
      const uint32_t not_finite = __ballot_sync(kAllLanes, !is_finite);
      const bool is_broken =
          row < rows.end && (not_finite >> (lane_ & 16) & 0xffffu) != 0;
      const bool is_valid = row < rows.end && !is_broken;
      if (lane_ % kLanesOfRow == 0) shared_.is_broken[row] = is_broken;
#pragma unroll
      for (int j = 0; j < S::kPairs; ++j) {
        *static_cast<uint32_t*>(shared_.gradients.At(row, 2 * LanePair(j))) =
            is_valid ? PackPair(gradient[j][0], gradient[j][1]) : 0;
      }
    }
  }

  __device__ __forceinline__ void FindGradient(
      int row, const uint32_t (&targets)[S::kPairs], float rate,
      float (&gradient)[S::kPairs][2]) const {
    float z[S::kPairs][2];
    Gather(row, z);
    const float scale = Normalise(z);
    float sum_u = 0.0f;
    float sum_uz = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      const float2 weight = NormWeight(j);
      const float2 normal = Affine(j, z[j]);
      gradient[j][0] = (normal.x - LowOfPair(targets[j])) * weight.x;
      gradient[j][1] = (normal.y - HighOfPair(targets[j])) * weight.y;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        sum_u += gradient[j][c];
        sum_uz = fmaf(gradient[j][c], z[j][c], sum_uz);
      }
    }
    const float mean_u = RowSum(sum_u) * (1.0f / kHeadDim);
    const float mean_uz = RowSum(sum_uz) * (1.0f / kHeadDim);
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        gradient[j][c] =
            fmaf(-z[j][c], mean_uz, gradient[j][c] - mean_u) * (scale * rate);
      }
    }
  }

  __device__ uint32_t GradientPair(int row, int pair) const {
    return *static_cast<const uint32_t*>(shared_.gradients.At(row, 2 * pair));
  }

  // Of a row; not a number if it sees a broken one.
  __device__ float TokenScale(int row) const {
    return (broken_ & ((2u << row) - 1)) != 0 ? __uint_as_float(0x7fc00000)
                                              : shared_.token_scale[row];
  }

  // Gradients of the inner channels, times the rates: operands [rows, inner]
  // turned.
  __device__ __forceinline__ void FindInnerGradients() {
    float sums[kInnerTiles][4] = {};
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t g[4];
      LoadRows(g, shared_.gradients, step);
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyAdd(sums[tile], g, Turn(w2_[tile][2 * step]),
                    Turn(w2_[tile][2 * step + 1]));
      }
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float even = sums[tile][2 * half] * slopes_[tile][2 * half];
        const float odd =
            sums[tile][2 * half + 1] * slopes_[tile][2 * half + 1];
        const bool is_broken = (broken_ >> (group_ + 8 * half) & 1) != 0;
        inner_gradients_[tile][half] =
            Turn(is_broken ? 0 : PackPair(even, odd));
      }
    }
  }

  __device__ __forceinline__ void ReadQueries(const MiniBatchRows& rows) {
    broken_ = __ballot_sync(kAllLanes,
                            shared_.is_broken[lane_ % kMaxMiniBatch] != 0) &
              0xffffu;
    FindInnerGradients();
    float z[kInnerTiles][4];
    StartInner(z);
    float scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t q[4], k[4];
      LoadRows(q, shared_.queries, step);
      shared_.keys.Load(k, step, lane_);
      MultiplyAdd(scores[0], q, k[0], k[1]);
      MultiplyAdd(scores[1], q, k[2], k[3]);
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyAdd(z[tile], q, w1_[2 * step][tile], w1_[2 * step + 1][tile]);
      }
    }
    CorrectInner(scores, z);
    // Of the halves of rows that have no query, zero.
    uint32_t x[kInnerTiles][2];
    const bool has_first = rows.begin < 8;
    const bool has_second = rows.end > 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        x[tile][half] =
            (half == 0 ? has_first : has_second)
                ? PackPair(InnerActivation(z[tile][2 * half]).value,
                           InnerActivation(z[tile][2 * half + 1]).value)
                : 0;
      }
    }
    StoreScores(x);
    StoreOutputs(x, has_first, has_second);
  }

  // z_t -= tau_t sum_{s <= t} (q_t . k_s + 1) times the inner gradient of s.
  __device__ __forceinline__ void CorrectInner(
      const float (&scores)[2][4], float (&z)[kInnerTiles][4]) const {
    const bool has_even = 2 * quad_ <= group_;  // s <= t within eight of each
    const bool has_odd = 2 * quad_ + 1 <= group_;
    const uint32_t a[4] = {PackPair(has_even ? scores[0][0] + 1.0f : 0.0f,
                                    has_odd ? scores[0][1] + 1.0f : 0.0f),
                           PackPair(scores[0][2] + 1.0f, scores[0][3] + 1.0f),
                           0,
                           PackPair(has_even ? scores[1][2] + 1.0f : 0.0f,
                                    has_odd ? scores[1][3] + 1.0f : 0.0f)};
    const float scale[2] = {TokenScale(group_), TokenScale(group_ + 8)};
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      float sums[4];
      Multiply(sums, a, inner_gradients_[tile][0], inner_gradients_[tile][1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        z[tile][i] = fmaf(-scale[i / 2], sums[i], z[tile][i]);
      }
    }
  }

  __device__ __forceinline__ void StoreScores(
      const uint32_t (&x)[kInnerTiles][2]) {
    float scores[2][4];
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      Multiply(scores[keys], {x[0][0], x[0][1], x[1][0], x[1][1]},
               inner_keys_[0][keys], inner_keys_[1][keys]);
      MultiplyAdd(scores[keys], {x[2][0], x[2][1], x[3][0], x[3][1]},
                  inner_keys_[2][keys], inner_keys_[3][keys]);
    }
    auto* const to = reinterpret_cast<float2*>(shared_.scores[warp_]) + lane_;
    to[0] = {scores[0][0], scores[0][1]};
    to[32] = {scores[0][2], scores[0][3]};
    to[64] = {scores[1][2], scores[1][3]};
  }

  __device__ __forceinline__ void WriteOutputs(const MiniBatchRows& rows) {
#pragma unroll
    for (int n = 0; n < S::kLaneRows; ++n) {
      const int first = FirstRowOfWarp(n);
      if (first + 1 < rows.begin || first >= rows.end) continue;
      const int row = LaneRow(n);
      float z[S::kPairs][2];
      Gather(row, z);
      CorrectOutput(row, rows.end, z);
      Normalise(z);
      if (row < rows.begin || row >= rows.end) continue;
      float* const output =
          args_.output + RowIndex(rows.first + row - rows.begin) * kHeadDim;
#pragma unroll
      for (int j = 0; j < S::kPairs; ++j) {
        const float2 normal = Affine(j, z[j]);
        const int c = ChannelAt(2 * LanePair(j));
        output[c] = Query(row, c) + normal.x;
        output[c + S::kTiles] = Query(row, c + S::kTiles) + normal.y;
      }
    }
  }

  __device__ float Query(int row, int channel) const {
    return __bfloat162float(
        *static_cast<const __nv_bfloat16*>(shared_.queries.At(row, channel)));
  }

  // z_t -= tau_t sum_{s <= t} (x_t . x_s + 1) times the gradient of s, with x
  // the inner activations. Rows from `end` on are not there.
  __device__ __forceinline__ void CorrectOutput(
      int row, int32_t end, float (&z)[S::kPairs][2]) const {
    const int key = lane_ % kLanesOfRow;
    const int tile = row < 8 ? 0 : 1 + key / 8;
    float score = 1.0f;
#pragma unroll
    for (int warp = 0; warp < S::kWarps; ++warp) {
      score += shared_.scores[warp][64 * tile + row % 8 * 8 + key % 8];
    }
    if (key > row) score = 0.0f;
    float sums[S::kPairs][2] = {};
#pragma unroll 4
    for (int s = 0; s < end; ++s) {
      const float scale = __shfl_sync(kAllLanes, score, s, kLanesOfRow);
#pragma unroll
      for (int j = 0; j < S::kPairs; ++j) {
        const uint32_t pair = GradientPair(s, LanePair(j));
        sums[j][0] = fmaf(scale, LowOfPair(pair), sums[j][0]);
        sums[j][1] = fmaf(scale, HighOfPair(pair), sums[j][1]);
      }
    }
    const float scale = TokenScale(row);
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      z[j][0] = fmaf(-scale, sums[j][0], z[j][0]);
      z[j][1] = fmaf(-scale, sums[j][1], z[j][1]);
    }
  }

  // P <- P - tau sum_s lr_s (input_s^T g_s, g_s), of a whole mini-batch; b2 is
  // CommitOutputBias's.
  __device__ __forceinline__ void Commit() {
    const float scale = TokenScale(args_.mini_batch - 1);
    if (S::kKeepsLow) WaitForCopies();
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t k[4];
      shared_.keys.LoadTurned(k, step, lane_);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int tile = 2 * step + part;
        uint32_t even[S::kRun1], odd[S::kRun1];
        LoadLow1(tile, even, odd);
#pragma unroll
        for (int i = 0; i < S::kRun1; ++i) {
          float sums[4];
          MultiplyInner(sums, i, k[part], k[2 + part]);
          Update(scale, sums, w1_[tile][2 * i], w1_[tile][2 * i + 1], even[i],
                 odd[i]);
        }
        KeepLow1(tile, even, odd);
      }
    }
#pragma unroll
    for (int i = 0; i < S::kRun1; ++i) {
      float sums[4];
      MultiplyInner(sums, i, kOnes, kOnes);
      if (quad_ == 0) {
        float* const bias =
            shared_.bias1 + kWarpInner * warp_ + kInnerTiles * group_ + 2 * i;
        bias[0] = fmaf(-scale, sums[0], bias[0]);
        bias[1] = fmaf(-scale, sums[2], bias[1]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      const uint32_t x[2] = {Turn(inner_keys_[tile][0]),
                             Turn(inner_keys_[tile][1])};
      uint32_t even[S::kRun2], odd[S::kRun2];
      LoadLow2(tile, even, odd);
#pragma unroll
      for (int i = 0; i < S::kRun2; ++i) {
        uint32_t g[4];
        shared_.gradients.LoadTurned(g, i, lane_);
        float sums[4];
        Multiply(sums, g, x[0], x[1]);
        Update(scale, sums, w2_[tile][2 * i], w2_[tile][2 * i + 1], even[i],
               odd[i]);
      }
      KeepLow2(tile, even, odd);
    }
  }

  // sums[columns of inner tiles 2 i and 2 i + 1, 8] of the inner gradients and
  // an operand of the rows.
  __device__ __forceinline__ void MultiplyInner(float (&sums)[4], int i,
                                                uint32_t b0,
                                                uint32_t b1) const {
    Multiply(sums,
             {inner_gradients_[2 * i][0], inner_gradients_[2 * i + 1][0],
              inner_gradients_[2 * i][1], inner_gradients_[2 * i + 1][1]},
             b0, b1);
  }

  // Takes scale * sums[16, 8] from the weights of two tiles, whose low halves
  // stand as in the slot.
  __device__ __forceinline__ void Update(float scale, const float (&sums)[4],
                                         uint32_t& first, uint32_t& second,
                                         uint32_t& even, uint32_t& odd) const {
    const uint32_t first_low = LowHalves(even, odd);
    const uint32_t second_low = HighHalves(even, odd);
    float values[4] = {
        JoinFirst(first, first_low), JoinSecond(first, first_low),
        JoinFirst(second, second_low), JoinSecond(second, second_low)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // The NaN of the arithmetic would not be one in its high half.
      values[i] = broken_ != 0 ? __uint_as_float(0x7fc00000)
                               : fmaf(-scale, sums[i], values[i]);
    }
    first = SplitHighPair(values[0], values[1]);
    second = SplitHighPair(values[2], values[3]);
    const uint32_t first_new = SplitLowPair(values[0], values[1]);
    const uint32_t second_new = SplitLowPair(values[2], values[3]);
    even = LowHalves(first_new, second_new);
    odd = HighHalves(first_new, second_new);
  }

  __device__ __forceinline__ void CommitOutputBias() {
    if (thread_ >= kHeadDim) return;
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kMaxMiniBatch; ++s) {
      const uint32_t pair = GradientPair(s, thread_ / 2);
      sum += thread_ % 2 == 0 ? LowOfPair(pair) : HighOfPair(pair);
    }
    shared_.bias2[thread_] =
        fmaf(-TokenScale(args_.mini_batch - 1), sum, shared_.bias2[thread_]);
  }

  // The step's rows of a mini-batch that goes on.
  __device__ __forceinline__ void KeepRows(const MiniBatchRows& rows) {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    const bool is_key = thread_ < S::kThreads / 2;
    const int unit = thread_ % kUnits;
    const int row = thread_ / kUnits % kMaxMiniBatch;
    if (row >= rows.begin && row < rows.end) {
      const StatePlane& plane =
          is_key ? args_.pending_keys : args_.pending_targets;
      const Operand& added = is_key ? args_.keys : args_.targets;
      reinterpret_cast<uint4*>(PendingRow(plane, row))[unit] =
          reinterpret_cast<const uint4*>(RowAt(plane, added, rows, row))[unit];
    }
    const int t = rows.begin + thread_;
    if (t < rows.end) {
      *PendingRate(t) = args_.rates[RowIndex(rows.first + thread_)];
    }
  }

  const LearnerArgs& args_;
  const SequenceRows sequence_;
  const int32_t head_;
  Shared<kHeadDim>& shared_;
  uint32_t thread_;
  int warp_;
  int lane_;
  int group_;
  int quad_;
  // High halves: operands B of the products with keys, queries and inner
  // activations. w1_[tile of head_dim][inner tile], pairs along head_dim;
  // w2_[inner tile][output tile], pairs along the inner channels.
  uint32_t w1_[S::kTiles][kInnerTiles];
  uint32_t w2_[kInnerTiles][S::kTiles];
  // Of the rows of the mini-batch: gelu(Z1) in pairs of columns, rows 0 to 7
  // and 8 to 15, its slopes, and the gradients turned.
  uint32_t inner_keys_[kInnerTiles][2];
  float slopes_[kInnerTiles][4];
  uint32_t inner_gradients_[kInnerTiles][2];
  uint32_t broken_;  // a bit a row
};

// Asks for the fast weights that block `index` of the grid will read.
template <int kHeadDim>
__device__ void PrefetchWeights(const LearnerArgs& args, uint32_t index) {
  constexpr uint32_t kHighBytes = 2 * Shape<kHeadDim>::kMatrix;
  if (index >= uint32_t(args.rows.batch) * args.num_heads) return;
  const SequenceRows sequence = args.rows.sequences[index / args.num_heads];
  if (sequence.num_rows == 0) return;
  const int64_t offset = int64_t{index % args.num_heads} * (2 * kHighBytes);
  for (const StatePlane& plane : {args.w1, args.w2}) {
    PrefetchBulk(SlotOf<std::byte>(plane, sequence.slot) + offset, kHighBytes);
  }
}

// grid [num_heads, batch].
template <int kHeadDim>
__global__ void __launch_bounds__(Shape<kHeadDim>::kThreads,
                                  Shape<kHeadDim>::kBlocks)
    LearnerMlpKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ uint4 memory[];
  const uint32_t index = blockIdx.y * gridDim.x + blockIdx.x;
  // No kernel writes the sequences, and a hint may come too early.
  if (threadIdx.x == 0) PrefetchWeights<kHeadDim>(args, index);
  WaitForKernelsBefore();
  if (threadIdx.x == 0) PrefetchWeights<kHeadDim>(args, index + kBlocksAhead);
  const SequenceRows sequence = args.rows.sequences[blockIdx.y];
  if (sequence.num_rows == 0) return;
  MlpHead<kHeadDim>(args, sequence, blockIdx.x,
                    *reinterpret_cast<Shared<kHeadDim>*>(memory))
      .Run();
}

template <int kHeadDim>
cudaError_t Launch(const LearnerArgs& args, cudaStream_t stream) {
  const dim3 grid(args.num_heads, args.rows.batch);
  return LaunchOverlapped(LearnerMlpKernel<kHeadDim>, grid,
                          Shape<kHeadDim>::kThreads, sizeof(Shared<kHeadDim>),
                          stream, args);
}

template <int kHeadDim>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(LearnerMlpKernel<kHeadDim>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(Shared<kHeadDim>));
}

}  // namespace

cudaError_t LaunchLearnerMlp(const LearnerArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  switch (args.head_dim) {
    case 32:
      return Launch<32>(args, stream);
    case 64:
      return Launch<64>(args, stream);
    default:
      return Launch<96>(args, stream);
  }
}

cudaError_t PrepareLearnerMlp() {
  for (cudaError_t (*prepare)() : {Prepare<32>, Prepare<64>, Prepare<96>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
