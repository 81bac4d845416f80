// The linear learner with a row a sequence: a warp or a few a head. Bound by
// memory: reads the high halves, and what ends a mini-batch the low ones too,
// and writes both.
#pragma once

#include "kernels/cuda/learner_linear_tiles.cuh"

namespace ttt {

// The arrays of an item in shared memory.
template <int kHeadDim, int kWarps>
struct LinearDecodeSpace {
  // Of the mini-batch up to the step's row. Beyond, zero if the row ends it;
  // else the query in one (see SpareRow), anything in the others: they are
  // columns that no result takes.
  RowTile<kHeadDim> keys;
  RowTile<kHeadDim> targets;
  uint4 query[kHeadDim / 8];
  float read[kHeadDim];     // see ReadQuery
  float norm[2][kHeadDim];  // weight, bias
  float rates[kMaxMiniBatch];
  float token_scale[kMaxMiniBatch];
  ShownColumns<kHeadDim, kWarps> shown;
};

// The state of a head is read before the kernels before have ended: no op of
// the step but this one writes it.
template <int kHeadDim, int kWarps>
class LinearDecode : LinearTiles<kHeadDim, kWarps> {
  using Tiles = LinearTiles<kHeadDim, kWarps>;
  using Tiles::Barrier;
  using Tiles::first_output_;
  using Tiles::kOwnTiles;
  using Tiles::kSteps;
  using Tiles::lane_;
  using Tiles::q;
  using Tiles::thread_;
  using Tiles::WeightOffset;
  using typename Tiles::F;

 public:
  using Space = LinearDecodeSpace<kHeadDim, kWarps>;

  __device__ LinearDecode(const LearnerArgs& args, int32_t head, int thread,
                          Space& space)
      : Tiles(thread, space.norm, space.shown),
        args_(args),
        head_{args, head, {}},
        space_(space) {
    CopyNorm(args, head, thread, space.norm);
    if (thread < args.mini_batch) {
      CopyAsync4(&space.token_scale[thread], args.token_scale + thread, true);
    }
  }

  // Waits for the kernels before.
  __device__ void Run(const SequenceRows& sequence) {
    if (sequence.num_rows == 0) {
      cudaGridDependencySynchronize();
      WaitForCopies();
      return;
    }
    head_.sequence = sequence;
    SetPhase(PhaseOf(sequence.position, args_.mini_batch));
    while (true) {
      ForgetAddresses();
      State state;
      Load(state);
      cudaGridDependencySynchronize();
      RunRow(state);
      if (--head_.sequence.num_rows == 0) break;
      ++head_.sequence.first_row;
      SetPhase(commits_ ? 0 : phase_ + 1);
      Barrier();
    }
  }

 private:
  // High halves of the lane's weights as they stand in the slot: of 16 inputs
  // the words of inputs 2q, 2q + 1, 2q + 8 and 2q + 9, of each tile one.
  using Words = uint32_t[4][kOwnTiles];
  struct State {
    Words weights[kSteps];
    uint32_t bias[2 * kOwnTiles];
    uint32_t rate[1];  // of the pending row `thread_`
  };
  // Both halves of the weights of 16 inputs.
  struct Halves {
    Words high;
    Words low;
  };

  // The compiler would keep addresses of the slot in registers, for which there
  // is no room.
  __device__ void ForgetAddresses() {
    asm volatile("" : "+r"(head_.sequence.slot), "+r"(head_.index));
  }

  // Of the step's row in its mini-batch.
  __device__ void SetPhase(int phase) {
    phase_ = phase;
    commits_ = phase + 1 == args_.mini_batch;
  }
  // If the mini-batch goes on, the query's, so that the products of the keys
  // are its too: the last of its eight, column 1 or 3 of the lanes whose q
  // is 3.
  __device__ int SpareRow() const { return phase_ < 7 ? 7 : 15; }

  // Begins to bring all that the row needs of the slot.
  __device__ void Load(State& state) {
    const uint16_t* const weights = Tiles::FirstWeight(head_.weights());
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      LoadWords16(weights, step, state.weights[step]);
    }
    __syncwarp();  // The compiler would load these last.
    LoadFromL2(head_.bias() + first_output_, state.bias);
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
    const auto* const keys = head_.PendingRows(args_.pending_keys);
    const auto* const targets = head_.PendingRows(args_.pending_targets);
#pragma unroll 1
    for (int i = thread_; i < phase_ * kUnits; i += F::kItemThreads) {
      const int at = RowTile<kHeadDim>::Index(i / kUnits, i % kUnits);
      CopyAsync16(&space_.keys.units[at], keys + 8 * i, true);
      CopyAsync16(&space_.targets.units[at], targets + 8 * i, true);
    }
    if (commits_) ZeroRows();
    state.rate[0] = 0;
    if (thread_ < phase_) {
      LoadFromL2(head_.pending_rates() + thread_, state.rate);
    }
    if (commits_) PrefetchLowHalves();
  }
  // Those after the step's, where the mini-batch is a small one.
  __device__ void ZeroRows() {
    constexpr int kUnits = RowTile<kHeadDim>::kUnits;
#pragma unroll 1
    for (int i = (phase_ + 1) * kUnits + thread_; i < kMaxMiniBatch * kUnits;
         i += F::kItemThreads) {
      const int at = RowTile<kHeadDim>::Index(i / kUnits, i % kUnits);
      space_.keys.units[at] = space_.targets.units[at] = {0, 0, 0, 0};
    }
  }
  __device__ static void LoadWords16(const uint16_t* weights, int step,
                                     Words& words) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      LoadFromL2(weights + WeightOffset(step, i / 2, i % 2), words[i]);
    }
  }
  __device__ void PrefetchLowHalves() const {
    constexpr int kLine = 64;  // values
    const uint16_t* const low = head_.weights() + kHeadDim * kHeadDim;
    for (int i = thread_; i < kHeadDim * kHeadDim / kLine;
         i += F::kItemThreads) {
      PrefetchLine(low + i * kLine);
    }
  }

  // Brings the step's row.
  __device__ void LoadRow(const State& state) {
    using Tile = RowTile<kHeadDim>;
    constexpr int kUnits = Tile::kUnits;
    static_assert(3 * kUnits <= F::kItemThreads, "a unit a thread");
    // A thread of each unit of the key, the target and the query.
    const int unit = thread_ % kUnits;
    const bool is_key = thread_ < kUnits;
    const bool is_target = !is_key && thread_ < 2 * kUnits;
    const bool is_query = thread_ >= 2 * kUnits && thread_ < 3 * kUnits;
    const Operand& from = is_key      ? args_.keys
                          : is_target ? args_.targets
                                      : args_.queries;
    const auto* const row =
        static_cast<const __nv_bfloat16*>(from.data) + head_.RowOffset(0);
    const uint4 values = __ldcg(reinterpret_cast<const uint4*>(row) + unit);
    float rate = __uint_as_float(state.rate[0]);
    if (thread_ == phase_) rate = __ldcg(head_.Rate(0));

    Tile& tile = is_key ? space_.keys : space_.targets;
    uint4* const to =
        is_query ? &space_.query[unit] : &tile.units[Tile::Index(phase_, unit)];
    if (is_key || is_target || is_query) *to = values;
    if (thread_ < kMaxMiniBatch) space_.rates[thread_] = rate;
    if (is_query && !commits_) {
      space_.keys.units[Tile::Index(SpareRow(), unit)] = values;
    }
    WaitForCopies();
    Barrier();
  }

  __device__ void RunRow(const State& state) {
    LoadRow(state);
    if (commits_) ReadQuery(state);
    float reads[kOwnTiles][2];  // query W + b
    uint32_t weights[2];        // of gradients in the read: an operand B
    uint32_t gradients[kOwnTiles][4];
    bool is_bad[kColumns];
    if (phase_ < 7) {
      FindGradients<1>(state, reads, weights, gradients, is_bad);
    } else {
      FindGradients<2>(state, reads, weights, gradients, is_bad);
    }
    if (commits_) {
      ForgetAddresses();
      Halves halves;
      LoadHalves(0, halves);
      uint32_t bias[2 * kOwnTiles];
      LoadFromL2(head_.bias() + first_output_, bias);
      if (q() == 3) Tiles::LoadOutputs(space_.read, reads);
      Correct(weights, gradients, is_bad, reads);
      Write(reads);
      CommitBias(gradients, is_bad, bias);
      CommitWeights(gradients, halves);
    } else {
      Correct(weights, gradients, is_bad, reads);
      Write(reads);
      KeepRow();
    }
  }

  // In the slot, as the mini-batch goes on.
  __device__ void KeepRow() const {
    using Tile = RowTile<kHeadDim>;
    constexpr int kUnits = Tile::kUnits;
    const int unit = thread_ % kUnits;
    if (thread_ < 2 * kUnits) {
      const bool is_key = thread_ < kUnits;
      const Tile& tile = is_key ? space_.keys : space_.targets;
      auto* const kept = reinterpret_cast<uint4*>(head_.PendingRows(
          is_key ? args_.pending_keys : args_.pending_targets));
      kept[phase_ * kUnits + unit] = tile.units[Tile::Index(phase_, unit)];
    } else if (thread_ == 2 * kUnits) {
      head_.pending_rates()[phase_] = space_.rates[phase_];
    }
  }

  // Of inputs 16 step to 16 step + 31: operands B all of whose rows are the
  // query.
  __device__ void LoadQueries(int step, uint32_t (&queries)[4]) const {
    LoadMatrices(queries, &space_.query[2 * step + lane_ / 8]);
  }

  __device__ static void WeightsOf(const Words& words, int tile,
                                   uint32_t (&a)[4]) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const uint32_t even = words[2 * part][tile];
      const uint32_t odd = words[2 * part + 1][tile];
      a[2 * part] = LowHalves(even, odd);
      a[2 * part + 1] = HighHalves(even, odd);
    }
  }
  template <int kN>
  __device__ static void BeginWithBias(const State& state,
                                       float (&sums)[kOwnTiles][kN][4]) {
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[t][n][i] = __uint_as_float(state.bias[2 * t + i / 2]);
        }
      }
    }
  }

  // Finds the read where there is no spare row, and keeps it in shared memory.
  __device__ void ReadQuery(const State& state) {
    float sums[kOwnTiles][1][4];
    BeginWithBias(state, sums);
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t queries[4];
      LoadQueries(step, queries);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          uint32_t a[4];
          WeightsOf(state.weights[step + i], t, a);
          MultiplyAdd(sums[t][0], a, queries[2 * i], queries[2 * i + 1]);
        }
      }
    }
    float reads[kOwnTiles][2];
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      reads[t][0] = sums[t][0][1];
      reads[t][1] = sums[t][0][3];
    }
    if (q() == 3) Tiles::StoreOutputs(reads, space_.read);
  }

  // All rows are among the first 8 kN. `weights` of rows s up to the step's are
  // query . k_s + 1; zero beyond. Finds the read in the spare row too, which
  // the lanes have whose q is 3.
  template <int kN>
  __device__ void FindGradients(const State& state,
                                float (&reads)[kOwnTiles][2],
                                uint32_t (&weights)[2],
                                uint32_t (&gradients)[kOwnTiles][4],
                                bool (&is_bad)[kColumns]) {
    float scores[kN][4] = {};        // in each row the same
    float learnt[kOwnTiles][kN][4];  // keys W + b
    BeginWithBias(state, learnt);
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t queries[4];
      LoadQueries(step, queries);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t keys[4];
        space_.keys.Load(keys, step + i, lane_);
        const uint32_t rows[4] = {queries[2 * i], queries[2 * i],
                                  queries[2 * i + 1], queries[2 * i + 1]};
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          MultiplyAdd(scores[n], rows, keys[2 * n], keys[2 * n + 1]);
        }
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
          uint32_t a[4];
          WeightsOf(state.weights[step + i], t, a);
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            MultiplyAdd(learnt[t][n], a, keys[2 * n], keys[2 * n + 1]);
          }
        }
      }
    }
    weights[0] = WeightsOfScores(scores[0], 0);
    weights[1] = kN == 1 ? 0 : WeightsOfScores(scores[kN - 1], 1);
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      reads[t][0] = learnt[t][kN - 1][1];
      reads[t][1] = learnt[t][kN - 1][3];
    }
    Tiles::template FindGradients<2 * kN>(
        phase_ + 1, space_.targets, space_.rates, learnt, gradients, is_bad);
  }
  __device__ uint32_t WeightsOfScores(const float (&scores)[4], int n) const {
    float weights[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      weights[c] = Tiles::RowOf(2 * n + c) <= phase_ ? scores[c] + 1.0f : 0.0f;
    }
    return PackPair(weights[0], weights[1]);
  }

  // reads -= tau sum_s weight_s gradients_s.
  __device__ void Correct(const uint32_t (&weights)[2],
                          const uint32_t (&gradients)[kOwnTiles][4],
                          const bool (&is_bad)[kColumns],
                          float (&reads)[kOwnTiles][2]) const {
    // A bad row's weight becomes NaN: all bits but the sign.
    uint32_t b[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      b[n] = weights[n];
      if (is_bad[2 * n] && Tiles::RowOf(2 * n) <= phase_) b[n] |= 0x7fff;
      if (is_bad[2 * n + 1] && Tiles::RowOf(2 * n + 1) <= phase_) {
        b[n] |= 0x7fff0000;
      }
    }
    const float tau = space_.token_scale[phase_];
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      float correction[4] = {};
      MultiplyAdd(correction, gradients[t], b[0], b[1]);
      reads[t][0] = fmaf(-tau, correction[1], reads[t][0]);
      reads[t][1] = fmaf(-tau, correction[3], reads[t][1]);
    }
  }

  __device__ void Write(const float (&reads)[kOwnTiles][2]) {
    float norm_weight[kOwnTiles][2];
    float norm_bias[kOwnTiles][2];
    Tiles::LoadNorm(norm_weight, norm_bias);
    uint32_t queries[kOwnTiles];
    LoadWords(reinterpret_cast<const uint16_t*>(space_.query) + first_output_,
              queries);
    ColumnNorm norms[1];
    Tiles::FindNorms([&](int t, int, int h) { return reads[t][h]; }, norms);
    float outputs[kOwnTiles][2];
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        outputs[t][h] =
            (h == 0 ? LowOfPair(queries[t]) : HighOfPair(queries[t])) +
            fmaf(norm_weight[t][h], norms[0](reads[t][h]), norm_bias[t][h]);
      }
    }
    // See FindGradients.
    if (q() == 3)
      Tiles::StoreOutputs(outputs, args_.output + head_.RowOffset(0));
  }

  __device__ void LoadHalves(int step, Halves& halves) const {
    const uint16_t* const high = Tiles::FirstWeight(head_.weights());
    LoadWords16(high, step, halves.high);
    LoadWords16(high + kHeadDim * kHeadDim, step, halves.low);
  }

  // `words` is the bias.
  __device__ void CommitBias(const uint32_t (&gradients)[kOwnTiles][4],
                             const bool (&is_bad)[kColumns],
                             const uint32_t (&words)[2 * kOwnTiles]) const {
    float bias[kOwnTiles][2];
#pragma unroll
    for (int i = 0; i < 2 * kOwnTiles; ++i) {
      bias[i / 2][i % 2] = __uint_as_float(words[i]);
    }
    Tiles::CommitBias(gradients, is_bad, space_.token_scale[phase_], bias);
    __syncwarp();  // All its lanes have read it.
    if (q() == 0) Tiles::StoreOutputs(bias, head_.bias());
  }

  // W -= tau sum_s gradients_s k_s, of a whole mini-batch. `halves` are of the
  // first 16 inputs; those of the next are on their way while these are
  // changed: all would not fit into registers.
  __device__ void CommitWeights(const uint32_t (&gradients)[kOwnTiles][4],
                                Halves& halves) {
    static_assert(kSteps % 2 == 0, "two steps a turn");
    const float tau = space_.token_scale[phase_];
    Halves next;
#pragma unroll 1
    for (int step = 0; step < kSteps; step += 2) {
      LoadHalves(step + 1, next);
      CommitStep(step, gradients, tau, halves);
      if (step + 2 < kSteps) LoadHalves(step + 2, halves);
      CommitStep(step + 1, gradients, tau, next);
    }
  }
  __device__ void CommitStep(int step,
                             const uint32_t (&gradients)[kOwnTiles][4],
                             float tau, Halves& halves) {
    uint32_t keys[4];
    space_.keys.LoadTurned(keys, step, lane_);
    uint16_t* const high = Tiles::FirstWeight(head_.weights());
    uint16_t* const low = high + kHeadDim * kHeadDim;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        float sums[4] = {};
        MultiplyAdd(sums, gradients[t], keys[part], keys[2 + part]);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          uint32_t& h = halves.high[2 * part + c][t];
          uint32_t& l = halves.low[2 * part + c][t];
          const float first = fmaf(-tau, sums[c], JoinFirst(h, l));
          const float second = fmaf(-tau, sums[2 + c], JoinSecond(h, l));
          h = SplitHighPair(first, second);
          l = SplitLowPair(first, second);
        }
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int to = WeightOffset(step, part, c);
        StoreWords(high + to, halves.high[2 * part + c]);
        StoreWords(low + to, halves.low[2 * part + c]);
      }
    }
  }

  const LearnerArgs& args_;
  LinearHead<kHeadDim> head_;  // its sequence begins with the row that is next
  Space& space_;
  int phase_;
  bool commits_;
};

}  // namespace ttt
