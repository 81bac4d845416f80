// The inner learner of two layers in bfloat16 precision, on tensor cores, for
// any rows; learner_mlp_decode.cu has the form for steps of a row a sequence.
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
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_mlp_head.cuh"
#include "kernels/cuda/learner_mlp_math.cuh"
#include "kernels/cuda/learner_tile.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

template <int kHeadDim>
struct Shape : MlpShape<kHeadDim> {
  static constexpr int kBlocks = kHeadDim < 96 ? 2 : 1;  // a multiprocessor
  // How far ahead fast weights are asked for: about as many blocks as run at
  // once.
  static constexpr int kBlocksAhead = kMultiprocessors * kBlocks;
  // Low halves stay on chip over the mini-batches of a call, if there is room.
  static constexpr bool kKeepsLow = kHeadDim < 96;
};

// What one block has in shared memory.
template <int kHeadDim>
struct Shared : MlpShared<kHeadDim> {
  using S = Shape<kHeadDim>;
  static constexpr int kLow = S::kKeepsLow ? S::kMatrix / 8 : 1;

  __device__ float Score(int warp, int row, int key) const {
    const int tile = row < 8 ? 0 : 1 + key / 8;
    return scores[warp][64 * tile + row % 8 * 8 + key % 8];
  }
  __device__ float Query(int row, int channel) const {
    return __bfloat162float(
        *static_cast<const __nv_bfloat16*>(queries.At(row, channel)));
  }

  // Low halves as the threads own them: [unit][thread].
  uint4 low1[kLow];
  uint4 low2[kLow];
  RowTile<kHeadDim> queries;
  float outputs[S::kWarps][kMaxMiniBatch * kHeadDim];
  // Of each warp, [3, 8, 8]: rows 0 to 7 with keys 0 to 7, rows 8 to 15 with
  // keys 0 to 7 and 8 to 15.
  float scores[S::kWarps][3 * 64];
};

__device__ inline void CopyAsync8(void* shared, const void* global) {
  asm volatile(
      "cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(SharedAddress(shared)),
      "l"(global)
      : "memory");
}

// One head of one sequence.
template <int kHeadDim>
class ResidentHead : MlpHead<kHeadDim, Shared<kHeadDim>> {
  using S = Shape<kHeadDim>;
  using Head = MlpHead<kHeadDim, Shared<kHeadDim>>;

 public:
  __device__ __forceinline__ ResidentHead(const LearnerArgs& args,
                                          const SequenceRows& sequence,
                                          int32_t head,
                                          Shared<kHeadDim>& shared)
      : Head(args, sequence, head, shared) {}

  __device__ __forceinline__ void Run() {
    LoadWeights();
    MiniBatchRows rows = FirstMiniBatch(sequence_, args_.mini_batch);
    const bool commits_any =
        rows.begin + sequence_.num_rows >= args_.mini_batch;
    CopyRows(rows);
    CopyConstants();
    CloseCopies();
    StoreBias2(LoadBias2());
    if (S::kKeepsLow && commits_any) CopyLow();
    if (thread_ == 0) {
      if (!S::kKeepsLow && commits_any) PrefetchLow();
      PrefetchAhead(S::kBlocksAhead);
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
      // One that is not the last is whole, and no row is pending after it.
      const int32_t first = rows.first + rows.num_added();
      const bool is_last = first == sequence_.num_rows;
      const MiniBatchRows next = {
          0, min(sequence_.num_rows - first, args_.mini_batch), first};
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
  using Head::args_;
  using Head::broken_;
  using Head::group_;
  using Head::head_;
  using Head::inner_gradients_;
  using Head::inner_keys_;
  using Head::lane_;
  using Head::quad_;
  using Head::sequence_;
  using Head::shared_;
  using Head::slopes_;
  using Head::thread_;
  using Head::warp_;

  using Head::ActivateKeys;
  using Head::Bias1;
  using Head::Bias2;
  using Head::ChannelAt;
  using Head::CommitBias1;
  using Head::CopyConstants;
  using Head::FindGradients;
  using Head::GradientPair;
  using Head::High1;
  using Head::High2;
  using Head::InnerOperands;
  using Head::KeepRows;
  using Head::LoadBias2;
  using Head::LoadKeysTurned;
  using Head::LoadRows;
  using Head::Locate;
  using Head::OutputPlace;
  using Head::PendingRate;
  using Head::PrefetchAhead;
  using Head::PrefetchLow;
  using Head::RowAt;
  using Head::RowIndex;
  using Head::Run1;
  using Head::Run2;
  using Head::StartInner;
  using Head::StoreBias2;
  using Head::SumGradients;
  using Head::TokenScale;
  using Head::WriteOutputs;

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

  // z = rows W1 + b1.
  __device__ __forceinline__ void MultiplyInputs(
      const RowTile<kHeadDim>& rows, float (&z)[kInnerTiles][4]) const {
    StartInner(z);
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

  // P <- P - tau sum_s lr_s (input_s^T g_s, g_s), of a whole mini-batch: the
  // first layer, then a barrier, then the second, which no longer reads rows.
  // Both ask for the low halves of a tile before they keep those of the last.
  __device__ __forceinline__ void CommitInputs() {
    const float scale = TokenScale(args_.mini_batch - 1);
    if (S::kKeepsLow) WaitForCopies();
    uint32_t a[S::kRun1][4];
    InnerOperands(a);
    CommitBias1(scale, a, shared_.bias1);
    if (broken_ != 0) return BreakInputs();
    uint32_t even[2][S::kRun1], odd[2][S::kRun1];
    LoadLow1(0, even[0], odd[0]);
    uint32_t k[4];
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      const int part = tile % 2;
      if (part == 0) LoadKeysTurned(k, tile / 2);
      if (tile + 1 < S::kTiles) {
        LoadLow1(tile + 1, even[1 - part], odd[1 - part]);
      }
#pragma unroll
      for (int i = 0; i < S::kRun1; ++i) {
        float sums[4];
        Multiply(sums, a[i], k[2 * part], k[2 * part + 1]);
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
    shared_.bias2[thread_] =
        fmaf(-scale, SumGradients(thread_), shared_.bias2[thread_]);
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

  // High halves: operands B of the products with keys, queries and inner
  // activations. w1_[tile of head_dim][inner tile], pairs along head_dim;
  // w2_[inner tile][output tile], pairs along the inner channels.
  uint32_t w1_[S::kTiles][kInnerTiles];
  uint32_t w2_[kInnerTiles][S::kTiles];
};

// grid [num_heads, batch].
template <int kHeadDim>
__global__ void __launch_bounds__(Shape<kHeadDim>::kThreads,
                                  Shape<kHeadDim>::kBlocks)
    LearnerMlpKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ uint4 memory[];
  // A hint may come before what it is for has been written.
  const SequenceRows sequence = LoadSequence(args.rows, blockIdx.y);
  if (threadIdx.x == 0) PrefetchWeights<kHeadDim>(args, sequence, blockIdx.x);
  WaitForKernelsBefore();
  if (sequence.num_rows == 0) return;
  ResidentHead<kHeadDim>(args, sequence, blockIdx.x,
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
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  static_assert(MlpBlocksFit(Shape<kHeadDim>::kBlocks, kBytes),
                "as many blocks as wanted");
  return PrepareMlpKernel(LearnerMlpKernel<kHeadDim>, kBytes);
}

}  // namespace

cudaError_t LaunchLearnerMlp(const LearnerArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  if (args.rows.num_rows <= args.rows.batch) {
    return LaunchLearnerMlpDecode(args, stream);
  }
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
  for (cudaError_t (*prepare)() :
       {Prepare<32>, Prepare<64>, Prepare<96>, PrepareLearnerMlpDecode}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
