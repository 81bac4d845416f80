// What the forms of the learner of two layers do alike: where a head's state
// is, and what a row of the mini-batch goes through between its two products.
//
// Lane (g, q) = (lane / 4, lane % 4) of a warp holds of a sum tile [16, 8] the
// places {(g, 2q), (g, 2q+1), (g+8, 2q), (g+8, 2q+1)}. So that it reads and
// writes whole runs of the fast weights, column c of inner tile i is inner
// channel 4 c + i of the warp, and column c of output tile i is channel
// head_dim / 8 * c + i.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/learner_mlp_math.cuh"
#include "kernels/cuda/learner_tile.cuh"

namespace ttt {

// What a block of either form has in shared memory; a form adds
//     outputs[kWarps][kMaxMiniBatch * kHeadDim]: what the inner channels of a
//         warp give of the output, [rows, head_dim] by OutputPlace
//     Score(warp, row, key): what they give of a score of the second layer
//     Query(row, channel)
template <int kHeadDim>
struct MlpShared {
  RowTile<kHeadDim> keys;
  RowTile<kHeadDim> targets;
  // Gradients of the output times their rates; zero of a row that is broken or
  // not there. These and the next three are in the places of output tiles.
  RowTile<kHeadDim> gradients;
  float bias2[kHeadDim];
  float norm_weight[kHeadDim];
  float norm_bias[kHeadDim];
  alignas(16) float bias1[MlpShape<kHeadDim>::kInner];
  float rates[kMaxMiniBatch];
  float token_scale[kMaxMiniBatch];
  uint32_t is_broken[kMaxMiniBatch];  // its gradient is not finite
};

// Asks for the high halves of a head.
template <int kHeadDim>
__device__ void PrefetchWeights(const LearnerArgs& args,
                                const SequenceRows& sequence, int64_t head) {
  constexpr uint32_t kHighBytes = 2 * MlpShape<kHeadDim>::kMatrix;
  if (sequence.num_rows == 0) return;
  for (const StatePlane& plane : {args.w1, args.w2}) {
    PrefetchBulk(
        SlotOf<std::byte>(plane, sequence.slot) + head * (2 * kHighBytes),
        kHighBytes);
  }
}

// One head of one sequence.
template <int kHeadDim, typename Shared>
class MlpHead {
 protected:
  using S = MlpShape<kHeadDim>;

  __device__ __forceinline__ MlpHead(const LearnerArgs& args,
                                     const SequenceRows& sequence, int32_t head,
                                     Shared& shared)
      : args_(args),
        sequence_(sequence),
        head_(head),
        shared_(shared),
        thread_(threadIdx.x) {
    Locate();
  }

  // Finds the thread's place, and again in each part of the routine, with a
  // zero that the assembler cannot know to be one: addresses that it kept from
  // part to part would take the registers of the weights.
  __device__ __forceinline__ void Locate() {
    const int32_t zero = sequence_.num_rows >> 31;
    thread_ += zero;
    head_ += zero;
    sequence_.slot += zero;
    sequence_.first_row += zero;
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
  __device__ void PrefetchAhead(int blocks_ahead) const {
    const uint32_t index = blockIdx.y * gridDim.x + blockIdx.x + blocks_ahead;
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
  // Of the two of its warp, the first. Of one lane, so that the compiler knows
  // that all lanes go the same way: it would have a second form of each sum
  // over lanes ready for when they did not.
  __device__ int FirstRowOfWarp(int n) const {
    return 2 * __shfl_sync(kAllLanes, warp_, 0) + n * S::kRowsAtOnce;
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

  __device__ __forceinline__ void CopyConstants() {
    // What steps write not through the L1 cache: see LoadBias2.
    if (4 * thread_ < S::kInner) {
      CopyAsync16(shared_.bias1 + 4 * thread_, Bias1() + 4 * thread_, true);
    }
    if (thread_ < kHeadDim) {
      const int c = head_ * kHeadDim + thread_;
      const int place = PlaceOf(thread_);
      CopyAsync4(shared_.norm_weight + place, args_.norm_weight + c, true);
      CopyAsync4(shared_.norm_bias + place, args_.norm_bias + c, true);
    }
    if (thread_ < kMaxMiniBatch) {
      CopyAsync4(shared_.token_scale + thread_, args_.token_scale + thread_,
                 thread_ < args_.mini_batch);
    }
  }

  // The thread's own of b2, not through the L1 cache, so that it may be read
  // before the kernels before have ended.
  __device__ __forceinline__ float LoadBias2() const {
    return thread_ < kHeadDim ? __ldcg(Bias2() + thread_) : 0.0f;
  }
  __device__ __forceinline__ void StoreBias2(float bias) {
    if (thread_ < kHeadDim) shared_.bias2[PlaceOf(thread_)] = bias;
  }

  // The operand A of 16 rows, of places 16 step to 16 step + 15.
  __device__ void LoadRows(uint32_t (&to)[4], const RowTile<kHeadDim>& rows,
                           int step) const {
    LoadMatrices(to, rows.At(lane_ % 16, 16 * step + lane_ / 16 * 8));
  }

  // z = b1, before the products with W1.
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
        output[c] = shared_.Query(row, c) + normal.x;
        output[c + S::kTiles] = shared_.Query(row, c + S::kTiles) + normal.y;
      }
    }
  }

  // z_t -= tau_t sum_{s <= t} (x_t . x_s + 1) times the gradient of s, with x
  // the inner activations. Rows from `end` on are not there.
  __device__ __forceinline__ void CorrectOutput(
      int row, int32_t end, float (&z)[S::kPairs][2]) const {
    const int key = lane_ % kLanesOfRow;
    float score = 1.0f;
#pragma unroll
    for (int warp = 0; warp < S::kWarps; ++warp) {
      score += shared_.Score(warp, row, key);
    }
    if (key > row) score = 0.0f;
    float sums[S::kPairs][2] = {};
    // As GradientPair, of row 0: by the permutation of its units.
    using Tile = RowTile<kHeadDim>;
    const uint32_t* from[4];
#pragma unroll
    for (int turn = 0; turn < 4; ++turn) {
      from[turn] =
          reinterpret_cast<const uint32_t*>(
              &shared_.gradients.units[thread_ % kLanesOfRow / 4 ^ turn]) +
          thread_ % 4;
    }
    // Eight at a time; the gradients of those that are not there are zero.
#pragma unroll 1
    for (int first = 0; first < end; first += 8) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float scale = __shfl_sync(kAllLanes, score, i, kLanesOfRow);
        const int turn = Tile::Permutation(i);
#pragma unroll
        for (int j = 0; j < S::kPairs; ++j) {
          const uint32_t pair =
              from[turn % 4][4 * (Tile::kUnits * i + 4 * (j ^ turn / 4))];
          sums[j][0] = fmaf(scale, LowOfPair(pair), sums[j][0]);
          sums[j][1] = fmaf(scale, HighOfPair(pair), sums[j][1]);
        }
      }
      score = __shfl_down_sync(kAllLanes, score, 8, kLanesOfRow);
#pragma unroll
      for (int turn = 0; turn < 4; ++turn) from[turn] += 8 * 4 * Tile::kUnits;
    }
    const float scale = TokenScale(row);
#pragma unroll
    for (int j = 0; j < S::kPairs; ++j) {
      z[j][0] = fmaf(-scale, sums[j][0], z[j][0]);
      z[j][1] = fmaf(-scale, sums[j][1], z[j][1]);
    }
  }

  // The inner gradients as operands A, of inner tiles 2 i and 2 i + 1: in other
  // registers than as operands B, by a zero as in Locate, or the assembler
  // would bring them together again for each product.
  __device__ __forceinline__ void InnerOperands(
      uint32_t (&a)[S::kRun1][4]) const {
    const int32_t zero = sequence_.num_rows >> 31;
#pragma unroll
    for (int i = 0; i < S::kRun1; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        a[i][k] = inner_gradients_[2 * i + k % 2][k / 2] + zero;
      }
    }
  }

  // The operands B of the keys, turned, of the places 16 step to 16 step + 15:
  // the first two words are of the first 8.
  __device__ __forceinline__ void LoadKeysTurned(uint32_t (&k)[4],
                                                 int step) const {
    LoadTransposed(k, shared_.keys.At(lane_ % 16, 16 * step + lane_ / 16 * 8));
  }

  // b1 of a whole mini-batch, to `to`: [inner]. a as InnerOperands gives it.
  __device__ __forceinline__ void CommitBias1(float scale,
                                              const uint32_t (&a)[S::kRun1][4],
                                              float* to) const {
#pragma unroll
    for (int i = 0; i < S::kRun1; ++i) {
      float sums[4];
      Multiply(sums, a[i], kOnes, kOnes);
      if (quad_ == 0) {
        const int channel = kWarpInner * warp_ + kInnerTiles * group_ + 2 * i;
        to[channel] = fmaf(-scale, sums[0], shared_.bias1[channel]);
        to[channel + 1] = fmaf(-scale, sums[2], shared_.bias1[channel + 1]);
      }
    }
  }

  // Of a place, over a whole mini-batch.
  __device__ __forceinline__ float SumGradients(int place) const {
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kMaxMiniBatch; ++s) {
      const uint32_t pair = GradientPair(s, place / 2);
      sum += place % 2 == 0 ? LowOfPair(pair) : HighOfPair(pair);
    }
    return sum;
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
  SequenceRows sequence_;
  int32_t head_;
  Shared& shared_;
  uint32_t thread_;
  int warp_;
  int lane_;
  int group_;
  int quad_;
  // Of the rows of the mini-batch: gelu(Z1) in pairs of columns, rows 0 to 7
  // and 8 to 15, its slopes, and the gradients turned.
  uint32_t inner_keys_[kInnerTiles][2];
  float slopes_[kInnerTiles][4];
  uint32_t inner_gradients_[kInnerTiles][2];
  uint32_t broken_;  // a bit a row
};

// Whether a multiprocessor has the shared memory for so many blocks at once,
// with what the system takes of each.
constexpr bool MlpBlocksFit(int blocks, int64_t shared_bytes) {
  constexpr int64_t kMaxSharedBytes = 228 * 1024;
  constexpr int64_t kSystemSharedBytes = 1024;
  return blocks * (shared_bytes + kSystemSharedBytes) <= kMaxSharedBytes;
}

template <typename Args>
cudaError_t PrepareMlpKernel(void (*kernel)(Args), int32_t shared_bytes) {
  if (const cudaError_t error = cudaFuncSetAttribute(
          kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
          cudaSharedmemCarveoutMaxShared);
      error != cudaSuccess) {
    return error;
  }
  return cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
}

}  // namespace ttt
