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
#include "kernels/cuda/async_copy.cuh"
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
constexpr int kMultiprocessors = 132;
// Larger ones round to infinity.
constexpr float kMaxFinite = 3.38e38f;
// Of two bfloat16.
constexpr uint32_t kOnes = 0x3f803f80;
constexpr uint32_t kNanPair = 0x7fc07fc0;

template <int kHeadDim>
struct Shape {
  static constexpr int kInner = 4 * kHeadDim;
  static constexpr int kWarps = kInner / kWarpInner;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kBlocks = kHeadDim < 96 ? 2 : 1;  // a multiprocessor
  // How far ahead fast weights are asked for: about as many blocks as run at
  // once.
  static constexpr int kBlocksAhead = kMultiprocessors * kBlocks;
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
  // by OutputPlace; and of the scores of the second layer, [3, 8, 8]:
  // rows 0 to 7 with keys 0 to 7, rows 8 to 15 with keys 0 to 7 and 8 to 15.
  float outputs[S::kWarps][kMaxMiniBatch * kHeadDim];
  float scores[S::kWarps][3 * 64];
  RowTile<kHeadDim> keys;
  RowTile<kHeadDim> queries;
  RowTile<kHeadDim> targets;
  // Gradients of the output times their rates; zero of a row that is broken or
  // not there. These and the next three are in the places of output tiles.
  RowTile<kHeadDim> gradients;
  float bias2[kHeadDim];
  float norm_weight[kHeadDim];
  float norm_bias[kHeadDim];
  float bias1[S::kInner];
  float rates[kMaxMiniBatch];
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

// Of a sum over steps, from 0 on.
__device__ inline void MultiplyStep(int step, float (&sums)[4],
                                    const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if (step == 0) {
    Multiply(sums, a, b0, b1);
  } else {
    MultiplyAdd(sums, a, b0, b1);
  }
}

__device__ inline void CopyAsync8(void* shared, const void* global) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(SharedAddress(shared)),
      "l"(global)
      : "memory");
}

// A group of those that the thread started since the last group.
__device__ inline void CloseCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Until all groups but the last have ended.
__device__ inline void WaitForAllCopiesButOne() {
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
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

// Asks for the high halves of a head.
template <int kHeadDim>
__device__ void PrefetchWeights(const LearnerArgs& args,
                                const SequenceRows& sequence, int64_t head) {
  constexpr uint32_t kHighBytes = 2 * Shape<kHeadDim>::kMatrix;
  if (sequence.num_rows == 0) return;
  for (const StatePlane& plane : {args.w1, args.w2}) {
    PrefetchBulk(
        SlotOf<std::byte>(plane, sequence.slot) + head * (2 * kHighBytes),
        kHighBytes);
  }
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
    LoadWeights();
    MiniBatchRows rows = FirstMiniBatch(sequence_, args_.mini_batch);
    const bool commits_any =
        rows.begin + sequence_.num_rows >= args_.mini_batch;
    CopyRows(rows);
    CopyConstants();
    CloseCopies();
    if (S::kKeepsLow && commits_any) CopyLow();
    if (thread_ == 0) {
      if (!S::kKeepsLow && commits_any) PrefetchLow();
      PrefetchAhead();
    }
    PairWeights();
    while (true) {
      CloseCopies();
      WaitForAllCopiesButOne();
      __syncthreads();
      Locate();
      ReadKeys(rows);
      __syncthreads();
      Locate();
      FindGradients(rows);
      __syncthreads();
      Locate();
      ReadQueries(rows);
      __syncthreads();
      Locate();
      const bool is_last = rows.first + rows.num_added() == sequence_.num_rows;
      const MiniBatchRows next =
          NextMiniBatch(rows, sequence_.num_rows, args_.mini_batch);
      if (!is_last) PrefetchRows(next);
      WriteOutputs(rows);
      Locate();
      if (rows.end < args_.mini_batch) {
        KeepRows(rows);
        break;
      }
      CommitInputs();
      __syncthreads();
      Locate();
      if (!is_last) CopyRows(next);
      CloseCopies();
      CommitOutputs();
      if (is_last) break;
      rows = next;
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

  __device__ void PrefetchLow() const {
    PrefetchBulk(Weights(args_.w1) + S::kMatrix, 2 * S::kMatrix);
    PrefetchBulk(Weights(args_.w2) + S::kMatrix, 2 * S::kMatrix);
  }
  // For the block that will run here when this one has ended, or about that.
  __device__ void PrefetchAhead() const {
    const uint32_t index =
        blockIdx.y * gridDim.x + blockIdx.x + S::kBlocksAhead;
    const uint32_t sequence = index / gridDim.x;
    if (sequence >= gridDim.y) return;
    PrefetchWeights<kHeadDim>(args_, LoadSequence(args_.rows, sequence),
                              index % gridDim.x);
  }

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
  __device__ float* Bias1() const {
    return SlotOf<float>(args_.b1, sequence_.slot) + head_ * S::kInner;
  }
  __device__ float* Bias2() const {
    return SlotOf<float>(args_.b2, sequence_.slot) + head_ * kHeadDim;
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

  // Where an output tile begins in a row of Shared::outputs, of the four that
  // are 32 floats: so the lanes of StoreOutputs and of Gather meet in no bank.
  __device__ static int OutputPlace(int row, int tile) {
    return 8 * (tile ^ (row & 3));
  }

  // visit(tile, index, from, is_there) for the units of a mini-batch's rows
  // that are the thread's.
  template <typename Visit>
  __device__ __forceinline__ void VisitUnits(const MiniBatchRows& rows,
                                             Visit visit) {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    static_assert(2 * kMaxMiniBatch * kUnits == S::kThreads,
                  "a thread a unit of keys and targets, or of queries");
    const int unit = thread_ % kUnits;
    const int row = thread_ / kUnits % kMaxMiniBatch;
    const int index = RowTile<kHeadDim>::Index(row, unit);
    const auto at = [&](const StatePlane& pending, const Operand& added) {
      return RowAt(pending, added, rows, row) + 8 * unit;
    };
    if (thread_ < S::kThreads / 2) {
      const bool is_there = row < rows.end;
      visit(shared_.keys, index, at(args_.pending_keys, args_.keys), is_there);
      visit(shared_.targets, index, at(args_.pending_targets, args_.targets),
            is_there);
    } else {
      visit(shared_.queries, index, at(args_.pending_keys, args_.queries),
            row >= rows.begin && row < rows.end);
    }
  }

  // Asks for what CopyRows will copy of a whole mini-batch.
  __device__ __forceinline__ void PrefetchRows(const MiniBatchRows& rows) {
    VisitUnits(rows,
               [](RowTile<kHeadDim>&, int, const void* from, bool is_there) {
                 if (is_there) PrefetchLine(from);
               });
  }

  // Starts to copy the rows of a mini-batch; what is not there becomes zero.
  __device__ __forceinline__ void CopyRows(const MiniBatchRows& rows) {
    VisitUnits(rows, [](RowTile<kHeadDim>& to, int index, const void* from,
                        bool is_there) {
      CopyAsync16(&to.units[index], from, is_there);
    });
    if (thread_ < kMaxMiniBatch) {
      const int t = thread_;
      const float* const from =
          t < rows.begin ? PendingRate(t)
                         : args_.rates + RowIndex(rows.first + t - rows.begin);
      CopyAsync4(shared_.rates + t, from, t < rows.end);
    }
  }

  // The runs of a tile, one after the other, for PairWeights.
  __device__ __forceinline__ void LoadWeights() {
    const uint16_t* const high1 = High1();
    const uint16_t* const high2 = High2();
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint32_t run[S::kRun1];
        LoadRun(high1 + Run1(tile, odd), run);
#pragma unroll
        for (int i = 0; i < S::kRun1; ++i) {
          w1_[tile][odd * S::kRun1 + i] = run[i];
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint32_t run[S::kRun2];
        LoadRun(high2 + Run2(tile, odd), run);
#pragma unroll
        for (int i = 0; i < S::kRun2; ++i) {
          w2_[tile][odd * S::kRun2 + i] = run[i];
        }
      }
    }
  }

  __device__ __forceinline__ void PairWeights() {
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) PairRuns(w1_[tile]);
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) PairRuns(w2_[tile]);
  }

  // Of two runs, side by side, the pairs of one place in both.
  template <int kWords>
  __device__ __forceinline__ static void PairRuns(uint32_t (&words)[kWords]) {
    constexpr int kRun = kWords / 2;
    uint32_t pairs[kWords];
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      pairs[2 * i] = LowHalves(words[i], words[kRun + i]);
      pairs[2 * i + 1] = HighHalves(words[i], words[kRun + i]);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = pairs[i];
  }

  __device__ __forceinline__ void CopyConstants() {
    static_assert(S::kInner == S::kThreads, "a thread an inner channel");
    CopyAsync4(shared_.bias1 + thread_, Bias1() + thread_, true);
    if (thread_ < kHeadDim) {
      const int c = head_ * kHeadDim + thread_;
      const int place = PlaceOf(thread_);
      CopyAsync4(shared_.bias2 + place, Bias2() + thread_, true);
      CopyAsync4(shared_.norm_weight + place, args_.norm_weight + c, true);
      CopyAsync4(shared_.norm_bias + place, args_.norm_bias + c, true);
    }
    if (thread_ < kMaxMiniBatch) {
      CopyAsync4(shared_.token_scale + thread_, args_.token_scale + thread_,
                 thread_ < args_.mini_batch);
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
    Bias1()[thread_] = shared_.bias1[thread_];
    if (thread_ < kHeadDim) {
      Bias2()[ChannelAt(thread_)] = shared_.bias2[thread_];
    }
  }

  // The operand A of 16 rows, of places 16 step to 16 step + 15.
  __device__ void LoadRows(uint32_t (&to)[4], const RowTile<kHeadDim>& rows,
                           int step) const {
    LoadMatrices(to, rows.At(lane_ % 16, 16 * step + lane_ / 16 * 8));
  }

  // z = rows W1 + b1.
  __device__ __forceinline__ void MultiplyInputs(
      const RowTile<kHeadDim>& rows, float (&z)[kInnerTiles][4]) const {
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
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a[4];
      LoadRows(a, rows, step);
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyAdd(z[tile], a, w1_[2 * step][tile], w1_[2 * step + 1][tile]);
      }
    }
  }

  // What the warp's inner channels give of the output, for rows 0 to 7 and rows
  // 8 to 15 if they are wanted.
  __device__ __forceinline__ void StoreOutputs(
      const uint32_t (&x)[kInnerTiles][2], bool has_first, bool has_second) {
    float* const row = shared_.outputs[warp_] + group_ * kHeadDim + 2 * quad_;
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
      // Those of one place at a time.
      const int tile = i % (S::kTiles / 4) * 4 + i / (S::kTiles / 4);
      float sums[4];
      Multiply(sums, {x[0][0], x[0][1], x[1][0], x[1][1]}, w2_[0][tile],
               w2_[1][tile]);
      MultiplyAdd(sums, {x[2][0], x[2][1], x[3][0], x[3][1]}, w2_[2][tile],
                  w2_[3][tile]);
      float* const to = row + OutputPlace(group_, tile % 4) + tile / 4 * 32;
      if (has_first) *reinterpret_cast<float2*>(to) = {sums[0], sums[1]};
      if (has_second) {
        *reinterpret_cast<float2*>(to + 8 * kHeadDim) = {sums[2], sums[3]};
      }
    }
  }

  // A row of the output in its lanes: b2 and what the warps gave.
  __device__ __forceinline__ void Gather(int row,
                                         float (&z)[S::kPairs][2]) const {
    const int lane = thread_ % kLanesOfRow;
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      const int pair = LanePair(j);
      const int index =
          row * kHeadDim + OutputPlace(row, lane / 4) + 2 * (lane % 4) + 32 * j;
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
    // As others of its kind: not to be fused with a sum, here or elsewhere.
    const float mean = __fmul_rn(RowSum(sum), 1.0f / kHeadDim);
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

  __device__ static float Value(const RowTile<kHeadDim>& rows, int row,
                                int channel) {
    return __bfloat162float(
        *static_cast<const __nv_bfloat16*>(rows.At(row, channel)));
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
    MultiplyInputs(shared_.keys, z);
    const bool has_second = rows.end > 8;
    ActivateKeys(z, 0);
    if (has_second) {
      ActivateKeys(z, 1);
    } else {
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        inner_keys_[tile][1] = 0;
        slopes_[tile][2] = slopes_[tile][3] = 0.0f;
      }
    }
    StoreOutputs(inner_keys_, true, has_second);
  }

  __device__ __forceinline__ void ActivateKeys(const float (&z)[kInnerTiles][4],
                                               int half) {
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      const InnerActivation even(z[tile][2 * half]);
      const InnerActivation odd(z[tile][2 * half + 1]);
      inner_keys_[tile][half] = PackPair(even.value, odd.value);
      slopes_[tile][2 * half] = even.slope;
      slopes_[tile][2 * half + 1] = odd.slope;
    }
  }

  // Of the loss of each row with respect to the learner's output, times the
  // rate.
  __device__ __forceinline__ void FindGradients(const MiniBatchRows& rows) {
#pragma unroll
    for (int n = 0; n < S::kLaneRows; ++n) {
      if (FirstRowOfWarp(n) >= kMaxMiniBatch) break;
      float gradient[S::kPairs][2] = {};
      bool is_finite = true;
      const int row = LaneRow(n);
      if (FirstRowOfWarp(n) < rows.end) {
        FindGradient(row, gradient);
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
      int row, float (&gradient)[S::kPairs][2]) const {
    float z[S::kPairs][2];
    Gather(row, z);
    const float scale = Normalise(z);
    float sum_u = 0.0f;
    float sum_uz = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      const float2 weight = NormWeight(j);
      const float2 normal = Affine(j, z[j]);
      const int channel = ChannelAt(2 * LanePair(j));
      gradient[j][0] =
          __fmul_rn(normal.x - Value(shared_.targets, row, channel), weight.x);
      gradient[j][1] =
          __fmul_rn(normal.y - Value(shared_.targets, row, channel + S::kTiles),
                    weight.y);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        sum_u += gradient[j][c];
        sum_uz = fmaf(gradient[j][c], z[j][c], sum_uz);
      }
    }
    const float rate = shared_.rates[row];
    const float mean_u = __fmul_rn(RowSum(sum_u), 1.0f / kHeadDim);
    const float mean_uz = __fmul_rn(RowSum(sum_uz), 1.0f / kHeadDim);
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
    float sums[kInnerTiles][4];
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t g[4];
      LoadRows(g, shared_.gradients, step);
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyStep(step, sums[tile], g, Turn(w2_[tile][2 * step]),
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
    uint32_t scores[4];
    FindScores(scores);
    float z[kInnerTiles][4];
    MultiplyInputs(shared_.queries, z);
    CorrectInner(scores, z);
    // Of the halves of rows that have no query, zero.
    uint32_t x[kInnerTiles][2] = {};
    const bool has_first = rows.begin < 8;
    const bool has_second = rows.end > 8;
    if (has_first) ActivateQueries(z, 0, x);
    if (has_second) ActivateQueries(z, 1, x);
    StoreScores(x);
    StoreOutputs(x, has_first, has_second);
  }

  __device__ __forceinline__ static void ActivateQueries(
      const float (&z)[kInnerTiles][4], int half,
      uint32_t (&x)[kInnerTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      x[tile][half] = PackPair(InnerActivation(z[tile][2 * half]).value,
                               InnerActivation(z[tile][2 * half + 1]).value);
    }
  }

  // q_t . k_s + 1 for s <= t, else zero: an operand A.
  __device__ __forceinline__ void FindScores(uint32_t (&a)[4]) const {
    float sums[2][4];
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t q[4], k[4];
      LoadRows(q, shared_.queries, step);
      shared_.keys.Load(k, step, lane_);
      MultiplyStep(step, sums[0], q, k[0], k[1]);
      MultiplyStep(step, sums[1], q, k[2], k[3]);
    }
    const bool has_even = 2 * quad_ <= group_;  // s <= t within eight of each
    const bool has_odd = 2 * quad_ + 1 <= group_;
    a[0] = PackPair(has_even ? sums[0][0] + 1.0f : 0.0f,
                    has_odd ? sums[0][1] + 1.0f : 0.0f);
    a[1] = PackPair(sums[0][2] + 1.0f, sums[0][3] + 1.0f);
    a[2] = 0;
    a[3] = PackPair(has_even ? sums[1][2] + 1.0f : 0.0f,
                    has_odd ? sums[1][3] + 1.0f : 0.0f);
  }

  // z_t -= tau_t sum_s a_ts times the inner gradient of s.
  __device__ __forceinline__ void CorrectInner(
      const uint32_t (&a)[4], float (&z)[kInnerTiles][4]) const {
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
        output[c] = Value(shared_.queries, row, c) + normal.x;
        output[c + S::kTiles] =
            Value(shared_.queries, row, c + S::kTiles) + normal.y;
      }
    }
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

  // P <- P - tau sum_s lr_s (input_s^T g_s, g_s), of a whole mini-batch: the
  // first layer, then a barrier, then the second, which no longer reads rows.
  // Both ask for the low halves of a tile before they keep those of the last.
  __device__ __forceinline__ void CommitInputs() {
    const float scale = TokenScale(args_.mini_batch - 1);
    if (S::kKeepsLow) WaitForCopies();
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
    if (broken_ != 0) return BreakInputs();
    uint32_t even[2][S::kRun1], odd[2][S::kRun1];
    LoadLow1(0, even[0], odd[0]);
    uint32_t k[4];
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      const int part = tile % 2;
      if (part == 0) shared_.keys.LoadTurned(k, tile / 2, lane_);
      if (tile + 1 < S::kTiles) {
        LoadLow1(tile + 1, even[1 - part], odd[1 - part]);
      }
#pragma unroll
      for (int i = 0; i < S::kRun1; ++i) {
        float sums[4];
        MultiplyInner(sums, i, k[part], k[2 + part]);
        Update(scale, sums, w1_[tile][2 * i], w1_[tile][2 * i + 1],
               even[part][i], odd[part][i]);
      }
      KeepLow1(tile, even[part], odd[part]);
    }
  }

  __device__ __forceinline__ void CommitOutputs() {
    const float scale = TokenScale(args_.mini_batch - 1);
    CommitOutputBias(scale);
    if (broken_ != 0) return BreakOutputs();
    uint32_t even[2][S::kRun2], odd[2][S::kRun2];
    LoadLow2(0, even[0], odd[0]);
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      const int part = tile % 2;
      const uint32_t x[2] = {Turn(inner_keys_[tile][0]),
                             Turn(inner_keys_[tile][1])};
      if (tile + 1 < kInnerTiles) {
        LoadLow2(tile + 1, even[1 - part], odd[1 - part]);
      }
#pragma unroll
      for (int i = 0; i < S::kRun2; ++i) {
        uint32_t g[4];
        shared_.gradients.LoadTurned(g, i, lane_);
        float sums[4];
        Multiply(sums, g, x[0], x[1]);
        Update(scale, sums, w2_[tile][2 * i], w2_[tile][2 * i + 1],
               even[part][i], odd[part][i]);
      }
      KeepLow2(tile, even[part], odd[part]);
    }
  }

  __device__ __forceinline__ void CommitOutputBias(float scale) {
    if (thread_ >= kHeadDim) return;
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kMaxMiniBatch; ++s) {
      const uint32_t pair = GradientPair(s, thread_ / 2);
      sum += thread_ % 2 == 0 ? LowOfPair(pair) : HighOfPair(pair);
    }
    shared_.bias2[thread_] = fmaf(-scale, sum, shared_.bias2[thread_]);
  }

  // The NaN of the arithmetic is not one in its high half alone.
  __device__ __forceinline__ void BreakInputs() {
    const uint32_t zero[S::kRun1] = {};
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kInnerTiles; ++i) w1_[tile][i] = kNanPair;
      KeepLow1(tile, zero, zero);
    }
  }
  __device__ __forceinline__ void BreakOutputs() {
    const uint32_t zero[S::kRun2] = {};
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i) w2_[tile][i] = kNanPair;
      KeepLow2(tile, zero, zero);
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
  __device__ __forceinline__ static void Update(float scale,
                                                const float (&sums)[4],
                                                uint32_t& first,
                                                uint32_t& second,
                                                uint32_t& even, uint32_t& odd) {
    // A value plus 0x8000 is the high half, and the low half with its first bit
    // turned.
    const uint32_t even_turned = even ^ 0x80008000u;
    const uint32_t odd_turned = odd ^ 0x80008000u;
    const uint32_t raised[4] = {LowHalves(even_turned, first),
                                __byte_perm(odd_turned, first, 0x7610),
                                __byte_perm(even_turned, second, 0x5432),
                                HighHalves(odd_turned, second)};
    float values[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[i] = fmaf(-scale, sums[i], __uint_as_float(raised[i] - 0x8000u));
    }
    first = SplitHighPair(values[0], values[1]);
    second = SplitHighPair(values[2], values[3]);
    even = SplitLowPair(values[0], values[2]);
    odd = SplitLowPair(values[1], values[3]);
  }

  // The step's rows of a mini-batch that goes on.
  __device__ __forceinline__ void KeepRows(const MiniBatchRows& rows) {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    const bool is_key = thread_ < S::kThreads / 2;
    const int unit = thread_ % kUnits;
    const int row = thread_ / kUnits % kMaxMiniBatch;
    if (row >= rows.begin && row < rows.end) {
      const int index = RowTile<kHeadDim>::Index(row, unit);
      auto* const to = reinterpret_cast<uint4*>(
          PendingRow(is_key ? args_.pending_keys : args_.pending_targets, row));
      to[unit] = (is_key ? shared_.keys : shared_.targets).units[index];
    }
    const int t = thread_;
    if (t >= rows.begin && t < rows.end) *PendingRate(t) = shared_.rates[t];
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

// grid [num_heads, batch].
template <int kHeadDim>
__global__ void __launch_bounds__(Shape<kHeadDim>::kThreads,
                                  Shape<kHeadDim>::kBlocks)
    LearnerMlpKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ uint4 memory[];
  // No kernel writes the sequences, and a hint may come before what it is for
  // has been written.
  const SequenceRows sequence = LoadSequence(args.rows, blockIdx.y);
  if (threadIdx.x == 0) PrefetchWeights<kHeadDim>(args, sequence, blockIdx.x);
  WaitForKernelsBefore();
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

// Of a multiprocessor, less what the system takes of each block.
constexpr int kMaxSharedBytes = 228 * 1024;
constexpr int kSystemSharedBytes = 1024;

template <int kHeadDim>
cudaError_t Prepare() {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  static_assert(Shape<kHeadDim>::kBlocks * (kBytes + kSystemSharedBytes) <=
                    kMaxSharedBytes,
                "as many blocks as wanted");
  if (const cudaError_t error =
          cudaFuncSetAttribute(LearnerMlpKernel<kHeadDim>,
                               cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
      error != cudaSuccess) {
    return error;
  }
  return cudaFuncSetAttribute(LearnerMlpKernel<kHeadDim>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kBytes);
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
