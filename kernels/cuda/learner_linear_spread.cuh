// The linear learner with a row a sequence and few heads in all: a warp a tile
// of outputs, and a warp a column of what is found of whole rows. Bound by
// latency and by the code, which is read anew in every layer: one path for all
// places of a row in its mini-batch, and a short one.
#pragma once

#include "kernels/cuda/learner_linear_tiles.cuh"
#include "kernels/cuda/learner_projected.cuh"

namespace ttt {

// The arrays of a block in shared memory. They fit beside a block of the
// products, so that this one begins, and asks for its state, while that is
// still at work.
template <int kHeadDim>
struct LinearSpreadSpace {
  // Of the mini-batch up to the step's row. Beyond, zero if the row ends it,
  // else anything: they are columns that no result takes.
  RowTile<kHeadDim> keys;
  RowTile<kHeadDim> targets;
  uint4 query[kHeadDim / 8];
  float norm[2][kHeadDim];  // weight, bias
  float read[kHeadDim];
  // Of each row that is not finite all bits but the sign of a bfloat16, else
  // none.
  alignas(4) uint16_t bad[kMaxMiniBatch];
  // What the keys gave, then the gradients.
  ShownColumns<kHeadDim, kHeadDim / kOutputsOfTile> shown;
};

// Called, as it is long where code runs once.
static __device__ __noinline__ float2 NormOfEight(float v0, float v1, float v2,
                                                  float v3, float v4, float v5,
                                                  float v6, float v7) {
  const float values[8] = {v0, v1, v2, v3, v4, v5, v6, v7};
  const ColumnNorm norm = NormOfColumn(values);
  return {norm.scale, norm.scaled_mean};
}
template <int kValues>
__device__ ColumnNorm SharedNormOfColumn(const float (&v)[kValues]) {
  if constexpr (kValues == 8) {
    const float2 norm =
        NormOfEight(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
    return {norm.x, norm.y};
  } else {
    return NormOfColumn(v);
  }
}

// The state of a head is read before the kernels before have ended: no op of
// the step but this one writes it. kIsProjected: makes its rows of the
// projections.
template <int kHeadDim, bool kIsProjected>
class LinearSpread : LinearTiles<kHeadDim, kHeadDim / kOutputsOfTile> {
  using Tiles = LinearTiles<kHeadDim, kHeadDim / kOutputsOfTile>;
  using Tiles::At;
  using Tiles::Barrier;
  using Tiles::first_output_;
  using Tiles::first_tile_;
  using Tiles::g;
  using Tiles::kOutputsOfLane;
  using Tiles::kSteps;
  using Tiles::lane_;
  using Tiles::q;
  using Tiles::RowOf;
  using Tiles::shown_;
  using Tiles::thread_;
  using Tiles::WeightOffset;
  using typename Tiles::F;

  using Pair = ProjectedPair<kHeadDim>;

  static_assert(Tiles::kOwnTiles == 1);
  static constexpr int kUnits = RowTile<kHeadDim>::kUnits;
  static_assert(F::kItemThreads == kMaxMiniBatch * kUnits, "a unit a thread");
  // Columns of which a warp finds the gradients.
  static constexpr int kOwnColumns = (kColumns + F::kTiles - 1) / F::kTiles;

 public:
  using Space = LinearSpreadSpace<kHeadDim>;

  // `inputs` is read if kIsProjected.
  __device__ LinearSpread(const LearnerArgs& args,
                          const LearnerInputsArgs* inputs, int32_t head,
                          int thread, Space& space)
      : Tiles(thread, space.norm, space.shown),
        args_(args),
        inputs_(inputs),
        head_{args, head, {}},
        space_(space) {
    CopyNorm(args, head, thread, space.norm);
  }

  // Waits for the kernels before.
  __device__ void Run(const SequenceRows& sequence) {
    if (sequence.num_rows == 0) {
      cudaGridDependencySynchronize();
      WaitForCopies();
      return;
    }
    head_.sequence = sequence;
    phase_ = PhaseOf(sequence.position, args_.mini_batch);
    while (true) {
      RunRow();
      if (--head_.sequence.num_rows == 0) break;
      ++head_.sequence.first_row;
      phase_ = commits() ? 0 : phase_ + 1;
      Barrier();
    }
  }

 private:
  // Halves of the lane's weights as they stand in the slot: of 16 inputs the
  // words of inputs 2q, 2q + 1, 2q + 8 and 2q + 9.
  using Words = uint32_t[kSteps][4];
  struct State {
    uint16_t* weights;  // the lane's first in the slot
    uint4* kept_key;    // what the thread brings of the pending rows
    uint4* kept_target;
    float* kept_rates[kOwnColumns];
    Words high;
    Words low;  // only if the row ends its mini-batch
    uint32_t bias[2];
    float rates[kOwnColumns];  // of the lane's rows in the warp's columns
    float token_scale;         // of row `lane_`, or the last
  };
  // Of the step's row. Were it loaded as one value for all, the compiler would
  // wait for it before all else.
  __device__ float TauOf(const State& state) const {
    return __shfl_sync(kAllLanes, state.token_scale, phase_);
  }
  // Of the rows of a mini-batch what the corrections of the read take.
  struct Operands {
    uint32_t weights[2];  // query . k_s + 1
    uint32_t gradients[1][4];
  };

  __device__ bool commits() const { return phase_ + 1 == args_.mini_batch; }

  // The unit of a row that the thread brings.
  __device__ int UnitRow() const { return thread_ / kUnits; }
  __device__ uint4& UnitOf(RowTile<kHeadDim>& tile) const {
    return tile.units[RowTile<kHeadDim>::Index(UnitRow(), thread_ % kUnits)];
  }
  __device__ uint4* Kept(const StatePlane& plane) const {
    return reinterpret_cast<uint4*>(head_.PendingRows(plane)) + thread_;
  }
  __device__ int Column(int i) const { return first_tile_ + i * F::kTiles; }

  __device__ void RunRow() {
    State state;
    Load(state);
    if constexpr (kIsProjected) {
      Pair pair(*inputs_, head_.sequence, head_.index, phase_,
                thread_ % Pair::kThreads);
      const Logit logit = LoadLogit();
      cudaGridDependencySynchronize();
      MakeRow(pair, logit, state);
      WaitForCopies();
      Barrier();
      if (thread_ < Pair::kThreads) pair.ReplaceTail();
    } else {
      const Row row = FindRow();
      cudaGridDependencySynchronize();
      LoadRow(row, state);
      WaitForCopies();
      Barrier();
    }
    float read[2];
    Operands operands;
    Multiply(state, read, operands.weights);
    FindGradients(state);
    const float tau = TauOf(state);
    Correct(tau, operands, read);
    Write();
    if (commits()) Commit(operands.gradients, tau, state);
  }

  // Begins to bring all that the row needs of the slot.
  __device__ void Load(State& state) {
    state.weights = Found(Tiles::FirstWeight(head_.weights()));
    LoadWordsOf(state.weights, state.high);
    __syncwarp();  // The compiler would load these last.
    LoadFromL2(head_.bias() + first_output_, state.bias);
    state.kept_key = Found(Kept(args_.pending_keys));
    state.kept_target = Found(Kept(args_.pending_targets));
    if (UnitRow() < phase_) {
      CopyAsync16(&UnitOf(space_.keys), state.kept_key, true);
      CopyAsync16(&UnitOf(space_.targets), state.kept_target, true);
    }
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      const int row = RowOf(Column(i));
      state.kept_rates[i] = Found(head_.pending_rates() + row);
      state.rates[i] = 0.0f;
      if (row < phase_) state.rates[i] = __ldcg(state.kept_rates[i]);
    }
    state.token_scale =
        __ldcg(args_.token_scale + min(lane_, args_.mini_batch - 1));
    if (commits()) {
      LoadWordsOf(state.weights + kHeadDim * kHeadDim, state.low);
      if (UnitRow() > phase_) {
        UnitOf(space_.keys) = UnitOf(space_.targets) = {0, 0, 0, 0};
      }
    }
  }
  __device__ static void LoadWordsOf(const uint16_t* weights, Words& words) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t word[1];
        LoadFromL2(weights + WeightOffset(step, i / 2, i % 2), word);
        words[step][i] = word[0];
      }
    }
  }
  // What the thread brings of the step's row.
  struct Row {
    const uint4* key;
    const uint4* target;
    const uint4* query;
    const float* rate;
  };
  __device__ Row FindRow() const {
    const int64_t at = head_.RowOffset(0) / 8 + thread_ % kUnits;
    return {Found(Units(args_.keys) + at), Found(Units(args_.targets) + at),
            Found(Units(args_.queries) + at), Found(head_.Rate(0))};
  }
  // Brings it, and leaves it in the slot if its mini-batch goes on.
  __device__ void LoadRow(const Row& row, State& state) {
    const bool is_kept = !commits();
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      if (RowOf(Column(i)) == phase_) state.rates[i] = __ldcg(row.rate);
    }
    if (UnitRow() == phase_) {
      const uint4 key = __ldcg(row.key);
      const uint4 target = __ldcg(row.target);
      space_.query[thread_ % kUnits] = __ldcg(row.query);
      UnitOf(space_.keys) = key;
      UnitOf(space_.targets) = target;
      if (is_kept) {
        *state.kept_key = key;
        *state.kept_target = target;
      }
    }
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      if (is_kept && RowOf(Column(i)) == phase_) {
        *state.kept_rates[i] = state.rates[i];
      }
    }
  }

  // Of the rate: what is added to it, and where the step brings it.
  struct Logit {
    float bias;
    const float* from;
  };
  __device__ Logit LoadLogit() const {
    const float* const row = inputs_->projections +
                             head_.sequence.first_row * inputs_->row_stride +
                             head_.index;
    return {__ldcg(inputs_->rate_bias + head_.index),
            Found(row + inputs_->rate_offset)};
  }
  // As LoadRow, of the projections.
  __device__ void MakeRow(Pair& pair, const Logit& rate, State& state) {
    const bool is_kept = !commits();
    float logit = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      if (RowOf(Column(i)) == phase_) logit = __ldcg(rate.from);
    }
    if (thread_ < Pair::kThreads) {
      const typename Pair::Words made = pair.Make();
      const int channel = pair.channel();
      if (pair.is_key()) {
        Word(space_.keys.At(phase_, channel)) = made.row;
        Word(space_.targets.At(phase_, channel)) = made.target;
        if (is_kept) {
          const int at = phase_ * kHeadDim + channel;
          Word(head_.PendingRows(args_.pending_keys) + at) = made.row;
          Word(head_.PendingRows(args_.pending_targets) + at) = made.target;
        }
      } else {
        reinterpret_cast<uint32_t*>(space_.query)[channel / 2] = made.row;
      }
    }
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      if (RowOf(Column(i)) != phase_) continue;
      state.rates[i] =
          LearningRate(inputs_->base_lr, logit, rate.bias, kHeadDim);
      if (is_kept) *state.kept_rates[i] = state.rates[i];
    }
  }
  __device__ static const uint4* Units(const Operand& rows) {
    return static_cast<const uint4*>(rows.data);
  }

  // Shows what the keys give. `read`: query W + b. `weights` of rows s up to
  // the step's are query . k_s + 1; zero beyond.
  __device__ void Multiply(const State& state, float (&read)[2],
                           uint32_t (&weights)[2]) {
    float scores[2][4] = {};  // in each row the same
    float learnt[2][4];       // keys W + b
    float reads[4];           // in each column the same
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      learnt[0][i] = learnt[1][i] = reads[i] =
          __uint_as_float(state.bias[i / 2]);
    }
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t queries[4];  // of 32 inputs
      LoadMatrices(queries, &space_.query[2 * step + lane_ / 8]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t low = queries[2 * i];
        const uint32_t high = queries[2 * i + 1];
        const uint32_t rows[4] = {low, low, high, high};
        const uint32_t(&words)[4] = state.high[step + i];
        const uint32_t a[4] = {
            LowHalves(words[0], words[1]), HighHalves(words[0], words[1]),
            LowHalves(words[2], words[3]), HighHalves(words[2], words[3])};
        uint32_t keys[4];
        space_.keys.Load(keys, step + i, lane_);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          MultiplyAdd(learnt[n], a, keys[2 * n], keys[2 * n + 1]);
          MultiplyAdd(scores[n], rows, keys[2 * n], keys[2 * n + 1]);
        }
        MultiplyAdd(reads, a, low, high);
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      shown_.of_tiles[i][first_tile_][lane_] = {At(learnt, i, 0),
                                                At(learnt, i, 1)};
    }
    read[0] = reads[0];
    read[1] = reads[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      weights[n] =
          RowsUpToOwn(n) & PackPair(scores[n][0] + 1.0f, scores[n][1] + 1.0f);
    }
    Barrier();
  }
  // All bits of the halves of columns 2n and 2n + 1 that are of rows up to the
  // step's.
  __device__ uint32_t RowsUpToOwn(int n) const {
    const int rows = phase_ + 1 - RowOf(2 * n);
    return rows <= 0 ? 0 : rows == 1 ? 0x0000ffff : 0xffffffff;
  }

  // Makes gradients times rates of what was shown, at the weights of the
  // mini-batch's start: zero beyond the step's row, and of bad rows.
  __device__ void FindGradients(const State& state) {
#pragma unroll
    for (int i = 0; i < kOwnColumns; ++i) {
      if (kColumns % F::kTiles == 0 || Column(i) < kColumns) {
        FindColumn(Column(i), state.rates[i]);
      }
    }
    Barrier();
  }
  // As LinearTiles::FindGradients.
  __device__ void FindColumn(int column, float rate) {
    constexpr int kTilesOfUnit = F::kTilesOfUnit;
    constexpr int kOutputsOfUnit = 2 * kTilesOfUnit;  // adjacent ones
    float2(&tiles)[F::kTiles][kWarpSize] = shown_.of_tiles[column];
    const int row = RowOf(column);
    float z[kOutputsOfLane];
    float u[kOutputsOfLane];
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
      z[2 * t] = tiles[t][lane_].x;
      z[2 * t + 1] = tiles[t][lane_].y;
    }
    const ColumnNorm norm = SharedNormOfColumn(z);
    float2 sum = {0.0f, 0.0f};
#pragma unroll
    for (int first = 0; first < F::kTiles; first += kTilesOfUnit) {
      const int output = kOutputsOfTile * first + kOutputsOfUnit * g();
      uint32_t weights[kOutputsOfUnit];
      uint32_t biases[kOutputsOfUnit];
      uint32_t targets[kTilesOfUnit];
      LoadWords(&space_.norm[0][output], weights);
      LoadWords(&space_.norm[1][output], biases);
      LoadWords(space_.targets.At(row, output), targets);
#pragma unroll
      for (int t = 0; t < kTilesOfUnit; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int i = 2 * (first + t) + h;
          const float weight = __uint_as_float(weights[2 * t + h]);
          const float bias = __uint_as_float(biases[2 * t + h]);
          z[i] = norm(z[i]);
          const float target =
              h == 0 ? LowOfPair(targets[t]) : HighOfPair(targets[t]);
          u[i] = __fmul_rn(weight, fmaf(weight, z[i], bias - target));
        }
        const int i = 2 * (first + t);
        const float2 of_tile = {u[i] + u[i + 1],
                                fmaf(u[i + 1], z[i + 1], u[i] * z[i])};
        sum = i == 0 ? of_tile : float2{sum.x + of_tile.x, sum.y + of_tile.y};
      }
    }
    sum = {ColumnSum(sum.x), ColumnSum(sum.y)};
    const bool is_bad = !isfinite(fabsf(sum.x) + fabsf(sum.y));
    const bool is_used = row <= phase_ && !is_bad;
    if (g() == 0) space_.bad[row] = is_bad ? 0x7fff : 0;
    const float scale = norm.scale * rate;
    const float mean_u = sum.x * (1.0f / kHeadDim) * scale;
    const float mean_uz = sum.y * (1.0f / kHeadDim) * scale;
#pragma unroll
    for (int i = 0; i < kOutputsOfLane; ++i) {
      u[i] = fmaf(-mean_uz, z[i], fmaf(u[i], scale, -mean_u));
      if (!is_used) u[i] = 0.0f;
    }
#pragma unroll
    for (int t = 0; t < F::kTiles; ++t) {
      tiles[t][lane_] = {u[2 * t], u[2 * t + 1]};
    }
  }

  __device__ uint32_t BadOf(int n) const {
    return *reinterpret_cast<const uint32_t*>(&space_.bad[RowOf(2 * n)]);
  }

  // Shows read - tau sum_s weight_s gradients_s.
  __device__ void Correct(float tau, Operands& operands, float (&read)[2]) {
    float2 columns[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      columns[i] = shown_.of_tiles[i][first_tile_][lane_];
    }
    uint32_t(&gradients)[4] = operands.gradients[0];
    uint32_t b[2];  // A bad row's weight becomes NaN.
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      gradients[2 * n] = PackPair(columns[2 * n].x, columns[2 * n + 1].x);
      gradients[2 * n + 1] = PackPair(columns[2 * n].y, columns[2 * n + 1].y);
      b[n] = operands.weights[n] | (BadOf(n) & RowsUpToOwn(n));
    }
    float correction[4] = {};
    MultiplyAdd(correction, gradients, b[0], b[1]);
    if (q() == 0) {
      const float corrected[1][2] = {{fmaf(-tau, correction[0], read[0]),
                                      fmaf(-tau, correction[2], read[1])}};
      Tiles::StoreOutputs(corrected, space_.read);
    }
    Barrier();
  }

  __device__ void Write() {
    float read[kOutputsOfLane];
    constexpr int kOutputsOfUnit = 2 * F::kTilesOfUnit;
#pragma unroll
    for (int i = 0; i < kOutputsOfLane; i += kOutputsOfUnit) {
      uint32_t words[kOutputsOfUnit];
      LoadWords(&space_.read[8 * i + kOutputsOfUnit * g()], words);
#pragma unroll
      for (int j = 0; j < kOutputsOfUnit; ++j) {
        read[i + j] = __uint_as_float(words[j]);
      }
    }
    const ColumnNorm norm = SharedNormOfColumn(read);
    // Two outputs a thread.
    if (thread_ >= kHeadDim / 2) return;
    const auto two = [&](const float* from) {
      return reinterpret_cast<const float2*>(from)[thread_];
    };
    const uint32_t query =
        reinterpret_cast<const uint32_t*>(space_.query)[thread_];
    const float2 weight = two(space_.norm[0]);
    const float2 bias = two(space_.norm[1]);
    const float2 own = two(space_.read);
    reinterpret_cast<float2*>(args_.output + head_.RowOffset(0))[thread_] = {
        LowOfPair(query) + fmaf(weight.x, norm(own.x), bias.x),
        HighOfPair(query) + fmaf(weight.y, norm(own.y), bias.y)};
  }

  // Of a whole mini-batch.
  __device__ void Commit(const uint32_t (&gradients)[1][4], float tau,
                         State& state) {
    CommitBias(gradients, tau, state);
    CommitWeights(gradients[0], tau, state);
  }
  __device__ void CommitBias(const uint32_t (&gradients)[1][4], float tau,
                             const State& state) {
    const bool any_is_bad = __any_sync(kAllLanes, (BadOf(0) | BadOf(1)) != 0);
    float bias[1][2] = {
        {__uint_as_float(state.bias[0]), __uint_as_float(state.bias[1])}};
    Tiles::CommitBias(gradients, any_is_bad, tau, bias);
    if (q() == 0) Tiles::StoreOutputs(bias, head_.bias());
  }
  // W -= tau sum_s gradients_s k_s. The words of the first 16 inputs are the
  // next each time.
  __device__ void CommitWeights(const uint32_t (&gradients)[4], float tau,
                                State& state) {
    uint16_t* to = state.weights;
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      uint32_t keys[4];
      space_.keys.LoadTurned(keys, step, lane_);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        float sums[4] = {};
        MultiplyAdd(sums, gradients, keys[part], keys[2 + part]);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const uint32_t high = state.high[0][2 * part + c];
          const uint32_t low = state.low[0][2 * part + c];
          const float first = fmaf(-tau, sums[c], JoinFirst(high, low));
          const float second = fmaf(-tau, sums[2 + c], JoinSecond(high, low));
          auto* const at =
              reinterpret_cast<uint32_t*>(to + WeightOffset(0, part, c));
          at[0] = SplitHighPair(first, second);
          at[kHeadDim * kHeadDim / 2] = SplitLowPair(first, second);
        }
      }
      to += WeightOffset(1, 0, 0);
#pragma unroll
      for (int next = 1; next < kSteps; ++next) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          state.high[next - 1][i] = state.high[next][i];
          state.low[next - 1][i] = state.low[next][i];
        }
      }
    }
  }

  const LearnerArgs& args_;
  const LearnerInputsArgs* const inputs_;
  LinearHead<kHeadDim> head_;  // its sequence begins with the row that is next
  Space& space_;
  int phase_;  // of the step's row in its mini-batch
};

}  // namespace ttt
