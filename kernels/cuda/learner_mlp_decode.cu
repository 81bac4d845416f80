// The inner learner of two layers for steps of a row a sequence: the bits of
// learner_mlp.cu, bound by the reading of the high halves.
//
// A block owns a head of a sequence. The high halves come to shared memory, so
// that a block holds few registers and another one's weights come while this
// one computes. The query stands in the tile of the keys, in the row after the
// last, and what it gives with W1 comes of the keys' product; where the step
// ends the mini-batch it has a product of its own. From the inner activation on
// its row is in all rows of its operands. Sequences may have more rows: they
// are read one after the other.
//
// The state of a head is read before the kernels before have ended: no op of
// the step but this one writes it.
#include <utility>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_mlp_head.cuh"
#include "kernels/cuda/learner_mlp_math.cuh"
#include "kernels/cuda/learner_projected.cuh"
#include "kernels/cuda/learner_tile.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

template <int kHeadDim>
struct Shape : MlpShape<kHeadDim> {
  // A multiprocessor, by shared memory; with head_dim 32 by registers.
  static constexpr int kBlocks = kHeadDim == 32 ? 5 : kHeadDim == 64 ? 3 : 1;
  // How far ahead fast weights are asked for: fewer blocks than run at once, so
  // that they come soon and do not fill the L2 cache.
  static constexpr int kBlocksAhead = kMultiprocessors * (kBlocks == 1 ? 1 : 2);
  static constexpr int kUnits = RowTile<kHeadDim>::kUnits;
};

// What one block has in shared memory.
template <int kHeadDim>
struct Shared : MlpShared<kHeadDim> {
  using S = Shape<kHeadDim>;

  __device__ float Score(int warp, int /*row*/, int key) const {
    return scores[warp][key];
  }
  __device__ float Query(int /*row*/, int channel) const {
    return __bfloat162float(
        reinterpret_cast<const __nv_bfloat16*>(query)[channel]);
  }

  // Each warp's columns of W1, [head_dim, 32], two rows in 128 bytes, in units
  // that are permuted by W1Place; and when these have been read, its outputs.
  union {
    uint4 w1[S::kWarps][kHeadDim * kWarpInner / 8];
    float outputs[S::kWarps][kMaxMiniBatch * kHeadDim];
  };
  // Its rows of W2, [32, head_dim], a unit free after every four.
  uint4 w2[S::kWarps][kWarpInner * S::kUnits + kWarpInner / 4];
  // The query's scores: of the first layer as an operand A, by lane % 4, and
  // then of the second.
  union {
    uint4 inner_scores[S::kWarps][4];
    float scores[S::kWarps][kMaxMiniBatch];
  };
  // Its inner channels: sums by lane % 4 and inner tile, and then activations
  // as two operands A, by lane % 4.
  float4 inner_query[S::kWarps][kWarpInner / 4];
  uint4 query[S::kUnits];
  SequenceRows rest;  // after the row that is read
};

// The place of unit `unit` of row `row` of a warp's columns of W1: none of the
// rows 2q or 2q + 1 of eight meets another in a bank, nor two warps in a row.
__device__ constexpr int W1Place(int row, int unit, int warp) {
  return row / 2 * 8 +
         ((row % 2 * 4 + unit) ^ (row / 2 % 4 * 2) ^ (warp % 2 * 4));
}

// CopyAsync16 of what stands so many bytes behind the addresses.
template <int kTo, int kFrom>
__device__ __forceinline__ void CopyUnit(uint32_t to, const void* from) {
  asm volatile(
      "cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16;\n" ::"r"(to),
      "l"(from), "n"(kTo), "n"(kFrom)
      : "memory");
}

// One head of one sequence. kIsProjected: makes its rows of the projections.
template <int kHeadDim, bool kIsProjected>
class StreamedHead : MlpHead<kHeadDim, Shared<kHeadDim>> {
  using S = Shape<kHeadDim>;
  using Head = MlpHead<kHeadDim, Shared<kHeadDim>>;

 public:
  // `inputs` is read if kIsProjected.
  __device__ __forceinline__ StreamedHead(const LearnerArgs& args,
                                          const LearnerInputsArgs* inputs,
                                          const SequenceRows& sequence,
                                          int32_t head,
                                          Shared<kHeadDim>& shared)
      : Head(args, sequence, head, shared), inputs_(inputs) {}

  // Waits for the kernels before, and reads the first row of the sequence;
  // num_rows > 0.
  __device__ __forceinline__ void Run() {
    CopyW1(std::make_integer_sequence<int, S::kTiles>());
    // Most are powers of two; a division takes long, and the rows wait.
    const int32_t last = args_.mini_batch - 1;
    const auto begin = static_cast<int32_t>(
        (args_.mini_batch & last) == 0 ? sequence_.position & last
                                       : sequence_.position % args_.mini_batch);
    ReadRow({begin, begin + 1, 0});
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
  using Head::PendingRow;
  using Head::PrefetchAhead;
  using Head::PrefetchLow;
  using Head::RowIndex;
  using Head::Run1;
  using Head::Run2;
  using Head::StartInner;
  using Head::StoreBias2;
  using Head::SumGradients;
  using Head::TokenScale;
  using Head::Weights;
  using Head::WriteOutputs;

  __device__ __forceinline__ bool Commits(const MiniBatchRows& rows) const {
    return rows.end == args_.mini_batch;
  }

  __device__ __forceinline__ void ReadRow(const MiniBatchRows& rows) {
    Locate();
    const float bias2 = LoadBias2();
    const float rate =
        int(thread_) < rows.begin ? __ldcg(PendingRate(thread_)) : 0.0f;
    CopyPendingRows(rows);
    CopyConstants();
    CloseCopies();
    CopyW2(std::make_integer_sequence<int, S::kUnits>());
    CloseCopies();
    if constexpr (kIsProjected) {
      MakeRow(rows);
    } else {
      LoadRow(rows);
    }
    // Now that they have come; before, the row would wait for them too.
    StoreBias2(bias2);
    if (thread_ < kMaxMiniBatch && int(thread_) != rows.begin) {
      shared_.rates[thread_] = rate;
    }
    Locate();
    if (thread_ == S::kThreads / 2) {  // Of a warp that brings nothing above.
      if (Commits(rows)) PrefetchLow();
      PrefetchAhead(S::kBlocksAhead);
    }
    WaitForAllCopiesButOne();
    __syncthreads();
    Locate();
    ReadInputs(rows);
    Locate();
    WaitForCopies();
    __syncwarp();  // W2 has come, and W1 been read.
    Locate();
    const uint32_t x[2][4] = {{inner_keys_[0][0], inner_keys_[0][1],
                               inner_keys_[1][0], inner_keys_[1][1]},
                              {inner_keys_[2][0], inner_keys_[2][1],
                               inner_keys_[3][0], inner_keys_[3][1]}};
    StoreOutputs(x, group_, group_ < rows.end, group_ + 8 < rows.end);
    __syncthreads();
    Locate();
    FindGradients(rows);
    __syncthreads();
    Locate();
    ReadQuery(rows);
    __syncthreads();
    Locate();
    WriteOutputs(rows);
    Locate();
    if (!Commits(rows)) return KeepRows(rows);
    CommitInputs();
    CommitOutputs();
  }

  // Starts to copy what is pending of the mini-batch. What is not there becomes
  // zero, but for the places of the step's row.
  __device__ __forceinline__ void CopyPendingRows(const MiniBatchRows& rows) {
    static_assert(2 * kMaxMiniBatch * S::kUnits == S::kThreads,
                  "a thread a unit of keys or of targets");
    const bool is_key = thread_ < S::kThreads / 2;
    const int unit = thread_ % S::kUnits;
    const int row = thread_ / S::kUnits % kMaxMiniBatch;
    uint4& to = (is_key ? shared_.keys : shared_.targets)
                    .units[RowTile<kHeadDim>::Index(row, unit)];
    if (row < rows.begin) {
      const StatePlane& plane =
          is_key ? args_.pending_keys : args_.pending_targets;
      CopyAsync16(&to, PendingRow(plane, row) + 8 * unit, true);
    } else if (row > rows.begin && !(is_key && IsQueryRow(rows, row))) {
      to = {0, 0, 0, 0};
    }
  }
  // Of the tile of the keys.
  __device__ bool IsQueryRow(const MiniBatchRows& rows, int row) const {
    return row == rows.end && !Commits(rows);
  }

  // The step's row, after the kernels before: a thread a unit.
  __device__ __forceinline__ void LoadRow(const MiniBatchRows& rows) {
    constexpr int kUnits = S::kUnits;
    const int t = thread_;
    const int64_t added = RowIndex(0);
    const Operand& from = t < kUnits       ? args_.keys
                          : t < 2 * kUnits ? args_.targets
                                           : args_.queries;
    const int unit = t % kUnits;
    const uint4* const row =
        static_cast<const uint4*>(from.data) + added * kUnits + unit;
    OnlyWaitForKernelsBefore();
    if (t < 3 * kUnits) {
      const uint4 words = __ldcg(row);
      RowTile<kHeadDim>& to =
          t < kUnits || t >= 2 * kUnits ? shared_.keys : shared_.targets;
      if (t < 2 * kUnits) {
        to.units[RowTile<kHeadDim>::Index(rows.begin, unit)] = words;
      } else {
        shared_.query[unit] = words;
        if (!Commits(rows)) {
          to.units[RowTile<kHeadDim>::Index(rows.end, unit)] = words;
        }
      }
    } else if (t == S::kThreads - 1) {
      shared_.rates[rows.begin] = __ldcg(args_.rates + added);
    }
  }
  // The same, of the projections: a thread a pair of channels.
  __device__ __forceinline__ void MakeRow(const MiniBatchRows& rows) {
    using Pair = ProjectedPair<kHeadDim>;
    static_assert(Pair::kThreads < S::kThreads);
    if (thread_ < Pair::kThreads) {
      Pair pair(*inputs_, sequence_, head_, rows.begin, thread_);
      OnlyWaitForKernelsBefore();
      const typename Pair::Words made = pair.Make();
      const int channel = pair.channel();
      if (pair.is_key()) {
        Word(shared_.keys.At(rows.begin, channel)) = made.row;
        Word(shared_.targets.At(rows.begin, channel)) = made.target;
      } else {
        reinterpret_cast<uint32_t*>(shared_.query)[channel / 2] = made.row;
        if (!Commits(rows)) {
          Word(shared_.keys.At(rows.end, channel)) = made.row;
        }
      }
      pair.ReplaceTail();
    } else {
      const float* const logit = inputs_->projections +
                                 sequence_.first_row * inputs_->row_stride +
                                 inputs_->rate_offset + head_;
      const float bias = __ldcg(inputs_->rate_bias + head_);
      OnlyWaitForKernelsBefore();
      if (thread_ == S::kThreads - 1) {
        shared_.rates[rows.begin] =
            LearningRate(inputs_->base_lr, __ldcg(logit), bias, kHeadDim);
      }
    }
  }

  // Eight rows at a time, of all warps.
  template <int... kTile>
  __device__ __forceinline__ void CopyW1(
      std::integer_sequence<int, kTile...> /*tiles*/) {
    constexpr int kUnitsOfRow = S::kInner / 8;
    const int unit = thread_ % kUnitsOfRow;
    const int row = thread_ / kUnitsOfRow;
    const int warp = unit / 4;
    const uint16_t* const from = Weights(args_.w1) + 8 * thread_;
    const uint32_t to =
        SharedAddress(shared_.w1[warp] + W1Place(row, unit % 4, warp));
    (CopyUnit<512 * kTile, 16 * S::kInner * kTile>(to, from), ...);
  }
  // A warp its own.
  template <int... kPart>
  __device__ __forceinline__ void CopyW2(
      std::integer_sequence<int, kPart...> /*parts*/) {
    constexpr int kFour = 4 * S::kUnits;  // units of four rows
    const uint16_t* const from =
        Weights(args_.w2) + warp_ * (kWarpInner * kHeadDim) + 8 * lane_;
    (CopyUnit<0, 16 * kWarpSize * kPart>(
         SharedAddress(shared_.w2[warp_] + lane_ + kWarpSize * kPart +
                       (lane_ + kWarpSize * kPart) / kFour),
         from),
     ...);
  }

  // Of the warp's rows of W2, where row `row` begins.
  __device__ const std::byte* W2Row(int row) const {
    return reinterpret_cast<const std::byte*>(shared_.w2[warp_] +
                                              row * S::kUnits + row / 4);
  }

  // z = rows W1 + b1, and the products of the rows with the keys. load(a, step)
  // gives their operand A.
  template <typename Load>
  __device__ __forceinline__ void MultiplyInputs(
      Load load, float (&z)[kInnerTiles][4], float (&products)[2][4]) const {
    StartInner(z);
    // Of the runs of four channels of row 2 quad + odd.
    const uint2* runs[2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      runs[odd] =
          reinterpret_cast<const uint2*>(
              shared_.w1[warp_] + W1Place(2 * quad_ + odd, group_ / 2, warp_)) +
          group_ % 2;
    }
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t a[4], k[4];
      load(a, step);
      shared_.keys.Load(k, step, lane_);
      MultiplyStep(step, products[0], a, k[0], k[1]);
      MultiplyStep(step, products[1], a, k[2], k[3]);
      uint32_t w[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint2 even = runs[0][64 * (2 * step + i)];
        const uint2 odd = runs[1][64 * (2 * step + i)];
        w[i][0] = even.x;
        w[i][1] = even.y;
        w[i][2] = odd.x;
        w[i][3] = odd.y;
        PairRuns(w[i]);
      }
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        MultiplyAdd(z[tile], a, w[0][tile], w[1][tile]);
      }
    }
  }

  // The first layer.
  __device__ __forceinline__ void ReadInputs(const MiniBatchRows& rows) {
    float z[kInnerTiles][4];
    float products[2][4];
    if (Commits(rows)) {
      MultiplyInputs(
          [&](uint32_t(&a)[4], int step) {
            LoadMatrices(a, shared_.query + 2 * step + lane_ / 16);
          },
          z, products);
      KeepQuery(rows, z, products);
    }
    MultiplyInputs(
        [&](uint32_t(&a)[4], int step) { LoadRows(a, shared_.keys, step); }, z,
        products);
    if (!Commits(rows)) KeepQuery(rows, z, products);
    ActivateKeys(z, 0);
    if (rows.end > 8) {
      ActivateKeys(z, 1);
    } else {
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
        inner_keys_[tile][1] = 0;
        slopes_[tile][2] = slopes_[tile][3] = 0.0f;
      }
    }
  }

  // Keeps of the query the inner channels, before their correction, and the
  // scores: q . k_s + 1 for the keys s that there are, else zero.
  __device__ __forceinline__ void KeepQuery(const MiniBatchRows& rows,
                                            const float (&z)[kInnerTiles][4],
                                            const float (&products)[2][4]) {
    if ((rows.end & 8) == 0) {
      KeepQueryOf<0>(rows, z, products);
    } else {
      KeepQueryOf<1>(rows, z, products);
    }
  }
  template <int kHalf>
  __device__ __forceinline__ void KeepQueryOf(const MiniBatchRows& rows,
                                              const float (&z)[kInnerTiles][4],
                                              const float (&products)[2][4]) {
    constexpr int kFirst = 2 * kHalf;
    if (!HasQuery(rows)) return;
    uint32_t scores[2];
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      const int key = 8 * keys + 2 * quad_;
      const float even = products[keys][kFirst] + 1.0f;
      const float odd = products[keys][kFirst + 1] + 1.0f;
      scores[keys] = PackPair(key < rows.end ? even : 0.0f,
                              key + 1 < rows.end ? odd : 0.0f);
    }
    shared_.inner_scores[warp_][quad_] = {scores[0], 0, scores[1], 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      shared_.inner_query[warp_][2 * quad_ + i] = {
          z[2 * i][kFirst], z[2 * i][kFirst + 1], z[2 * i + 1][kFirst],
          z[2 * i + 1][kFirst + 1]};
    }
  }

  // Whether the lane's rows of a sum tile hold the query's, of the tile of the
  // keys; of a tile of the query alone all do.
  __device__ bool HasQuery(const MiniBatchRows& rows) const {
    return group_ == (rows.end & 7);
  }

  // What the warp's inner channels give of the output, of operands A of inner
  // tiles 0 and 1, and 2 and 3: for row `row`, and the one eight rows after, if
  // they are wanted.
  __device__ __forceinline__ void StoreOutputs(const uint32_t (&x)[2][4],
                                               int row, bool has_first,
                                               bool has_second) {
    static_assert(kInnerTiles == 4, "as many words as output tiles at a time");
    // Two words of each run at a time, in runs of 16 bytes not the same ones in
    // all lanes: those of the columns 2, 3, 6 and 7 begin with the last.
    constexpr int kParts = S::kRun2 / 2;
    constexpr int kTurn = kParts == 2 ? 1 : 0;
    const std::byte* const runs = W2Row(8 * quad_) + 2 * S::kTiles * group_;
    float* const to = shared_.outputs[warp_] + row * kHeadDim + 2 * quad_;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int own = part ^ (group_ / 2 & kTurn);
      uint32_t w[kInnerTiles][4];
#pragma unroll
      for (int tile = 0; tile < kInnerTiles; ++tile) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const uint2 words = *reinterpret_cast<const uint2*>(
              runs + 16 * (S::kUnits * (4 * odd + tile) + odd) + 8 * own);
          w[tile][2 * odd] = words.x;
          w[tile][2 * odd + 1] = words.y;
        }
        PairRuns(w[tile]);
      }
      float* const place = to + 32 * (part ^ (quad_ & kTurn));
#pragma unroll
      for (int tile = 0; tile < 4; ++tile) {
        float sums[4];
        Multiply(sums, x[0], w[0][tile], w[1][tile]);
        MultiplyAdd(sums, x[1], w[2][tile], w[3][tile]);
        auto* const pair =
            reinterpret_cast<float2*>(place + OutputPlace(row, tile));
        if (has_first) *pair = {sums[0], sums[1]};
        if (has_second) pair[4 * kHeadDim] = {sums[2], sums[3]};
      }
    }
  }

  // Gradients of the inner channels, times the rates: operands [rows, inner]
  // turned.
  __device__ __forceinline__ void FindInnerGradients(
      const MiniBatchRows& rows) {
    const uint32_t unused = broken_ | ~((1u << rows.end) - 1);
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      // Of the columns 2 quad and 2 quad + 1 of all output tiles, in the row
      // that is column `group` of the inner tile.
      uint32_t w[S::kTiles];
      LoadRun(W2Row(4 * group_) + 4 * S::kTiles * quad_ + 16 * S::kUnits * tile,
              w);
      PairRuns(w);
      float sums[4];
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        // Again for each tile: those of all steps would not fit into registers.
        uint32_t g[4];
        LoadRows(g, shared_.gradients, step);
        MultiplyStep(step, sums, g, w[2 * step], w[2 * step + 1]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t& gradients = inner_gradients_[tile][half];
        gradients = 0;
        if (half == 1 && rows.end <= 8) continue;
        const float even = sums[2 * half] * slopes_[tile][2 * half];
        const float odd = sums[2 * half + 1] * slopes_[tile][2 * half + 1];
        const bool is_unused = (unused >> (group_ + 8 * half) & 1) != 0;
        gradients = Turn(is_unused ? 0 : PackPair(even, odd));
      }
    }
  }

  // The second layer of the query.
  __device__ __forceinline__ void ReadQuery(const MiniBatchRows& rows) {
    broken_ = __ballot_sync(kAllLanes,
                            shared_.is_broken[lane_ % kMaxMiniBatch] != 0) &
              0xffffu;
    FindInnerGradients(rows);
    CorrectInner(rows);
    uint32_t x[2][4];
    ActivateQuery(x);
    StoreScores(x);
    // Its row takes the place of that of its key.
    StoreOutputs(x, rows.begin, group_ == 0, false);
  }

  // z -= tau sum_s score_s times the inner gradient of s.
  __device__ __forceinline__ void CorrectInner(const MiniBatchRows& rows) {
    const float scale = TokenScale(rows.begin);
    uint32_t a[4];
    LoadWords(&shared_.inner_scores[warp_][quad_], a);
    float sums[kInnerTiles][4];
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      Multiply(sums[tile], a, inner_gradients_[tile][0],
               inner_gradients_[tile][1]);
    }
    if (!HasQuery(rows)) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float4& z = shared_.inner_query[warp_][2 * quad_ + i];
      z = {fmaf(-scale, sums[2 * i][0], z.x), fmaf(-scale, sums[2 * i][1], z.y),
           fmaf(-scale, sums[2 * i + 1][0], z.z),
           fmaf(-scale, sums[2 * i + 1][1], z.w)};
    }
  }

  // A lane a channel. Of the operands A the first rows are the query's, and the
  // others, whose products nobody reads, have the other operand's tiles: as a
  // vector comes from shared memory, so it is an operand.
  __device__ __forceinline__ void ActivateQuery(uint32_t (&x)[2][4]) {
    static_assert(kInnerTiles == 4, "two operands of two tiles");
    float4* const all = shared_.inner_query[warp_];
    __syncwarp();
    const float z = reinterpret_cast<const float*>(all)[lane_];
    __syncwarp();
    const __nv_bfloat16 value = __float2bfloat16_rn(InnerActivation(z).value);
    // Tiles 0, 2, 1, 3 and 2, 0, 3, 1.
    const int tile = lane_ / 2 % 4;
    const int place = 2 * (tile % 2) + tile / 2;
    auto* const to =
        reinterpret_cast<__nv_bfloat16*>(all) + lane_ / 8 * 16 + lane_ % 2;
    to[2 * place] = value;
    to[8 + 2 * (place ^ 1)] = value;
    __syncwarp();
    LoadWords(all + 2 * quad_, x[0]);
    LoadWords(all + 2 * quad_ + 1, x[1]);
  }

  __device__ __forceinline__ void StoreScores(const uint32_t (&x)[2][4]) {
#pragma unroll
    for (int keys = 0; keys < 2; ++keys) {
      float sums[4];
      Multiply(sums, x[0], inner_keys_[0][keys], inner_keys_[1][keys]);
      MultiplyAdd(sums, x[1], inner_keys_[2][keys], inner_keys_[3][keys]);
      if (group_ == 0) {
        auto* const to = reinterpret_cast<float2*>(shared_.scores[warp_]);
        to[4 * keys + quad_] = {sums[0], sums[1]};
      }
    }
  }

  // P <- P - tau sum_s lr_s (input_s^T g_s, g_s), of a whole mini-batch: the
  // first layer, then the second. Other warps still read the biases.
  __device__ __forceinline__ void CommitInputs() {
    const float scale = TokenScale(args_.mini_batch - 1);
    uint32_t a[S::kRun1][4];
    InnerOperands(a);
    CommitBias1(scale, a, Bias1());
    // All tiles at once would not fit into registers.
#pragma unroll 1
    for (int step = 0; step < S::kSteps; ++step) {
      uint32_t k[4];
      LoadKeysTurned(k, step);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int tile = 2 * step + part;
        CommitRuns<S::kRun1>(
            scale, High1() + Run1(tile, 0), High1() + Run1(tile, 1),
            [&](int i, float(&sums)[4]) {
              Multiply(sums, a[i], k[2 * part], k[2 * part + 1]);
            });
      }
    }
  }
  __device__ __forceinline__ void CommitOutputs() {
    const float scale = TokenScale(args_.mini_batch - 1);
    if (thread_ < kHeadDim) {
      Bias2()[ChannelAt(thread_)] =
          fmaf(-scale, SumGradients(thread_), shared_.bias2[thread_]);
    }
#pragma unroll
    for (int tile = 0; tile < kInnerTiles; ++tile) {
      const uint32_t x[2] = {Turn(inner_keys_[tile][0]),
                             Turn(inner_keys_[tile][1])};
      CommitRuns<S::kRun2>(scale, High2() + Run2(tile, 0),
                           High2() + Run2(tile, 1),
                           [&](int i, float(&sums)[4]) {
                             uint32_t g[4];
                             shared_.gradients.LoadTurned(g, i, lane_);
                             Multiply(sums, g, x[0], x[1]);
                           });
    }
  }

  // Two runs of a tile: takes scale * sums(i) from their i-th words, and makes
  // all NaN after a broken row; the NaN of the arithmetic is not one in its
  // high half alone.
  template <int kRun, typename Sums>
  __device__ __forceinline__ void CommitRuns(float scale, uint16_t* first,
                                             uint16_t* second,
                                             Sums find) const {
    uint32_t w[2 * kRun], even[kRun], odd[kRun];
    LoadRun(first, even);
    LoadRun(second, odd);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      w[i] = even[i];
      w[kRun + i] = odd[i];
    }
    PairRuns(w);
    LoadRun(first + S::kMatrix, even);
    LoadRun(second + S::kMatrix, odd);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      float sums[4];
      find(i, sums);
      Update(scale, sums, w[2 * i], w[2 * i + 1], even[i], odd[i]);
      if (broken_ != 0) {
        w[2 * i] = w[2 * i + 1] = kNanPair;
        even[i] = odd[i] = 0;
      }
    }
    StoreRun(first + S::kMatrix, even);
    StoreRun(second + S::kMatrix, odd);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      even[i] = LowHalves(w[2 * i], w[2 * i + 1]);
      odd[i] = HighHalves(w[2 * i], w[2 * i + 1]);
    }
    StoreRun(first, even);
    StoreRun(second, odd);
  }

  const LearnerInputsArgs* const inputs_;
};

// grid [num_heads, batch], both. `inputs` is read if kIsProjected.
template <int kHeadDim, bool kIsProjected>
__device__ __forceinline__ void RunStreamed(const LearnerArgs& args,
                                            const LearnerInputsArgs* inputs) {
  extern __shared__ uint4 memory[];
  LetNextKernelBegin();
  SequenceRows sequence = LoadSequence(args.rows, blockIdx.y);
  if (sequence.num_rows == 0) return OnlyWaitForKernelsBefore();
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(memory);
  while (true) {
    if (threadIdx.x == 0) {
      shared.rest = {sequence.first_row + 1, sequence.num_rows - 1,
                     sequence.slot, sequence.position + 1};
    }
    StreamedHead<kHeadDim, kIsProjected>(args, inputs, sequence, blockIdx.x,
                                         shared)
        .Run();
    sequence = shared.rest;
    if (sequence.num_rows == 0) break;
    __syncthreads();
  }
}
template <int kHeadDim>
__global__ void __launch_bounds__(Shape<kHeadDim>::kThreads,
                                  Shape<kHeadDim>::kBlocks)
    LearnerMlpDecodeKernel(const __grid_constant__ LearnerArgs args) {
  RunStreamed<kHeadDim, false>(args, nullptr);
}
template <int kHeadDim>
__global__ void __launch_bounds__(Shape<kHeadDim>::kThreads,
                                  Shape<kHeadDim>::kBlocks)
    LearnerMlpProjectedKernel(
        const __grid_constant__ LearnerOfProjectionsArgs args) {
  RunStreamed<kHeadDim, true>(args.learner, &args.inputs);
}

// `kernel` is one of the two.
template <int kHeadDim, typename Args>
cudaError_t Launch(void (*kernel)(Args), const LearnerArgs& learner,
                   const Args& args, cudaStream_t stream) {
  return LaunchOverlapped(kernel, dim3(learner.num_heads, learner.rows.batch),
                          Shape<kHeadDim>::kThreads, sizeof(Shared<kHeadDim>),
                          stream, args);
}

template <int kHeadDim>
cudaError_t Prepare() {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  static_assert(MlpBlocksFit(Shape<kHeadDim>::kBlocks, kBytes),
                "as many blocks as wanted");
  if (const cudaError_t error =
          PrepareMlpKernel(LearnerMlpDecodeKernel<kHeadDim>, kBytes);
      error != cudaSuccess) {
    return error;
  }
  return PrepareMlpKernel(LearnerMlpProjectedKernel<kHeadDim>, kBytes);
}

}  // namespace

cudaError_t LaunchLearnerMlpDecode(const LearnerArgs& args,
                                   cudaStream_t stream) {
  switch (args.head_dim) {
    case 32:
      return Launch<32>(LearnerMlpDecodeKernel<32>, args, args, stream);
    case 64:
      return Launch<64>(LearnerMlpDecodeKernel<64>, args, args, stream);
    default:
      return Launch<96>(LearnerMlpDecodeKernel<96>, args, args, stream);
  }
}

cudaError_t LaunchLearnerMlpOfProjections(const LearnerOfProjectionsArgs& args,
                                          cudaStream_t stream) {
  switch (args.learner.head_dim) {
    case 32:
      return Launch<32>(LearnerMlpProjectedKernel<32>, args.learner, args,
                        stream);
    case 64:
      return Launch<64>(LearnerMlpProjectedKernel<64>, args.learner, args,
                        stream);
    default:
      return Launch<96>(LearnerMlpProjectedKernel<96>, args.learner, args,
                        stream);
  }
}

cudaError_t PrepareLearnerMlpDecode() {
  for (cudaError_t (*prepare)() : {Prepare<32>, Prepare<64>, Prepare<96>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
