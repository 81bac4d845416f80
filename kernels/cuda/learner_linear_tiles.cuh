// What the kernels of the linear learner share: which weights a lane has, and
// norms and gradients of columns. Each sum is in the same order in all of them,
// whatever the number of warps.
#pragma once

#include <cstddef>

#include "kernels/cuda/learner_tile.cuh"

namespace ttt {

inline constexpr uint32_t kPairOfOnes = 0x3f803f80;  // bfloat16

// An item is a head of a sequence. It has kWarps warps, each of which owns some
// tiles of 16 outputs.
template <int kHeadDim, int kWarps>
struct LinearForm {
  static constexpr int kTiles = kHeadDim / kOutputsOfTile;  // of the head
  static constexpr int kOwnTiles = kTiles / kWarps;
  static constexpr int kSteps = kHeadDim / 16;  // of 16 inputs
  // Tiles of which a lane's outputs are adjacent in memory: 16 or 8 bytes of
  // high halves.
  static constexpr int kTilesOfUnit = kHeadDim % 64 == 0 ? 4 : 2;
  static constexpr int kItemThreads = kWarps * kWarpSize;
  static_assert(kTilesOfUnit % kOwnTiles == 0, "a warp's are of one unit");
};

// Starts to copy weight and bias of a head's layer norm to shared memory.
template <int kHeadDim>
__device__ void CopyNorm(const LearnerArgs& args, int32_t head, int thread,
                         float (&norm)[2][kHeadDim]) {
  constexpr int kUnits = kHeadDim / 4;  // of 4 floats
  if (thread < 2 * kUnits) {
    const float* const from =
        thread < kUnits ? args.norm_weight : args.norm_bias;
    CopyAsync16(&norm[thread / kUnits][thread % kUnits * 4],
                from + int64_t{head} * kHeadDim + thread % kUnits * 4, true);
  }
}

// What the warps of an item show each other, in shared memory: of each column
// of a lane, two values of a tile; and what they make of them, of each row.
template <int kHeadDim, int kWarps>
struct ShownColumns {
  float2 of_tiles[kColumns][LinearForm<kHeadDim, kWarps>::kTiles][kWarpSize];
  float4 of_rows[kMaxMiniBatch / 2];
};
template <int kHeadDim>
struct ShownColumns<kHeadDim, 1> {};

// Where a head of a sequence is in memory.
template <int kHeadDim>
struct LinearHead {
  const LearnerArgs& args;
  int32_t index;
  SequenceRows sequence;

  // In its slot: the weights' high halves, then the low ones.
  __device__ uint16_t* weights() const {
    return SlotOf<uint16_t>(args.w1, sequence.slot) +
           int64_t{index} * 2 * kHeadDim * kHeadDim;
  }
  __device__ float* bias() const {
    return SlotOf<float>(args.b1, sequence.slot) + index * int64_t{kHeadDim};
  }
  __device__ __nv_bfloat16* PendingRows(const StatePlane& plane) const {
    return SlotOf<__nv_bfloat16>(plane, sequence.slot) +
           pending_offset() * kHeadDim;
  }
  __device__ float* pending_rates() const {
    return SlotOf<float>(args.pending_rates, sequence.slot) + pending_offset();
  }

  // Of row `row` of the sequence: in values of all rows, and its rate.
  __device__ int64_t RowOffset(int32_t row) const {
    return ((int64_t{sequence.first_row} + row) * args.num_heads + index) *
           kHeadDim;
  }
  __device__ const float* Rate(int32_t row) const {
    return args.rates + int64_t{sequence.first_row + row} * args.num_heads +
           index;
  }

 private:
  __device__ int64_t pending_offset() const {
    return int64_t{index} * (args.mini_batch - 1);
  }
};

// As LoadSequence. The barrier keeps the compiler from putting off a part of
// it, which would cost another trip to memory.
__device__ inline SequenceRows LoadWholeSequence(const StepRows& rows,
                                                 int32_t index) {
  static_assert(sizeof(SequenceRows) == 24 &&
                    offsetof(SequenceRows, slot) == 8 &&
                    offsetof(SequenceRows, position) == 16,
                "as it is put together");
  uint32_t words[3][2];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    LoadFromL2(reinterpret_cast<const uint2*>(rows.sequences + index) + i,
               words[i]);
  }
  __syncwarp();
  return {static_cast<int32_t>(words[0][0]), static_cast<int32_t>(words[0][1]),
          static_cast<int32_t>(words[1][0]),
          static_cast<int64_t>(uint64_t{words[2][1]} << 32 | words[2][0])};
}

// position % mini_batch, mostly without the long way of 64 bits.
__device__ inline int PhaseOf(int64_t position, int32_t mini_batch) {
  return (mini_batch & (mini_batch - 1)) == 0
             ? static_cast<int>(position) & (mini_batch - 1)
             : static_cast<int>(position % mini_batch);
}

// The tiles of a warp. A lane's outputs are the two, g and g + 8, of each tile;
// they are called h = 0 and 1, and adjacent in memory. kBarrier is its warps'
// own where the block has others, else 0.
template <int kHeadDim, int kWarps, int kBarrier = 0>
class LinearTiles {
 protected:
  using F = LinearForm<kHeadDim, kWarps>;
  static constexpr int kOwnTiles = F::kOwnTiles;
  static constexpr int kSteps = F::kSteps;
  static constexpr int kOutputsOfLane = kHeadDim / 8;  // of all warps

  // `norm`: weight and bias of the head's layer norm, in shared memory.
  __device__ LinearTiles(int thread, const float (&norm)[2][kHeadDim],
                         ShownColumns<kHeadDim, kWarps>& shown)
      : thread_(thread),
        lane_(thread % kWarpSize),
        first_tile_(thread / kWarpSize * kOwnTiles),
        first_output_(
            first_tile_ / F::kTilesOfUnit * kOutputsOfTile * F::kTilesOfUnit +
            g() * 2 * F::kTilesOfUnit + first_tile_ % F::kTilesOfUnit * 2),
        norm_(norm),
        shown_(shown) {}

  __device__ static void Barrier() {
    if constexpr (kWarps == 1) {
      __syncwarp();
    } else if constexpr (kBarrier != 0) {
      asm volatile("bar.sync %0, %1;\n" ::"n"(kBarrier), "n"(F::kItemThreads)
                   : "memory");
    } else {
      __syncthreads();
    }
  }

  __device__ int g() const { return lane_ / 4; }
  __device__ int q() const { return lane_ % 4; }

  // The lane's first weight of a head whose matrix begins at `matrix`, and from
  // there to those of inputs 16 step + 8 part + 2q + odd.
  __device__ uint16_t* FirstWeight(uint16_t* matrix) const {
    return matrix + 2 * q() * kHeadDim + first_output_;
  }
  __device__ static constexpr int WeightOffset(int step, int part, int odd) {
    return (16 * step + 8 * part + odd) * kHeadDim;
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

  // The lane's outputs of all `from`, and the reverse by one lane of the four
  // that have them.
  __device__ void LoadOutputs(const float* from,
                              float (&to)[kOwnTiles][2]) const {
    uint32_t words[2 * kOwnTiles];
    LoadWords(from + first_output_, words);
#pragma unroll
    for (int i = 0; i < 2 * kOwnTiles; ++i) {
      to[i / 2][i % 2] = __uint_as_float(words[i]);
    }
  }
  __device__ void StoreOutputs(const float (&from)[kOwnTiles][2],
                               float* to) const {
    uint32_t words[2 * kOwnTiles];
#pragma unroll
    for (int i = 0; i < 2 * kOwnTiles; ++i) {
      words[i] = __float_as_uint(from[i / 2][i % 2]);
    }
    StoreWords(to + first_output_, words);
  }
  __device__ void LoadNorm(float (&weight)[kOwnTiles][2],
                           float (&bias)[kOwnTiles][2]) const {
    LoadOutputs(norm_[0], weight);
    LoadOutputs(norm_[1], bias);
  }

  // Of kCount columns over all tiles of the head, where value(t, i, h) is of
  // this warp's tiles. With several warps each finds some, between two
  // barriers.
  template <int kCount, typename Value>
  __device__ void FindNorms(Value value, ColumnNorm (&norms)[kCount]) {
    if constexpr (kWarps == 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        float column[kOutputsOfLane];
#pragma unroll
        for (int output = 0; output < kOutputsOfLane; ++output) {
          column[output] = value(output / 2, i, output % 2);
        }
        norms[i] = NormOfColumn(column);
      }
    } else {
      float2 results[kCount];
      Exchange(
          [&](int t, int i) {
            return float2{value(t, i, 0), value(t, i, 1)};
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

  // Of the first kCount columns of rows up to `end`, at the weights of the
  // mini-batch's start: the gradients times the rows' rates, an operand A; zero
  // beyond. A row that is not finite becomes zero too, and bad: the later rows
  // are then made NaN, and the earlier ones are not. `learnt` is what the keys
  // gave; it is lost.
  template <int kCount, int kN>
  __device__ void FindGradients(int end, const RowTile<kHeadDim>& targets,
                                const float* rates,
                                float (&learnt)[kOwnTiles][kN][4],
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
      FindNorms([&](int t, int i, int h) { return At(learnt[t], i, h); },
                norms);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        uint32_t words[kOwnTiles];
        const int row = RowOf(i);
        LoadWords(targets.At(row, first_output_), words);
#pragma unroll
        for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& z = At(learnt[t], i, h);
            z = norms[i](z);
            const float error =
                fmaf(norm_weight[t][h], z,
                     norm_bias[t][h] -
                         (h == 0 ? LowOfPair(words[t]) : HighOfPair(words[t])));
            // Not to be fused with the sums in one kernel and not in another.
            u[t][h][i] = __fmul_rn(norm_weight[t][h], error);
          }
          const float z0 = At(learnt[t], i, 0);
          const float z1 = At(learnt[t], i, 1);
          tile_sums[t][i] = {u[t][0][i] + u[t][1][i],
                             fmaf(u[t][1][i], z1, u[t][0][i] * z0)};
        }
        scales[i] = norms[i].scale * rates[row];
      }
      FindSums(tile_sums, sums);
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) is_bad[i] = false;
    uint32_t used[kColumns / 2] = {};  // all bits of the columns' halves
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      is_bad[i] = !isfinite(fabsf(sums[i].x) + fabsf(sums[i].y));
      if (RowOf(i) < end && !is_bad[i]) {
        used[i / 2] |= i % 2 == 0 ? 0x0000ffff : 0xffff0000;
      }
      const float mean_u = sums[i].x * (1.0f / kHeadDim) * scales[i];
      const float mean_uz = sums[i].y * (1.0f / kHeadDim) * scales[i];
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          u[t][h][i] = fmaf(-mean_uz, At(learnt[t], i, h),
                            fmaf(u[t][h][i], scales[i], -mean_u));
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kColumns; i += 2) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          gradients[t][i + h] =
              i < kCount ? used[i / 2] & PackPair(u[t][h][i % kCount],
                                                  u[t][h][(i + 1) % kCount])
                         : 0;
        }
      }
    }
  }

  // bias -= tau sum_s gradients_s of a whole mini-batch; NaN after a bad row,
  // and with it all that is read from then on.
  __device__ static void CommitBias(const uint32_t (&gradients)[kOwnTiles][4],
                                    const bool (&is_bad)[kColumns], float tau,
                                    float (&bias)[kOwnTiles][2]) {
    CommitBias(
        gradients,
        __any_sync(kAllLanes, is_bad[0] || is_bad[1] || is_bad[2] || is_bad[3]),
        tau, bias);
  }
  __device__ static void CommitBias(const uint32_t (&gradients)[kOwnTiles][4],
                                    bool any_is_bad, float tau,
                                    float (&bias)[kOwnTiles][2]) {
    const float bias_tau = any_is_bad ? nanf("") : tau;
#pragma unroll
    for (int t = 0; t < kOwnTiles; ++t) {
      float sum[4] = {};
      MultiplyAdd(sum, gradients[t], kPairOfOnes, kPairOfOnes);
      bias[t][0] = fmaf(-bias_tau, sum[0], bias[t][0]);
      bias[t][1] = fmaf(-bias_tau, sum[2], bias[t][1]);
    }
  }

  const int thread_;  // of the item
  const int lane_;
  const int first_tile_;
  const int first_output_;

 private:
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

  // results[i] = find(those of all tiles of the head) of column i, where this
  // warp shows show(t, i) of its own tiles.
  template <int kCount, typename ShowTile, typename Find>
  __device__ void Exchange(ShowTile show, Find find,
                           float2 (&results)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int t = 0; t < kOwnTiles; ++t) {
        shown_.of_tiles[i][first_tile_ + t][lane_] = show(t, i);
      }
    }
    Barrier();
    constexpr int kOwnColumns = (kCount + kWarps - 1) / kWarps;
    const int first = first_tile_ / kOwnTiles * kOwnColumns;
    if (kOwnColumns * kWarps == kCount || first < kCount) {
      float2 found[kOwnColumns];
#pragma unroll
      for (int i = 0; i < kOwnColumns; ++i) {
        float2 tiles[F::kTiles];
#pragma unroll
        for (int t = 0; t < F::kTiles; ++t) {
          tiles[t] = shown_.of_tiles[first + i][t][lane_];
        }
        found[i] = find(tiles);
      }
      // After the loop: in it, the compiler would split it by this.
      if (g() == 0) {
#pragma unroll
        for (int i = 0; i < kOwnColumns; ++i) {
          reinterpret_cast<float2*>(shown_.of_rows)[RowOf(first + i)] =
              found[i];
        }
      }
    }
    Barrier();
    if constexpr (kCount == 1) {
      results[0] = reinterpret_cast<const float2*>(shown_.of_rows)[RowOf(0)];
    } else {
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        const float4 two = shown_.of_rows[RowOf(i) / 2];
        results[i] = {two.x, two.y};
        results[i + 1] = {two.z, two.w};
      }
    }
  }

  const float (&norm_)[2][kHeadDim];

 protected:
  ShownColumns<kHeadDim, kWarps>& shown_;
};

}  // namespace ttt
