#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_tile.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr uint32_t kPairOfOnes = 0x3f803f80;

// Items are heads of sequences. An item has kWarps warps, each of which owns
// some tiles of 16 outputs; sums over outputs are in the same order for every
// kWarps. Resident: the fast weights stay in registers while the rows go by;
// else each mini-batch reads its high halves, and what commits the low ones.
template <int kHeadDim, int kWarps, bool kIsResident>
struct Form {
  static constexpr int kTiles = kHeadDim / kOutputsOfTile;  // of the head
  static constexpr int kOwnTiles = kTiles / kWarps;
  static constexpr int kSteps = kHeadDim / 16;  // of 16 inputs
  // Tiles of which a lane's outputs are adjacent in memory: 16 or 8 bytes of
  // high halves.
  static constexpr int kTilesOfUnit = kHeadDim % 64 == 0 ? 4 : 2;
  static constexpr int kWords =
      kOwnTiles < kTilesOfUnit ? kOwnTiles : kTilesOfUnit;  // of one load
  static constexpr int kLoads = kOwnTiles / kWords;   // of one row of weights
  static constexpr int kItems = kWarps == 1 ? 2 : 1;  // of a block
  static constexpr int kItemThreads = kWarps * kWarpSize;
  static constexpr int kThreads = kItems * kItemThreads;
  // Registers of a thread: at most 65,536 / (kThreads * kBlocks).
  static constexpr int kBlocks = kWarps == 1 ? 6 : kHeadDim == 64 ? 4 : 2;
  static_assert(kOwnTiles % kWords == 0 && kTilesOfUnit % kWords == 0,
                "a load is of one unit, a warp of whole ones or of one");
  static_assert(kWarps > 1 || !kIsResident, "barriers are those of exchanges");
};

// The arrays of one item in shared memory.
template <typename F, int kHeadDim, int kWarps, bool kIsResident>
struct Item {
  // Rows of one mini-batch; the queries are the step's alone.
  struct Stage {
    RowTile<kHeadDim> keys;
    RowTile<kHeadDim> targets;
    RowTile<kHeadDim> queries;
    float rates[kMaxMiniBatch];
  };
  Stage stages[kIsResident ? 2 : 1];
  float norm[2][kHeadDim];               // weight, bias
  float token_scale[2 * kMaxMiniBatch];  // zero beyond the mini-batch
  // What the warps show each other: of each column of a lane, two values of a
  // tile; and what they make of them, of each row.
  float2 shown[kColumns][F::kTiles][kWarps == 1 ? 1 : kWarpSize];
  float4 of_rows[kMaxMiniBatch / 2];
};

template <int kHeadDim, int kWarps, bool kIsResident>
class LinearHead {
  using F = Form<kHeadDim, kWarps, kIsResident>;
  static constexpr int kOwnTiles = F::kOwnTiles;
  static constexpr int kSteps = F::kSteps;
  static constexpr int kWords = F::kWords;
  static constexpr int kLoads = F::kLoads;
  static constexpr int kOutputsOfLane = kHeadDim / 8;

 public:
  using Shared = Item<F, kHeadDim, kWarps, kIsResident>;

  // Begins to read what no kernel writes.
  __device__ LinearHead(const LearnerArgs& args, int32_t head, int thread,
                        Shared& shared)
      : args_(args),
        head_(head),
        thread_(thread),
        lane_(thread % kWarpSize),
        first_tile_(thread / kWarpSize * kOwnTiles),
        first_output_(
            first_tile_ / F::kTilesOfUnit * kOutputsOfTile * F::kTilesOfUnit +
            g() * 2 * F::kTilesOfUnit + first_tile_ % F::kTilesOfUnit * 2),
        shared_(shared) {
    if (thread < 2 * kMaxMiniBatch) {
      CopyAsync4(&shared.token_scale[thread], args.token_scale + thread,
                 thread < args.mini_batch);
    }
    constexpr int kUnits = kHeadDim / 4;  // of 4 floats
    if (thread < 2 * kUnits) {
      const float* const from =
          thread < kUnits ? args.norm_weight : args.norm_bias;
      CopyAsync16(&shared.norm[thread / kUnits][thread % kUnits * 4],
                  from + int64_t{head} * kHeadDim + thread % kUnits * 4, true);
    }
  }

  __device__ void Run(const SequenceRows& sequence) {
    sequence_ = sequence;
    weights_ = Weights() + 2 * q() * kHeadDim + first_output_;

    if constexpr (kIsResident) {
      RunResident();
    } else {
      RunStreamed();
    }
  }

 private:
  using Stage = typename Shared::Stage;

  __device__ static void Barrier() {
    if constexpr (kWarps == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  __device__ int g() const { return lane_ / 4; }
  __device__ int q() const { return lane_ % 4; }
  // The first of the outputs of this lane that load `load` brings: 2 kWords
  // adjacent ones, two of each tile.
  __device__ int OutputOf(int load) const {
    return first_output_ + load * kOutputsOfTile * F::kTilesOfUnit;
  }
  // From weights_. Of inputs 16 step + 8 part + 2q + odd; see OutputOf.
  __device__ static constexpr int WeightOffset(int load, int step, int part,
                                               int odd) {
    return (16 * step + 8 * part + odd) * kHeadDim +
           load * kOutputsOfTile * F::kTilesOfUnit;
  }
  // In values, of row `row` of the sequence.
  __device__ int64_t RowOffset(int32_t row) const {
    return ((int64_t{sequence_.first_row} + row) * args_.num_heads + head_) *
           kHeadDim;
  }

  __device__ static void LoadFloats(const float* from, int load,
                                    float (&to)[kOwnTiles][2]) {
    uint32_t words[2 * kWords];
    LoadWords(from, words);
#pragma unroll
    for (int i = 0; i < 2 * kWords; ++i) {
      to[load * kWords + i / 2][i % 2] = __uint_as_float(words[i]);
    }
  }

  __device__ void LoadNorm(float (&weight)[kOwnTiles][2],
                           float (&bias)[kOwnTiles][2]) const {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      LoadFloats(shared_.norm[0] + OutputOf(load), load, weight);
      LoadFloats(shared_.norm[1] + OutputOf(load), load, bias);
    }
  }
  __device__ void LoadBias() {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      LoadFloats(Bias() + OutputOf(load), load, bias_);
    }
  }
  __device__ void SaveBias() {
    if (q() != 0) return;
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      uint32_t words[2 * kWords];
#pragma unroll
      for (int i = 0; i < 2 * kWords; ++i) {
        words[i] = __float_as_uint(bias_[load * kWords + i / 2][i % 2]);
      }
      StoreWords(Bias() + OutputOf(load), words);
    }
  }

  __device__ void RunResident() {
    MiniBatchRows rows = FirstMiniBatch(sequence_, args_.mini_batch);
    CopyRows(rows, 0);
    LoadBias();
    LoadResident(rows.end == args_.mini_batch);
    WaitForCopies();
    Barrier();
    for (int stage = 0;; stage ^= 1) {
      const MiniBatchRows next =
          NextMiniBatch(rows, sequence_.num_rows, args_.mini_batch);
      const bool goes_on = next.first < sequence_.num_rows;
      if (goes_on) CopyRows(next, stage ^ 1);
      if (rows.num_added() <= 8) {
        RunMiniBatch<1>(rows, stage);
      } else {
        RunMiniBatch<2>(rows, stage);
      }
      if (!goes_on) break;
      rows = next;
    }
    if (rows.first > 0 || rows.end == args_.mini_batch) {
      SaveResident();
      SaveBias();
    }
  }
  // A mini-batch goes by in parts.
  __device__ void RunStreamed() {
    MiniBatchRows rows = FirstMiniBatch(sequence_, args_.mini_batch);
    while (true) {
      // The compiler would keep addresses of the slot in registers, for which
      // there is no room.
      asm volatile("" : "+r"(sequence_.slot));
      rows.end = min(rows.end, rows.begin + 8);
      RunMiniBatch<1>(rows, 0);
      rows = NextMiniBatch(rows, sequence_.num_rows, args_.mini_batch);
      if (rows.first >= sequence_.num_rows) break;
      Barrier();
    }
  }

  // Of this head in its slot; the weights' high halves, then the low ones.
  __device__ uint16_t* Weights() const {
    return SlotOf<uint16_t>(args_.w1, sequence_.slot) +
           int64_t{head_} * 2 * kHeadDim * kHeadDim;
  }
  __device__ float* Bias() const {
    return SlotOf<float>(args_.b1, sequence_.slot) + head_ * int64_t{kHeadDim};
  }
  __device__ int64_t PendingOffset() const {
    return int64_t{head_} * (args_.mini_batch - 1);
  }
  __device__ __nv_bfloat16* PendingRows(const StatePlane& plane) const {
    return SlotOf<__nv_bfloat16>(plane, sequence_.slot) +
           PendingOffset() * kHeadDim;
  }
  __device__ float* PendingRates() const {
    return SlotOf<float>(args_.pending_rates, sequence_.slot) + PendingOffset();
  }

  // Starts to copy the rows of a mini-batch; keys and targets beyond them
  // become zero. Queries beyond them hold anything, which stays in their
  // columns.
  __device__ void CopyRows(const MiniBatchRows& rows, int stage) {
    using Tile = RowTile<kHeadDim>;
    Stage& to = shared_.stages[stage];
    for (int i = thread_; i < kMaxMiniBatch * Tile::kUnits;
         i += F::kItemThreads) {
      const int row = i / Tile::kUnits;
      const int unit = i % Tile::kUnits;
      const int at = Tile::Index(row, unit);
      if (row < rows.begin) {
        const int from = row * kHeadDim + unit * 8;
        CopyAsync16(&to.keys.units[at], PendingRows(args_.pending_keys) + from,
                    true);
        CopyAsync16(&to.targets.units[at],
                    PendingRows(args_.pending_targets) + from, true);
      } else if (row < rows.end) {
        const int added = row - rows.begin;
        const int64_t from = RowOffset(rows.first + added) + unit * 8;
        CopyAsync16(&to.keys.units[at], Rows(args_.keys) + from, true);
        CopyAsync16(&to.targets.units[at], Rows(args_.targets) + from, true);
        CopyAsync16(&to.queries.units[Tile::Index(added, unit)],
                    Rows(args_.queries) + from, true);
      } else {
        to.keys.units[at] = to.targets.units[at] = {0, 0, 0, 0};
      }
    }
    if (thread_ < kMaxMiniBatch) {
      const int row = thread_;
      const int32_t added = sequence_.first_row + rows.first + row - rows.begin;
      const float* const rate =
          row < rows.begin || row >= rows.end
              ? PendingRates() + row
              : args_.rates + int64_t{added} * args_.num_heads + head_;
      CopyAsync4(&to.rates[row], rate, row < rows.end);
    }
  }
  __device__ static const __nv_bfloat16* Rows(const Operand& rows) {
    return static_cast<const __nv_bfloat16*>(rows.data);
  }

  // The low halves only if a commit needs them.
  __device__ void LoadResident(bool commits) {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int from = WeightOffset(load, step, i / 2, i % 2);
          uint32_t high[kWords];
          uint32_t low[kWords] = {};
          LoadWords(weights_ + from, high);
          if (commits) LoadWords(weights_ + kHeadDim * kHeadDim + from, low);
#pragma unroll
          for (int word = 0; word < kWords; ++word) {
            float(&to)[8] = resident_[load * kWords + word][step];
            to[i / 2 * 4 + i % 2] = JoinFirst(high[word], low[word]);
            to[i / 2 * 4 + 2 + i % 2] = JoinSecond(high[word], low[word]);
          }
        }
      }
    }
  }
  __device__ void SaveResident() {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t high[kWords];
          uint32_t low[kWords];
#pragma unroll
          for (int word = 0; word < kWords; ++word) {
            const float(&from)[8] = resident_[load * kWords + word][step];
            const float first = from[i / 2 * 4 + i % 2];
            const float second = from[i / 2 * 4 + 2 + i % 2];
            high[word] = SplitHighPair(first, second);
            low[word] = SplitLowPair(first, second);
          }
          const int to = WeightOffset(load, step, i / 2, i % 2);
          StoreWords(weights_ + to, high);
          StoreWords(weights_ + kHeadDim * kHeadDim + to, low);
        }
      }
    }
  }

  // High halves as they stand in the slot: of each load and 16 inputs, the
  // words of inputs 2q, 2q + 1, 2q + 8 and 2q + 9.
  using Words = uint32_t[kLoads][kSteps][4][kWords];
  __device__ void LoadStreamed(Words& words) {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          LoadWords(weights_ + WeightOffset(load, step, i / 2, i % 2),
                    words[load][step][i]);
        }
      }
    }
    LoadBias();
  }

  // Into the L2 cache, for a commit.
  __device__ void PrefetchLowHalves() const {
    constexpr int kLine = 64;  // values
    const uint16_t* const low = Weights() + kHeadDim * kHeadDim;
    for (int i = thread_; i < kHeadDim * kHeadDim / kLine;
         i += F::kItemThreads) {
      asm volatile("prefetch.global.L2 [%0];\n" ::"l"(low + i * kLine));
    }
  }

  // The transposed high halves [16 outputs, 16 inputs] of a tile as an operand
  // A.
  __device__ static void WeightsOf(const float (&resident)[8],
                                   uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = i / 2 * 4 + i % 2 * 2;
      a[i] = SplitHighPair(resident[first], resident[first + 1]);
    }
  }
  __device__ static void WeightsOf(const uint32_t (&words)[4][kWords], int word,
                                   uint32_t (&a)[4]) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const uint32_t even = words[2 * part][word];
      const uint32_t odd = words[2 * part + 1][word];
      a[2 * part] = LowHalves(even, odd);
      a[2 * part + 1] = HighHalves(even, odd);
    }
  }

  // kQueryTiles: of 8 of the step's rows.
  template <int kQueryTiles>
  __device__ void RunMiniBatch(const MiniBatchRows& rows, int stage_index) {
    const Stage& stage = shared_.stages[stage_index];
    float learnt[kOwnTiles][2][4];           // keys W + b
    float reads[kOwnTiles][kQueryTiles][4];  // queries W + b
    if constexpr (kIsResident) {
      Multiply<kQueryTiles>(
          stage,
          [&](int tile, int step, uint32_t(&a)[4]) {
            WeightsOf(resident_[tile][step], a);
          },
          learnt, reads);
    } else {
      Words words;
      LoadStreamed(words);
      if (rows.end == args_.mini_batch) PrefetchLowHalves();
      CopyRows(rows, stage_index);
      WaitForCopies();
      Barrier();
      Multiply<kQueryTiles>(
          stage,
          [&](int tile, int step, uint32_t(&a)[4]) {
            WeightsOf(words[tile / kWords][step], tile % kWords, a);
          },
          learnt, reads);
    }
    uint32_t gradients[kOwnTiles][4];  // times rates; an operand A
    bool is_bad[kColumns];
    FindGradients(rows, stage, learnt, gradients, is_bad);
    float scores[2][4] = {};
    Score(stage, scores);
    const bool commits = rows.end == args_.mini_batch;
    if (commits) Commit(stage, gradients, is_bad);
    Correct<kQueryTiles>(rows, scores, gradients, is_bad, reads);
    uint32_t queries[kLoads][2 * kQueryTiles][kWords];
    LoadQueries<kQueryTiles>(stage, queries);
    if (!commits) KeepRows(rows, stage);
    if constexpr (kIsResident) WaitForCopies();
    if (kWarps == 1 && rows.num_added() == 1) {
      Write<1>(rows, reads, queries);
    } else {
      Write<2 * kQueryTiles>(rows, reads, queries);
    }
  }

  // weights(tile, step, a) gives the operand A of a tile and 16 inputs.
  template <int kQueryTiles, typename Weights>
  __device__ void Multiply(const Stage& stage, Weights weights,
                           float (&learnt)[kOwnTiles][2][4],
                           float (&reads)[kOwnTiles][kQueryTiles][4]) const {
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        learnt[t][0][i] = learnt[t][1][i] = bias_[t][i / 2];
#pragma unroll
        for (int m = 0; m < kQueryTiles; ++m) reads[t][m][i] = bias_[t][i / 2];
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      uint32_t queries[4];
      stage.keys.Load(keys, step, lane_);
      stage.queries.Load(queries, step, lane_);
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        uint32_t a[4];
        weights(t, step, a);
        MultiplyAdd(learnt[t][0], a, keys[0], keys[1]);
        MultiplyAdd(learnt[t][1], a, keys[2], keys[3]);
#pragma unroll
        for (int m = 0; m < kQueryTiles; ++m) {
          MultiplyAdd(reads[t][m], a, queries[2 * m], queries[2 * m + 1]);
        }
      }
    }
  }

  // queries keys^T, [step's row, row].
  __device__ void Score(const Stage& stage, float (&scores)[2][4]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      uint32_t queries[4];
      stage.keys.Load(keys, step, lane_);
      stage.queries.Load(queries, step, lane_);
      const uint32_t a[4] = {queries[0], queries[2], queries[1], queries[3]};
      MultiplyAdd(scores[0], a, keys[0], keys[1]);
      MultiplyAdd(scores[1], a, keys[2], keys[3]);
    }
  }

  // Of a column, see learner_tile.cuh.
  __device__ int RowOf(int column) const {
    return 8 * (column / 2) + 2 * q() + column % 2;
  }
  template <int kN>
  __device__ static float& At(float (&tile)[kN][4], int column, int h) {
    return tile[column / 2][2 * h + column % 2];
  }
  template <int kN>
  __device__ static float At(const float (&tile)[kN][4], int column, int h) {
    return tile[column / 2][2 * h + column % 2];
  }

  // Of kCount columns from kFirst on, over all tiles of the head. With several
  // warps each finds some, between two barriers.
  template <int kFirst, int kCount, int kN>
  __device__ void FindNorms(const float (&own)[kOwnTiles][kN][4],
                            ColumnNorm (&norms)[kCount]) {
    if constexpr (kWarps == 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        float column[kOutputsOfLane];
#pragma unroll
        for (int output = 0; output < kOutputsOfLane; ++output) {
          column[output] = At(own[output / 2], kFirst + i, output % 2);
        }
        norms[i] = NormOfColumn(column);
      }
    } else {
      float2 results[kCount];
      Exchange(
          [&](int t, int i) {
            return float2{At(own[t], i, 0), At(own[t], i, 1)};
          },
          [&](const float2(&tiles)[F::kTiles]) {
            float column[kOutputsOfLane];
#pragma unroll
            for (int t = 0; t < F::kTiles; ++t) {
              column[2 * t] = tiles[t].x;
              column[2 * t + 1] = tiles[t].y;
            }
            const ColumnNorm norm = NormOfColumn(column);
            return float2{norm.scale, norm.scaled_mean};
          },
          results);
#pragma unroll
      for (int i = 0; i < kCount; ++i) norms[i] = {results[i].x, results[i].y};
    }
  }

  // results[i] = find(those of all tiles of the head) of column i, where this
  // warp shows show(t, i) of its own tiles.
  template <int kCount, typename ShowTile, typename Find>
  __device__ void Exchange(ShowTile show, Find find,
                           float2 (&results)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        shared_.shown[i][first_tile_ + t][lane_] = show(t, i);
      }
    }
    Barrier();
    constexpr int kOwnColumns = (kCount + kWarps - 1) / kWarps;
    const int first = first_tile_ / kOwnTiles * kOwnColumns;
    if (kOwnColumns * kWarps == kCount || first < kCount) {
#pragma unroll
      for (int i = first; i < first + kOwnColumns; ++i) {
        float2 tiles[F::kTiles];
#pragma unroll
        for (int t = 0; t < F::kTiles; ++t) {
          tiles[t] = shared_.shown[i][t][lane_];
        }
        const float2 result = find(tiles);
        if (g() == 0) {
          reinterpret_cast<float2*>(shared_.of_rows)[RowOf(i)] = result;
        }
      }
    }
    Barrier();
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float4 two = shared_.of_rows[RowOf(i) / 2];
      results[i] = {two.x, two.y};
      results[i + 1] = {two.z, two.w};
    }
  }

  // Of all rows up to rows.end, at the weights of the mini-batch's start, times
  // their rates; zero beyond. A row that is not finite becomes zero too, and
  // bad: the later rows are then made NaN, and the earlier ones are not.
  __device__ void FindGradients(const MiniBatchRows& rows, const Stage& stage,
                                float (&learnt)[kOwnTiles][2][4],
                                uint32_t (&gradients)[kOwnTiles][4],
                                bool (&is_bad)[kColumns]) {
    if constexpr (kWarps > 1) {
      FindColumns<0, kColumns>(rows, stage, learnt, gradients, is_bad);
    } else {
      FindColumns<0, 2>(rows, stage, learnt, gradients, is_bad);
      if (rows.end > 8) {
        FindColumns<2, 2>(rows, stage, learnt, gradients, is_bad);
        return;
      }
      is_bad[2] = is_bad[3] = false;
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) gradients[t][2] = gradients[t][3] = 0;
    }
  }

  // Those of kCount columns from kFirst on, an even number.
  template <int kFirst, int kCount>
  __device__ void FindColumns(const MiniBatchRows& rows, const Stage& stage,
                              float (&learnt)[kOwnTiles][2][4],
                              uint32_t (&gradients)[kOwnTiles][4],
                              bool (&is_bad)[kColumns]) {
    float scales[kCount];
    float u[kOwnTiles][2][kCount];  // as in the specification, 5.1
    float2 sums[kCount];            // of u, and of u times what was learnt
    {
      float norm_weight[kOwnTiles][2];
      float norm_bias[kOwnTiles][2];
      LoadNorm(norm_weight, norm_bias);
      float2 tile_sums[kOwnTiles][kCount];
      ColumnNorm norms[kCount];
      FindNorms<kFirst>(learnt, norms);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        uint32_t targets[kLoads][kWords];
        const int row = RowOf(kFirst + i);
#pragma unroll
        for (int load = 0; load < kLoads; ++load) {
          LoadWords(stage.targets.At(row, OutputOf(load)), targets[load]);
        }
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          const uint32_t target = targets[t / kWords][t % kWords];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& z = At(learnt[t], kFirst + i, h);
            z = norms[i](z);
            const float error =
                fmaf(norm_weight[t][h], z,
                     norm_bias[t][h] -
                         (h == 0 ? LowOfPair(target) : HighOfPair(target)));
            // Not to be fused with the sums in one kernel and not in another.
            u[t][h][i] = __fmul_rn(norm_weight[t][h], error);
          }
          const float z0 = At(learnt[t], kFirst + i, 0);
          const float z1 = At(learnt[t], kFirst + i, 1);
          tile_sums[t][i] = {u[t][0][i] + u[t][1][i],
                             fmaf(u[t][1][i], z1, u[t][0][i] * z0)};
        }
        scales[i] = norms[i].scale * stage.rates[row];
      }
      FindSums(tile_sums, sums);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      is_bad[kFirst + i] = !isfinite(fabsf(sums[i].x) + fabsf(sums[i].y));
      const bool is_used = RowOf(kFirst + i) < rows.end && !is_bad[kFirst + i];
      const float mean_u = sums[i].x * (1.0f / kHeadDim) * scales[i];
      const float mean_uz = sums[i].y * (1.0f / kHeadDim) * scales[i];
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float gradient = fmaf(-mean_uz, At(learnt[t], kFirst + i, h),
                                      fmaf(u[t][h][i], scales[i], -mean_u));
          u[t][h][i] = is_used ? gradient : 0.0f;
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        gradients[t][kFirst + i] = PackPair(u[t][0][i], u[t][0][i + 1]);
        gradients[t][kFirst + i + 1] = PackPair(u[t][1][i], u[t][1][i + 1]);
      }
    }
  }

  // Over columns, the tiles in order.
  template <int kCount>
  __device__ void FindSums(const float2 (&tile_sums)[kOwnTiles][kCount],
                           float2 (&sums)[kCount]) {
    if constexpr (kWarps == 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        float2 column[kOwnTiles];
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) column[t] = tile_sums[t][i];
        sums[i] = SumOfTiles(column);
      }
    } else {
      Exchange(
          [&](int t, int i) { return tile_sums[t][i]; },
          [&](const float2(&tiles)[F::kTiles]) { return SumOfTiles(tiles); },
          sums);
    }
  }
  __device__ static float2 SumOfTiles(const float2 (&tiles)[F::kTiles]) {
    float2 sum = tiles[0];
#pragma unroll
    for (int t = 1; t < F::kTiles; ++t) {
      sum.x += tiles[t].x;
      sum.y += tiles[t].y;
    }
    return {ColumnSum(sum.x), ColumnSum(sum.y)};
  }

  // reads -= tau_t sum_{s <= t} (q_t . k_s + 1) gradients_s.
  template <int kQueryTiles>
  __device__ void Correct(const MiniBatchRows& rows,
                          const float (&scores)[2][4],
                          const uint32_t (&gradients)[kOwnTiles][4],
                          const bool (&is_bad)[kColumns],
                          float (&reads)[kOwnTiles][kQueryTiles][4]) {
    float ones[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) ones[i] = is_bad[i] ? nanf("") : 1.0f;
    const int last = rows.begin + g() - 2 * q();
    const float* const token_scale = shared_.token_scale + rows.begin + 2 * q();
#pragma unroll
    for (int m = 0; m < kQueryTiles; ++m) {
      uint32_t b[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float weights[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          // Row s = 8 n + 2 q + c is not after t = begin + 8 m + g.
          weights[c] = 8 * (n - m) + c <= last
                           ? scores[n][2 * m + c] + ones[2 * n + c]
                           : 0.0f;
        }
        b[n] = PackPair(weights[0], weights[1]);
      }
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        float correction[4] = {};
        MultiplyAdd(correction, gradients[t], b[0], b[1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          reads[t][m][i] =
              fmaf(-token_scale[8 * m + i % 2], correction[i], reads[t][m][i]);
        }
      }
    }
  }

  // W -= tau sum_s gradients_s k_s, of a whole mini-batch; alike b, which a bad
  // row makes NaN, and with it all that is read from then on.
  __device__ void Commit(const Stage& stage,
                         const uint32_t (&gradients)[kOwnTiles][4],
                         const bool (&is_bad)[kColumns]) {
    const bool any_is_bad =
        __any_sync(kAllLanes, is_bad[0] || is_bad[1] || is_bad[2] || is_bad[3]);
    const float tau = shared_.token_scale[args_.mini_batch - 1];
    const float bias_tau = any_is_bad ? nanf("") : tau;
    if constexpr (!kIsResident) LoadBias();
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      float sum[4] = {};
      MultiplyAdd(sum, gradients[t], kPairOfOnes, kPairOfOnes);
      bias_[t][0] = fmaf(-bias_tau, sum[0], bias_[t][0]);
      bias_[t][1] = fmaf(-bias_tau, sum[2], bias_[t][1]);
    }
    if constexpr (!kIsResident) {
      __syncwarp();  // All its lanes have read it.
      SaveBias();
    }
    // Streamed weights of all steps at once would not fit into registers.
#pragma unroll(kIsResident ? kSteps : 1)
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      stage.keys.LoadTurned(keys, step, lane_);
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          CommitPart(gradients, load, step, part, tau, keys[part],
                     keys[2 + part]);
        }
      }
    }
  }
  // Of 8 inputs: the keys' operand B is {b0, b1}.
  __device__ void CommitPart(const uint32_t (&gradients)[kOwnTiles][4],
                             int load, int step, int part, float tau,
                             uint32_t b0, uint32_t b1) {
    if constexpr (kIsResident) {
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        const int t = load * kWords + word;
        float sums[4] = {};
        MultiplyAdd(sums, gradients[t], b0, b1);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& w = resident_[t][step][4 * part + i];
          w = fmaf(-tau, sums[i], w);
        }
      }
    } else {
      uint16_t* const high = weights_ + WeightOffset(load, step, part, 0);
      uint16_t* const low = high + kHeadDim * kHeadDim;
      uint32_t highs[2][kWords];  // of the even and the odd input
      uint32_t lows[2][kWords];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        LoadWords(high + c * kHeadDim, highs[c]);
        LoadWords(low + c * kHeadDim, lows[c]);
      }
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        float sums[4] = {};
        MultiplyAdd(sums, gradients[load * kWords + word], b0, b1);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          uint32_t& h = highs[c][word];
          uint32_t& l = lows[c][word];
          const float first = fmaf(-tau, sums[c], JoinFirst(h, l));
          const float second = fmaf(-tau, sums[2 + c], JoinSecond(h, l));
          h = SplitHighPair(first, second);
          l = SplitLowPair(first, second);
        }
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        StoreWords(high + c * kHeadDim, highs[c]);
        StoreWords(low + c * kHeadDim, lows[c]);
      }
    }
  }

  // The step's rows of a mini-batch that goes on.
  __device__ void KeepRows(const MiniBatchRows& rows, const Stage& stage) {
    constexpr int kUnits = kHeadDim / 8;
    auto* const keys =
        reinterpret_cast<uint4*>(PendingRows(args_.pending_keys));
    auto* const targets =
        reinterpret_cast<uint4*>(PendingRows(args_.pending_targets));
#pragma unroll 1
    for (int i = rows.begin * kUnits + thread_; i < rows.end * kUnits;
         i += F::kItemThreads) {
      const int from = RowTile<kHeadDim>::Index(i / kUnits, i % kUnits);
      keys[i] = stage.keys.units[from];
      targets[i] = stage.targets.units[from];
    }
    if (thread_ >= rows.begin && thread_ < rows.end) {
      PendingRates()[thread_] = stage.rates[thread_];
    }
  }

  template <int kQueryTiles>
  __device__ void LoadQueries(
      const Stage& stage,
      uint32_t (&queries)[kLoads][2 * kQueryTiles][kWords]) const {
#pragma unroll
    for (int i = 0; i < 2 * kQueryTiles; ++i) {
      const int row = RowOf(i);
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        LoadWords(stage.queries.At(row, OutputOf(load)), queries[load][i]);
      }
    }
  }

  // The outputs of the step's rows, which are in kCount columns.
  template <int kCount, int kQueryTiles>
  __device__ void Write(
      const MiniBatchRows& rows,
      const float (&reads)[kOwnTiles][kQueryTiles][4],
      const uint32_t (&queries)[kLoads][2 * kQueryTiles][kWords]) {
    float norm_weight[kOwnTiles][2];
    float norm_bias[kOwnTiles][2];
    LoadNorm(norm_weight, norm_bias);
    ColumnNorm norms[kCount];
    FindNorms<0>(reads, norms);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int row = RowOf(i);
      if (row >= rows.num_added()) continue;
      float* const output = args_.output + RowOffset(rows.first + row);
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        uint32_t words[2 * kWords];
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
          const int t = load * kWords + word;
          const uint32_t pair = queries[load][i][word];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float query = h == 0 ? LowOfPair(pair) : HighOfPair(pair);
            words[2 * word + h] = __float_as_uint(
                query + fmaf(norm_weight[t][h], norms[i](At(reads[t], i, h)),
                             norm_bias[t][h]));
          }
        }
        StoreWords(output + OutputOf(load), words);
      }
    }
  }

  const LearnerArgs& args_;
  const int32_t head_;
  const int thread_;  // of the item
  const int lane_;
  const int first_tile_;
  const int first_output_;
  Shared& shared_;
  SequenceRows sequence_;
  uint16_t* weights_;  // the lane's first
  // [tile][h]: outputs g and g + 8 of a tile.
  float bias_[kOwnTiles][2];
  // Transposed sum tiles of 8 inputs, two a step.
  float resident_[kIsResident ? kOwnTiles : 1][kSteps][8];
};

// grid [num_heads / kItems, batch].
template <int kHeadDim, int kWarps, bool kIsResident>
__global__ void __launch_bounds__(Form<kHeadDim, kWarps, kIsResident>::kThreads,
                                  Form<kHeadDim, kWarps, kIsResident>::kBlocks)
    LearnerLinearKernel(const __grid_constant__ LearnerArgs args) {
  using F = Form<kHeadDim, kWarps, kIsResident>;
  using Head = LinearHead<kHeadDim, kWarps, kIsResident>;
  extern __shared__ float4 shared[];
  const int32_t index = threadIdx.x / F::kItemThreads;
  const int32_t head_index = blockIdx.x * F::kItems + index;
  if (head_index >= args.num_heads) return;
  Head head(args, head_index, threadIdx.x % F::kItemThreads,
            reinterpret_cast<typename Head::Shared*>(shared)[index]);
  WaitForKernelsBefore();
  const SequenceRows sequence = args.rows.sequences[blockIdx.y];
  if (sequence.num_rows > 0) {
    head.Run(sequence);
  } else {
    WaitForCopies();
  }
}

template <int kHeadDim, int kWarps, bool kIsResident>
constexpr int32_t SharedBytes() {
  return Form<kHeadDim, kWarps, kIsResident>::kItems *
         sizeof(typename LinearHead<kHeadDim, kWarps, kIsResident>::Shared);
}

template <int kHeadDim, int kWarps, bool kIsResident>
cudaError_t Launch(const LearnerArgs& args, cudaStream_t stream) {
  using F = Form<kHeadDim, kWarps, kIsResident>;
  const dim3 grid((args.num_heads + F::kItems - 1) / F::kItems,
                  args.rows.batch);
  return LaunchOverlapped(
      LearnerLinearKernel<kHeadDim, kWarps, kIsResident>, grid, F::kThreads,
      SharedBytes<kHeadDim, kWarps, kIsResident>(), stream, args);
}

template <int kHeadDim, int kWarps, bool kIsResident>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(
      LearnerLinearKernel<kHeadDim, kWarps, kIsResident>,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      SharedBytes<kHeadDim, kWarps, kIsResident>());
}

// Items of a step up to which as many warps as can be share each; above, the
// multiprocessors of an H200 have enough of them.
constexpr int32_t kMostSpreadItems = 2 * 132;
constexpr int32_t kMostSpreadDecodeItems = 4 * 132;

template <int kHeadDim, int kManyWarps, int kStreamedWarps>
cudaError_t LaunchForm(const LearnerArgs& args, cudaStream_t stream) {
  const int32_t items = args.rows.batch * args.num_heads;
  const bool is_decode = args.rows.num_rows <= args.rows.batch;
  if (is_decode && items > kMostSpreadDecodeItems) {
    return Launch<kHeadDim, kStreamedWarps, false>(args, stream);
  }
  if (!is_decode && items > kMostSpreadItems) {
    return Launch<kHeadDim, kManyWarps, true>(args, stream);
  }
  return Launch<kHeadDim, kHeadDim / kOutputsOfTile, true>(args, stream);
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

cudaError_t PrepareLearnerLinear() {
  for (cudaError_t (*prepare)() :
       {Prepare<32, 1, false>, Prepare<32, 2, true>, Prepare<64, 1, false>,
        Prepare<64, 2, true>, Prepare<64, 4, true>, Prepare<96, 3, false>,
        Prepare<96, 6, true>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
