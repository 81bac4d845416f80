#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/device_rows.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
// Rows of a mini-batch that a thread multiplies at once.
constexpr int kRowsOfAThread = 4;
// Between the channels of an array [channels, rows]: a multiple of 16 bytes
// that spreads the channels of 8 threads over all banks.
constexpr int kRowStride = kMaxMiniBatch + 4;

// The arrays of one block in shared memory, of which kInner is head_dim or 4 *
// head_dim. Those named "_t" are [channels, kRowStride]: rows are adjacent.
template <int kHeadDim, bool kIsMlp>
struct Tile {
  static constexpr int kInner = kIsMlp ? 4 * kHeadDim : kHeadDim;
  // Fast weights of MLP at head_dim 96 do not fit; they stay in the slot.
  static constexpr bool kIsResident = !kIsMlp || kHeadDim < 96;
  // W2 is read along both of its dimensions.
  static constexpr int kStride2 = kIsResident ? kHeadDim + 1 : kHeadDim;
  static constexpr int kWeights1 = kIsResident ? kHeadDim * kInner : 0;
  static constexpr int kWeights2 =
      kIsMlp && kIsResident ? kInner * kStride2 : 0;
  static constexpr int kInnerRows = kIsMlp ? kInner : 0;

  float weights1[kWeights1 + 4];
  float weights2[kWeights2 + 4];
  float bias1[kInner];
  float bias2[kHeadDim];
  float keys_t[kHeadDim * kRowStride];
  float queries_t[kHeadDim * kRowStride];
  float targets[kMaxMiniBatch * kHeadDim];
  float read[kMaxMiniBatch * kHeadDim];          // what keys or queries give
  float gradients_t[kHeadDim * kRowStride];      // of the last layer's output
  float inner_t[(kInnerRows + 1) * kRowStride];  // gelu of the keys' Z1
  float inner_gradients_t[(kInnerRows + 1) * kRowStride];
  float inner_read_t[(kInnerRows + 1) * kRowStride];  // gelu of the queries'
  float attention[kMaxMiniBatch * kMaxMiniBatch];
  float rates[kMaxMiniBatch];
  float token_scale[kMaxMiniBatch];
};

// The rows [begin, end) of a mini-batch; those before `begin` are pending.
struct Rows {
  int32_t begin;
  int32_t end;
};

// store(row, j, sum_i x_t[i][row] * w(i, j)) for the rows and all outputs, i in
// rising order.
template <int kInputs, int kOutputs, typename Weight, typename Store>
__device__ void Multiply(const float* x_t, Rows rows, Weight weight,
                         Store store) {
  constexpr int kParts = kMaxMiniBatch / kRowsOfAThread;
  for (int unit = threadIdx.x; unit < kOutputs * kParts; unit += kThreads) {
    const int j = unit % kOutputs;
    const int first = unit / kOutputs * kRowsOfAThread;
    if (first >= rows.end || first + kRowsOfAThread <= rows.begin) continue;
    float sums[kRowsOfAThread] = {};
#pragma unroll 8
    for (int i = 0; i < kInputs; ++i) {
      const float4 x =
          *reinterpret_cast<const float4*>(x_t + i * kRowStride + first);
      const float w = weight(i, j);
      sums[0] = fmaf(x.x, w, sums[0]);
      sums[1] = fmaf(x.y, w, sums[1]);
      sums[2] = fmaf(x.z, w, sums[2]);
      sums[3] = fmaf(x.w, w, sums[3]);
    }
    for (int r = 0; r < kRowsOfAThread; ++r) {
      const int row = first + r;
      if (row >= rows.begin && row < rows.end) store(row, j, sums[r]);
    }
  }
}

// attention[t][s] = rates[s] * (x_t . y_s + 1) for s <= t.
template <int kInputs, typename T>
__device__ void Attend(T& tile, const float* x_t, const float* y_t, Rows rows) {
  static_assert(kThreads == kMaxMiniBatch * kMaxMiniBatch, "a thread a pair");
  const int t = threadIdx.x / kMaxMiniBatch;
  const int s = threadIdx.x % kMaxMiniBatch;
  if (t < rows.begin || t >= rows.end || s > t) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int i = 0; i < kInputs; ++i) {
    sum = fmaf(x_t[i * kRowStride + t], y_t[i * kRowStride + s], sum);
  }
  tile.attention[t * kMaxMiniBatch + s] = tile.rates[s] * (sum + 1.0f);
}

// tau_t * sum_{s <= t} attention[t][s] * gradient_s[j].
template <typename T>
__device__ float Correction(const T& tile, const float* gradients_t, int t,
                            int j) {
  float sum = 0.0f;
  for (int s = 0; s <= t; ++s) {
    sum = fmaf(tile.attention[t * kMaxMiniBatch + s],
               gradients_t[j * kRowStride + s], sum);
  }
  return tile.token_scale[t] * sum;
}

// A row of the learner's output, d values a warp: lane l has l, l + 32, ..
template <int kHeadDim>
struct NormalRow {
  static constexpr int kValues = kHeadDim / kWarpSize;
  float values[kValues];  // normalised
  float root;

  __device__ explicit NormalRow(const float* z, int lane) {
    float sum = 0.0f;
    for (int i = 0; i < kValues; ++i) {
      values[i] = z[lane + i * kWarpSize];
      sum += values[i];
    }
    const float mean = WarpSum(sum) / kHeadDim;
    float squares = 0.0f;
    for (int i = 0; i < kValues; ++i) {
      values[i] -= mean;
      squares = fmaf(values[i], values[i], squares);
    }
    root = sqrtf(WarpSum(squares) / kHeadDim + kLayerNormEpsilon);
    for (int i = 0; i < kValues; ++i) values[i] /= root;
  }
};

// One head of one sequence.
template <int kHeadDim, bool kIsMlp>
class Head {
  using T = Tile<kHeadDim, kIsMlp>;
  static constexpr int kInner = T::kInner;

 public:
  __device__ Head(const LearnerArgs& args, const SequenceRows& sequence,
                  int32_t head, T& tile)
      : args_(args), sequence_(sequence), head_(head), tile_(tile) {
    const int32_t slot = sequence.slot;
    slot_w1_ = SlotOf<float>(args.w1, slot) + head * int64_t{kHeadDim * kInner};
    slot_b1_ = SlotOf<float>(args.b1, slot) + head * int64_t{kInner};
    if (kIsMlp) {
      slot_w2_ =
          SlotOf<float>(args.w2, slot) + head * int64_t{kHeadDim * kInner};
      slot_b2_ = SlotOf<float>(args.b2, slot) + head * int64_t{kHeadDim};
    }
    const int64_t pending = int64_t{head} * (args.mini_batch - 1);
    pending_keys_ = SlotOf<float>(args.pending_keys, slot) + pending * kHeadDim;
    pending_targets_ =
        SlotOf<float>(args.pending_targets, slot) + pending * kHeadDim;
    pending_rates_ = SlotOf<float>(args.pending_rates, slot) + pending;
    w1_ = T::kIsResident ? tile.weights1 : slot_w1_;
    w2_ = T::kIsResident ? tile.weights2 : slot_w2_;
  }

  __device__ void Run() {
    LoadWeights();
    int32_t row = 0;
    bool committed = false;
    while (row < sequence_.num_rows) {
      const int32_t begin = (sequence_.position + row) % args_.mini_batch;
      const int32_t left = sequence_.num_rows - row;
      const int32_t room = args_.mini_batch - begin;
      const Rows rows = {begin, begin + (left < room ? left : room)};
      __syncthreads();
      LoadRows(rows, row);
      __syncthreads();
      FindGradients(rows);
      Read(rows, row);
      if (rows.end == args_.mini_batch) {
        Commit();
        committed = true;
      } else {
        KeepRows(rows);
      }
      row += rows.end - rows.begin;
    }
    __syncthreads();
    if (committed) SaveWeights();
  }

 private:
  __device__ void LoadWeights() {
    if constexpr (T::kIsResident) {
      for (int i = threadIdx.x; i < kHeadDim * kInner; i += kThreads) {
        tile_.weights1[i] = slot_w1_[i];
        if (kIsMlp) {
          tile_.weights2[i / kHeadDim * T::kStride2 + i % kHeadDim] =
              slot_w2_[i];
        }
      }
    }
    for (int i = threadIdx.x; i < kInner; i += kThreads) {
      tile_.bias1[i] = slot_b1_[i];
    }
    for (int i = threadIdx.x; kIsMlp && i < kHeadDim; i += kThreads) {
      tile_.bias2[i] = slot_b2_[i];
    }
    if (threadIdx.x < args_.mini_batch) {
      tile_.token_scale[threadIdx.x] = args_.token_scale[threadIdx.x];
    }
  }

  __device__ void SaveWeights() {
    if constexpr (T::kIsResident) {
      for (int i = threadIdx.x; i < kHeadDim * kInner; i += kThreads) {
        slot_w1_[i] = tile_.weights1[i];
        if (kIsMlp) {
          slot_w2_[i] =
              tile_.weights2[i / kHeadDim * T::kStride2 + i % kHeadDim];
        }
      }
    }
    for (int i = threadIdx.x; i < kInner; i += kThreads) {
      slot_b1_[i] = tile_.bias1[i];
    }
    for (int i = threadIdx.x; kIsMlp && i < kHeadDim; i += kThreads) {
      slot_b2_[i] = tile_.bias2[i];
    }
  }

  __device__ static const float* Floats(const Operand& rows) {
    return static_cast<const float*>(rows.data);
  }

  // In floats, of this head in row `row` of the sequence.
  __device__ int64_t RowOffset(int32_t row) const {
    return ((int64_t{sequence_.first_row} + row) * args_.num_heads + head_) *
           kHeadDim;
  }

  // The pending rows and those of the step, whose first is `first`.
  __device__ void LoadRows(Rows rows, int32_t first) {
    for (int i = threadIdx.x; i < rows.end * kHeadDim; i += kThreads) {
      const int t = i / kHeadDim;
      const int c = i % kHeadDim;
      const bool is_new = t >= rows.begin;
      const int64_t from = is_new ? RowOffset(first + t - rows.begin) + c : i;
      tile_.keys_t[c * kRowStride + t] =
          is_new ? Floats(args_.keys)[from] : pending_keys_[from];
      tile_.targets[i] =
          is_new ? Floats(args_.targets)[from] : pending_targets_[from];
      if (is_new) {
        tile_.queries_t[c * kRowStride + t] = Floats(args_.queries)[from];
      }
    }
    if (threadIdx.x < rows.end) {
      const int t = threadIdx.x;
      tile_.rates[t] = t >= rows.begin
                           ? args_.rates[(int64_t{sequence_.first_row} + first +
                                          t - rows.begin) *
                                             args_.num_heads +
                                         head_]
                           : pending_rates_[t];
    }
  }

  // Of all rows up to rows.end, at the weights of the mini-batch's start.
  __device__ void FindGradients(Rows rows) {
    const Rows all = {0, rows.end};
    Multiply<kHeadDim, kInner>(
        tile_.keys_t, all, W1(), [&](int t, int j, float sum) {
          const float z = sum + tile_.bias1[j];
          if (kIsMlp) {
            tile_.inner_t[j * kRowStride + t] = Gelu(z);
            tile_.inner_gradients_t[j * kRowStride + t] = GeluDerivative(z);
          } else {
            tile_.read[t * kHeadDim + j] = z;
          }
        });
    __syncthreads();
    if constexpr (kIsMlp) {
      Multiply<kInner, kHeadDim>(
          tile_.inner_t, all, W2(), [&](int t, int j, float sum) {
            tile_.read[t * kHeadDim + j] = sum + tile_.bias2[j];
          });
      __syncthreads();
    }
    for (int t = threadIdx.x / kWarpSize; t < rows.end; t += kWarps) {
      FindGradient(t);
    }
    __syncthreads();
    if constexpr (kIsMlp) {
      Multiply<kHeadDim, kInner>(
          tile_.gradients_t, all, W2Transposed(), [&](int t, int j, float sum) {
            tile_.inner_gradients_t[j * kRowStride + t] *= sum;
          });
      __syncthreads();
    }
  }

  // A warp: of the loss of row t with respect to the learner's output.
  __device__ void FindGradient(int t) {
    const int lane = threadIdx.x % kWarpSize;
    const NormalRow<kHeadDim> z(tile_.read + t * kHeadDim, lane);
    float u[z.kValues];
    float sum_u = 0.0f;
    float sum_uz = 0.0f;
    for (int i = 0; i < z.kValues; ++i) {
      const int c = lane + i * kWarpSize;
      const float weight = args_.norm_weight[head_ * kHeadDim + c];
      const float bias = args_.norm_bias[head_ * kHeadDim + c];
      u[i] =
          (fmaf(weight, z.values[i], bias) - tile_.targets[t * kHeadDim + c]) *
          weight;
      sum_u += u[i];
      sum_uz = fmaf(u[i], z.values[i], sum_uz);
    }
    sum_u = WarpSum(sum_u);
    sum_uz = WarpSum(sum_uz);
    for (int i = 0; i < z.kValues; ++i) {
      tile_.gradients_t[(lane + i * kWarpSize) * kRowStride + t] =
          (kHeadDim * u[i] - sum_u - z.values[i] * sum_uz) /
          (kHeadDim * z.root);
    }
  }

  // The outputs of the step's rows, whose first is `first`.
  __device__ void Read(Rows rows, int32_t first) {
    Attend<kHeadDim>(tile_, tile_.queries_t, tile_.keys_t, rows);
    __syncthreads();
    const float* const gradients1 =
        kIsMlp ? tile_.inner_gradients_t : tile_.gradients_t;
    Multiply<kHeadDim, kInner>(
        tile_.queries_t, rows, W1(), [&](int t, int j, float sum) {
          const float z =
              sum + tile_.bias1[j] - Correction(tile_, gradients1, t, j);
          if (kIsMlp) {
            tile_.inner_read_t[j * kRowStride + t] = Gelu(z);
          } else {
            tile_.read[t * kHeadDim + j] = z;
          }
        });
    __syncthreads();
    if constexpr (kIsMlp) {
      Attend<kInner>(tile_, tile_.inner_read_t, tile_.inner_t, rows);
      __syncthreads();
      Multiply<kInner, kHeadDim>(
          tile_.inner_read_t, rows, W2(), [&](int t, int j, float sum) {
            tile_.read[t * kHeadDim + j] =
                sum + tile_.bias2[j] -
                Correction(tile_, tile_.gradients_t, t, j);
          });
      __syncthreads();
    }
    const int lane = threadIdx.x % kWarpSize;
    for (int t = rows.begin + threadIdx.x / kWarpSize; t < rows.end;
         t += kWarps) {
      const NormalRow<kHeadDim> z(tile_.read + t * kHeadDim, lane);
      float* const output = args_.output + RowOffset(first + t - rows.begin);
      for (int i = 0; i < z.kValues; ++i) {
        const int c = lane + i * kWarpSize;
        output[c] = tile_.queries_t[c * kRowStride + t] +
                    fmaf(args_.norm_weight[head_ * kHeadDim + c], z.values[i],
                         args_.norm_bias[head_ * kHeadDim + c]);
      }
    }
  }

  // P <- P - tau sum_s lr_s (input_s^T g_s, g_s), of a whole mini-batch.
  __device__ void Commit() {
    __syncthreads();
    if constexpr (kIsMlp) {
      CommitLayer<kInner, kHeadDim>(tile_.inner_t, tile_.gradients_t, w2_,
                                    T::kStride2, tile_.bias2);
      CommitLayer<kHeadDim, kInner>(tile_.keys_t, tile_.inner_gradients_t, w1_,
                                    kInner, tile_.bias1);
    } else {
      CommitLayer<kHeadDim, kInner>(tile_.keys_t, tile_.gradients_t, w1_,
                                    kInner, tile_.bias1);
    }
  }

  template <int kInputs, int kOutputs>
  __device__ void CommitLayer(const float* inputs_t, const float* gradients_t,
                              float* weights, int stride, float* bias) {
    const int mini_batch = args_.mini_batch;
    const float tau = tile_.token_scale[mini_batch - 1];
    constexpr int kParts = kOutputs < kThreads ? kThreads / kOutputs : 1;
    for (int unit = threadIdx.x; unit < kOutputs * kParts; unit += kThreads) {
      const int j = unit % kOutputs;
      float scaled[kMaxMiniBatch];
      float sum = 0.0f;
#pragma unroll
      for (int s = 0; s < kMaxMiniBatch; ++s) {
        scaled[s] = s < mini_batch
                        ? tile_.rates[s] * gradients_t[j * kRowStride + s]
                        : 0.0f;
        sum += scaled[s];
      }
      if (unit < kOutputs) bias[j] -= tau * sum;
      for (int i = unit / kOutputs; i < kInputs; i += kParts) {
        float step = 0.0f;
#pragma unroll
        for (int s = 0; s < kMaxMiniBatch; s += 4) {
          if (s >= mini_batch) break;
          const float4 x =
              *reinterpret_cast<const float4*>(inputs_t + i * kRowStride + s);
          step = fmaf(x.x, scaled[s], step);
          if (s + 1 < mini_batch) step = fmaf(x.y, scaled[s + 1], step);
          if (s + 2 < mini_batch) step = fmaf(x.z, scaled[s + 2], step);
          if (s + 3 < mini_batch) step = fmaf(x.w, scaled[s + 3], step);
        }
        weights[i * stride + j] -= tau * step;
      }
    }
  }

  // The step's rows of a mini-batch that goes on.
  __device__ void KeepRows(Rows rows) {
    for (int i = rows.begin * kHeadDim + threadIdx.x; i < rows.end * kHeadDim;
         i += kThreads) {
      const int t = i / kHeadDim;
      pending_keys_[i] = tile_.keys_t[i % kHeadDim * kRowStride + t];
      pending_targets_[i] = tile_.targets[i];
    }
    const int t = rows.begin + threadIdx.x;
    if (t < rows.end) pending_rates_[t] = tile_.rates[t];
  }

  __device__ auto W1() const {
    return [w = w1_](int i, int j) { return w[i * kInner + j]; };
  }
  __device__ auto W2() const {
    return [w = w2_](int i, int j) { return w[i * T::kStride2 + j]; };
  }
  __device__ auto W2Transposed() const {
    return [w = w2_](int i, int j) { return w[j * T::kStride2 + i]; };
  }

  const LearnerArgs& args_;
  const SequenceRows sequence_;
  const int32_t head_;
  T& tile_;
  float* slot_w1_;
  float* slot_b1_;
  float* slot_w2_ = nullptr;
  float* slot_b2_ = nullptr;
  float* pending_keys_;
  float* pending_targets_;
  float* pending_rates_;
  float* w1_;
  float* w2_;
};

// grid [num_heads, batch].
template <int kHeadDim, bool kIsMlp>
__global__ void __launch_bounds__(kThreads)
    LearnerKernel(const __grid_constant__ LearnerArgs args) {
  extern __shared__ float4 shared[];
  WaitForKernelsBefore();
  const SequenceRows sequence = args.rows.sequences[blockIdx.y];
  if (sequence.num_rows == 0) return;
  Head<kHeadDim, kIsMlp>(args, sequence, blockIdx.x,
                         *reinterpret_cast<Tile<kHeadDim, kIsMlp>*>(shared))
      .Run();
}

template <int kHeadDim, bool kIsMlp>
cudaError_t Launch(const LearnerArgs& args, cudaStream_t stream) {
  const dim3 grid(args.num_heads, args.rows.batch);
  return LaunchOverlapped(LearnerKernel<kHeadDim, kIsMlp>, grid, kThreads,
                          sizeof(Tile<kHeadDim, kIsMlp>), stream, args);
}

template <int kHeadDim, bool kIsMlp>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(LearnerKernel<kHeadDim, kIsMlp>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              sizeof(Tile<kHeadDim, kIsMlp>));
}

}  // namespace

cudaError_t LaunchLearner(const LearnerArgs& args, cudaStream_t stream) {
  if (args.rows.num_rows == 0) return cudaSuccess;
  switch (args.head_dim) {
    case 32:
      return args.is_mlp ? Launch<32, true>(args, stream)
                         : Launch<32, false>(args, stream);
    case 64:
      return args.is_mlp ? Launch<64, true>(args, stream)
                         : Launch<64, false>(args, stream);
    default:
      return args.is_mlp ? Launch<96, true>(args, stream)
                         : Launch<96, false>(args, stream);
  }
}

cudaError_t PrepareLearner() {
  for (cudaError_t (*prepare)() :
       {Prepare<32, true>, Prepare<32, false>, Prepare<64, true>,
        Prepare<64, false>, Prepare<96, true>, Prepare<96, false>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
