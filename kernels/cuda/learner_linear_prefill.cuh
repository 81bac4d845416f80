// The linear learner with many rows a sequence, or few heads in all: a block a
// head, whose fast weights stay in registers while the rows go by. Where there
// are few heads, one half of a block learns, and the other, a mini-batch later,
// reads: both hold the weights, and commit the same gradients.
#pragma once

#include "kernels/cuda/learner_linear_tiles.cuh"
#include "kernels/cuda/overlap.cuh"

namespace ttt {

// The arrays of a block in shared memory.
template <int kHeadDim, int kWarps>
struct LinearPrefillSpace {
  // Rows of one mini-batch; the queries are the step's alone.
  struct Stage {
    RowTile<kHeadDim> keys;
    RowTile<kHeadDim> targets;
    RowTile<kHeadDim> queries;
    float rates[kMaxMiniBatch];
  };
  Stage stages[2];
  float norm[2][kHeadDim];               // weight, bias
  float token_scale[2 * kMaxMiniBatch];  // zero beyond the mini-batch
  ShownColumns<kHeadDim, kWarps> shown;
};

// The gradients of a mini-batch, from the half that learns to the other, in
// turn in two places. Every thread arrives: racecheck does not follow one that
// arrives for its warp.
template <int kHeadDim, int kWarps>
struct LinearHandover {
  static constexpr int kOwnTiles = LinearForm<kHeadDim, kWarps>::kOwnTiles;

  // One thread, then a barrier of the block.
  __device__ void Init() {
    for (int place = 0; place < 2; ++place) {
      is_there[place].Init(kWarps * kWarpSize);
      is_taken[place].Init(kWarps * kWarpSize);
    }
  }

  CopyBarrier is_there[2];
  CopyBarrier is_taken[2];
  uint4 gradients[2][kWarps][kOwnTiles][kWarpSize];
  uint32_t bad[2][kWarpSize];  // of a lane's columns, as bits
};

// Values are those of kBarrier.
enum class LinearPart { kAll, kLearns, kReads };

template <int kHeadDim, int kWarps, LinearPart kPart = LinearPart::kAll>
class LinearPrefill : LinearTiles<kHeadDim, kWarps, int(kPart)> {
  using Tiles = LinearTiles<kHeadDim, kWarps, int(kPart)>;
  using Handover = LinearHandover<kHeadDim, kWarps>;
  static constexpr bool kLearns = kPart != LinearPart::kReads;
  static constexpr bool kReads = kPart != LinearPart::kLearns;
  using Tiles::At;
  using Tiles::Barrier;
  using Tiles::first_output_;
  using Tiles::g;
  using Tiles::kOwnTiles;
  using Tiles::kSteps;
  using Tiles::lane_;
  using Tiles::q;
  using Tiles::RowOf;
  using Tiles::thread_;
  using Tiles::WeightOffset;
  using typename Tiles::F;

 public:
  using Space = LinearPrefillSpace<kHeadDim, kWarps>;

  // Begins to read what no kernel writes. `handover` is of the block's halves.
  __device__ LinearPrefill(const LearnerArgs& args, int32_t head, int thread,
                           Space& space, Handover* handover = nullptr)
      : Tiles(thread, space.norm, space.shown),
        args_(args),
        head_{args, head, {}},
        space_(space),
        handover_(handover) {
    if (thread < 2 * kMaxMiniBatch) {
      CopyAsync4(&space.token_scale[thread], args.token_scale + thread,
                 thread < args.mini_batch);
    }
    CopyNorm(args, head, thread, space.norm);
  }

  // Of the sequence of the block.
  __device__ void Run() {
    WaitForKernelsBefore();
    head_.sequence = args_.rows.sequences[blockIdx.y];
    if (head_.sequence.num_rows <= 0) {
      WaitForCopies();
      return;
    }
    weights_ = Tiles::FirstWeight(head_.weights());
    MiniBatchRows rows = FirstMiniBatch(head_.sequence, args_.mini_batch);
    CopyRows(rows, 0);
    Tiles::LoadOutputs(head_.bias(), bias_);
    LoadResident(rows.end == args_.mini_batch);
    WaitForCopies();
    Barrier();
    int stage = 0;
#pragma unroll 1
    for (;; NextStage(stage)) {
      const MiniBatchRows next =
          NextMiniBatch(rows, head_.sequence.num_rows, args_.mini_batch);
      const bool goes_on = next.first < head_.sequence.num_rows;
      if (goes_on) CopyRows(next, stage ^ 1);
      if constexpr (!kReads) {
        Learn(rows, stage);
      } else {
        if (rows.num_added() <= 8) {
          RunMiniBatch<1>(rows, stage);
        } else {
          RunMiniBatch<2>(rows, stage);
        }
      }
      if (!goes_on) break;
      rows = next;
    }
    if (!kLearns) return;
    // The other half has then read all that is written below.
    if constexpr (!kReads) handover_->is_taken[stage].Wait(parity_);
    if (rows.end < args_.mini_batch) KeepRows(rows, space_.stages[stage]);
    if (rows.first > 0 || rows.end == args_.mini_batch) {
      SaveResident();
      if (q() == 0) Tiles::StoreOutputs(bias_, head_.bias());
    }
  }

 private:
  using Stage = typename Space::Stage;

  __device__ void NextStage(int& stage) {
    parity_ ^= stage;
    stage ^= 1;
  }

  // Starts to copy the rows of a mini-batch; keys and targets beyond them
  // become zero. Queries beyond them hold anything, which stays in their
  // columns.
  __device__ void CopyRows(const MiniBatchRows& rows, int stage) {
    using Tile = RowTile<kHeadDim>;
    Stage& to = space_.stages[stage];
    for (int i = thread_; i < kMaxMiniBatch * Tile::kUnits;
         i += F::kItemThreads) {
      const int row = i / Tile::kUnits;
      const int unit = i % Tile::kUnits;
      const int at = Tile::Index(row, unit);
      if (row < rows.begin) {
        CopyAsync16(&to.keys.units[at],
                    head_.PendingRows(args_.pending_keys) + 8 * i, true);
        if constexpr (kLearns) {
          CopyAsync16(&to.targets.units[at],
                      head_.PendingRows(args_.pending_targets) + 8 * i, true);
        }
      } else if (row < rows.end) {
        const int added = row - rows.begin;
        const int64_t from = head_.RowOffset(rows.first + added) + 8 * unit;
        CopyAsync16(&to.keys.units[at], Rows(args_.keys) + from, true);
        if constexpr (kLearns) {
          CopyAsync16(&to.targets.units[at], Rows(args_.targets) + from, true);
        }
        if constexpr (kReads) {
          CopyAsync16(&to.queries.units[Tile::Index(added, unit)],
                      Rows(args_.queries) + from, true);
        }
      } else {
        to.keys.units[at] = {0, 0, 0, 0};
        if constexpr (kLearns) to.targets.units[at] = {0, 0, 0, 0};
      }
    }
    if (kLearns && thread_ < kMaxMiniBatch) {
      const int row = thread_;
      const float* const rate = row < rows.begin || row >= rows.end
                                    ? head_.pending_rates() + row
                                    : head_.Rate(rows.first + row - rows.begin);
      CopyAsync4(&to.rates[row], rate, row < rows.end);
    }
  }

  __device__ static const __nv_bfloat16* Rows(const Operand& rows) {
    return static_cast<const __nv_bfloat16*>(rows.data);
  }

  // The low halves only if a commit needs them.
  __device__ void LoadResident(bool commits) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int from = WeightOffset(step, i / 2, i % 2);
        uint32_t high[kOwnTiles];
        uint32_t low[kOwnTiles] = {};
        LoadWords(weights_ + from, high);
        if (commits) LoadWords(weights_ + kHeadDim * kHeadDim + from, low);
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          float(&to)[8] = resident_[t][step];
          to[i / 2 * 4 + i % 2] = JoinFirst(high[t], low[t]);
          to[i / 2 * 4 + 2 + i % 2] = JoinSecond(high[t], low[t]);
        }
      }
    }
  }
  __device__ void SaveResident() {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t high[kOwnTiles];
        uint32_t low[kOwnTiles];
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          const float(&from)[8] = resident_[t][step];
          const float first = from[i / 2 * 4 + i % 2];
          const float second = from[i / 2 * 4 + 2 + i % 2];
          high[t] = SplitHighPair(first, second);
          low[t] = SplitLowPair(first, second);
        }
        const int to = WeightOffset(step, i / 2, i % 2);
        StoreWords(weights_ + to, high);
        StoreWords(weights_ + kHeadDim * kHeadDim + to, low);
      }
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

  // What the half that learns does of a mini-batch.
  __device__ void Learn(const MiniBatchRows& rows, int place) {
    const Stage& stage = space_.stages[place];
    float learnt[kOwnTiles][2][4];  // keys W + b
    float no_reads[kOwnTiles][1][4];
    Multiply(stage, learnt, no_reads);
    uint32_t gradients[kOwnTiles][4];
    bool is_bad[kColumns];
    Tiles::template FindGradients<kColumns>(
        rows.end, stage.targets, stage.rates, learnt, gradients, is_bad);
    Give(place, gradients, is_bad);
    if (rows.end == args_.mini_batch) Commit(stage, gradients, is_bad);
    WaitForCopies();
    Barrier();
  }

  __device__ void Give(int place, const uint32_t (&gradients)[kOwnTiles][4],
                       const bool (&is_bad)[kColumns]) {
    handover_->is_taken[place].Wait(parity_ ^ 1);  // Both are, at first.
    const int warp = thread_ / kWarpSize;
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      handover_->gradients[place][warp][t][lane_] = {
          gradients[t][0], gradients[t][1], gradients[t][2], gradients[t][3]};
    }
    if (warp == 0) {
      uint32_t bad = 0;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) bad |= uint32_t{is_bad[i]} << i;
      handover_->bad[place][lane_] = bad;
    }
    handover_->is_there[place].Arrive();
  }
  __device__ void Take(int place, uint32_t (&gradients)[kOwnTiles][4],
                       bool (&is_bad)[kColumns]) {
    handover_->is_there[place].Wait(parity_);
    const int warp = thread_ / kWarpSize;
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      const uint4 words = handover_->gradients[place][warp][t][lane_];
      gradients[t][0] = words.x;
      gradients[t][1] = words.y;
      gradients[t][2] = words.z;
      gradients[t][3] = words.w;
    }
    const uint32_t bad = handover_->bad[place][lane_];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) is_bad[i] = (bad >> i & 1) != 0;
    handover_->is_taken[place].Arrive();
  }

  // kQueryTiles: of 8 of the step's rows.
  template <int kQueryTiles>
  __device__ void RunMiniBatch(const MiniBatchRows& rows, int place) {
    const Stage& stage = space_.stages[place];
    float learnt[kOwnTiles][2][4];           // keys W + b
    float reads[kOwnTiles][kQueryTiles][4];  // queries W + b
    Multiply(stage, learnt, reads);
    uint32_t gradients[kOwnTiles][4];
    bool is_bad[kColumns];
    if constexpr (kLearns) {
      Tiles::template FindGradients<kColumns>(
          rows.end, stage.targets, stage.rates, learnt, gradients, is_bad);
    }
    float scores[2][4] = {};
    Score(stage, scores);
    if constexpr (!kLearns) Take(place, gradients, is_bad);
    if (rows.end == args_.mini_batch) Commit(stage, gradients, is_bad);
    Correct(rows, scores, gradients, is_bad, reads);
    uint32_t queries[2 * kQueryTiles][kOwnTiles];
#pragma unroll
    for (int i = 0; i < 2 * kQueryTiles; ++i) {
      LoadWords(stage.queries.At(RowOf(i), first_output_), queries[i]);
    }
    WaitForCopies();
    Write(rows, reads, queries);
  }

  template <int kQueryTiles>
  __device__ void Multiply(const Stage& stage, float (&learnt)[kOwnTiles][2][4],
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
      if constexpr (kLearns) stage.keys.Load(keys, step, lane_);
      if constexpr (kReads) stage.queries.Load(queries, step, lane_);
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        uint32_t a[4];
        WeightsOf(resident_[t][step], a);
        if constexpr (kLearns) {
          MultiplyAdd(learnt[t][0], a, keys[0], keys[1]);
          MultiplyAdd(learnt[t][1], a, keys[2], keys[3]);
        }
        if constexpr (kReads) {
#pragma unroll
          for (int m = 0; m < kQueryTiles; ++m) {
            MultiplyAdd(reads[t][m], a, queries[2 * m], queries[2 * m + 1]);
          }
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
    const float* const token_scale = space_.token_scale + rows.begin + 2 * q();
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

  // W -= tau sum_s gradients_s k_s, of a whole mini-batch; alike b.
  __device__ void Commit(const Stage& stage,
                         const uint32_t (&gradients)[kOwnTiles][4],
                         const bool (&is_bad)[kColumns]) {
    const float tau = space_.token_scale[args_.mini_batch - 1];
    Tiles::CommitBias(gradients, is_bad, tau, bias_);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      stage.keys.LoadTurned(keys, step, lane_);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          float sums[4] = {};
          MultiplyAdd(sums, gradients[t], keys[part], keys[2 + part]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float& w = resident_[t][step][4 * part + i];
            w = fmaf(-tau, sums[i], w);
          }
        }
      }
    }
  }

  // The step's rows of a mini-batch that goes on.
  __device__ void KeepRows(const MiniBatchRows& rows, const Stage& stage) {
    constexpr int kUnits = kHeadDim / 8;
    auto* const keys =
        reinterpret_cast<uint4*>(head_.PendingRows(args_.pending_keys));
    auto* const targets =
        reinterpret_cast<uint4*>(head_.PendingRows(args_.pending_targets));
#pragma unroll 1
    for (int i = rows.begin * kUnits + thread_; i < rows.end * kUnits;
         i += F::kItemThreads) {
      const int from = RowTile<kHeadDim>::Index(i / kUnits, i % kUnits);
      keys[i] = stage.keys.units[from];
      targets[i] = stage.targets.units[from];
    }
    if (thread_ >= rows.begin && thread_ < rows.end) {
      head_.pending_rates()[thread_] = stage.rates[thread_];
    }
  }

  // The outputs of the step's rows.
  template <int kQueryTiles>
  __device__ void Write(const MiniBatchRows& rows,
                        const float (&reads)[kOwnTiles][kQueryTiles][4],
                        const uint32_t (&queries)[2 * kQueryTiles][kOwnTiles]) {
    float norm_weight[kOwnTiles][2];
    float norm_bias[kOwnTiles][2];
    Tiles::LoadNorm(norm_weight, norm_bias);
    ColumnNorm norms[2 * kQueryTiles];
    Tiles::FindNorms([&](int t, int i, int h) { return At(reads[t], i, h); },
                     norms);
#pragma unroll
    for (int i = 0; i < 2 * kQueryTiles; ++i) {
      const int row = RowOf(i);
      if (row >= rows.num_added()) continue;
      float outputs[kOwnTiles][2];
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        const uint32_t query = queries[i][t];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          outputs[t][h] = (h == 0 ? LowOfPair(query) : HighOfPair(query)) +
                          fmaf(norm_weight[t][h], norms[i](At(reads[t], i, h)),
                               norm_bias[t][h]);
        }
      }
      Tiles::StoreOutputs(outputs,
                          args_.output + head_.RowOffset(rows.first + row));
    }
  }

  const LearnerArgs& args_;
  LinearHead<kHeadDim> head_;
  Space& space_;
  Handover* const handover_;
  uint32_t parity_ = 0;  // of the handover's barriers
  uint16_t* weights_;    // the lane's first
  float bias_[kOwnTiles][2];
  // Transposed sum tiles of 8 inputs, two a step.
  float resident_[kOwnTiles][kSteps][8];
};

}  // namespace ttt
