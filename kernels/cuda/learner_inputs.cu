#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 128;
constexpr int kBefore = kFastConvKernel - 1;  // inputs that the tail keeps

__device__ float2 Rotate(float cosine, float sine, float even, float odd) {
  return {fmaf(even, cosine, -odd * sine), fmaf(odd, cosine, even * sine)};
}
__device__ float4 Rotate(float4 rope, float4 x) {
  const float2 low = Rotate(rope.x, rope.y, x.x, x.y);
  const float2 high = Rotate(rope.z, rope.w, x.z, x.w);
  return {low.x, low.y, high.x, high.y};
}

// The rates of rows [begin, end) of the step.
__device__ void RunRates(const LearnerInputsArgs& args, int32_t begin,
                         int32_t end) {
  const int32_t heads = args.num_heads;
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < (end - begin) * heads; i += kThreads) {
    const int32_t head = i % heads;
    const int64_t row = begin + i / heads;
    const float logit =
        args.projections[row * args.row_stride + args.rate_offset + head];
    args.rates[row * heads + head] =
        args.base_lr * Sigmoid(logit + args.rate_bias[head]) / args.head_dim;
  }
}

// The place of a row in its mini-batch.
__device__ int32_t PhaseOf(int64_t position, int32_t mini_batch) {
  return position <= INT32_MAX ? uint32_t(position) % uint32_t(mini_batch)
                               : position % mini_batch;  // Far slower.
}

// What a thread reads of a row, in its four channels.
struct FourInputs {
  float4 query;  // or the shared projection
  float4 key;    // unless shared
  float4 value;
  float4 rope;
};

// Four channels of one thread. One that walks many rows loads ahead; others
// spare the registers.
template <bool kShares, bool kWalks>
class FourChannels {
 public:
  __device__ FourChannels(const LearnerInputsArgs& args, int32_t c)
      : args_(args), c_(c), width_(args.num_heads * args.head_dim) {}

  __device__ float* Tail(const SequenceRows& sequence) const {
    return SlotOf<float>(args_.tail, sequence.slot) + c_;
  }

  // Rows `span` of a sequence. `convolve` makes a query and a key of the shared
  // projection.
  template <typename Convolutions>
  __device__ void Run(const SequenceRows& sequence, RowSpan span,
                      const Convolutions& convolve) const {
    const int64_t first = sequence.first_row;
    int32_t phase = PhaseOf(sequence.position + span.begin, args_.mini_batch);
    FourInputs next = Load(first + span.begin, phase);
    for (int32_t row = span.begin; row < span.end; ++row) {
      const FourInputs in = next;
      phase = phase + 1 == args_.mini_batch ? 0 : phase + 1;
      if (kWalks && row + 1 < span.end) next = Load(first + row + 1, phase);
      if (kWalks && row + kRowsAhead < span.end &&
          threadIdx.x % kThreadsPerLine == 0) {
        Prefetch(first + row + kRowsAhead);
      }
      float4 query = in.query;
      float4 key = in.key;
      if constexpr (kShares) convolve(in.query, query, key);
      query = Rotate(in.rope, query);
      key = Rotate(in.rope, key);
      const int64_t out = (first + row) * width_ + c_;
      StoreFour(args_.queries, out, query);
      StoreFour(args_.keys, out, key);
      StoreFour(args_.targets, out,
                {in.value.x - key.x, in.value.y - key.y, in.value.z - key.z,
                 in.value.w - key.w});
      if (!kWalks && row + 1 < span.end) next = Load(first + row + 1, phase);
    }
  }

  // The projection that is convolved, of a row of the step.
  __device__ float4 Shared(int64_t step_row) const {
    return LoadFour(args_.projections + step_row * args_.row_stride +
                    args_.query_offset + c_);
  }

 private:
  __device__ FourInputs Load(int64_t step_row, int32_t phase) const {
    const float* const row = args_.projections + step_row * args_.row_stride;
    FourInputs in;
    in.query = LoadFour(row + args_.query_offset + c_);
    if constexpr (!kShares) in.key = LoadFour(row + args_.key_offset + c_);
    in.value = LoadFour(row + args_.value_offset + c_);
    in.rope =
        LoadFour(args_.rope + phase * args_.head_dim + c_ % args_.head_dim);
    return in;
  }

  __device__ void Prefetch(int64_t step_row) const {
    const float* const row = args_.projections + step_row * args_.row_stride;
    PrefetchLine(row + args_.query_offset + c_);
    if constexpr (!kShares) PrefetchLine(row + args_.key_offset + c_);
    PrefetchLine(row + args_.value_offset + c_);
  }

  const LearnerInputsArgs& args_;
  const int32_t c_;
  const int32_t width_;
};

// grid [num_rows / rows, parts of the channels, and one for the rates]; a block
// owns so many rows of the step in its channels, and of these a thread four.
template <bool kWalks>
__global__ void __launch_bounds__(kThreads, kWalks ? 4 : 6)
    SharedInputsKernel(const __grid_constant__ LearnerInputsArgs args,
                       int32_t rows) {
  LetNextKernelBegin();
  const int32_t begin = blockIdx.x * rows;
  const int32_t end = min(begin + rows, args.rows.num_rows);
  if (blockIdx.y + 1 == gridDim.y) {
    WaitForKernelsBefore();
    RunRates(args, begin, end);
    return;
  }
  const int32_t width = args.num_heads * args.head_dim;
  const int32_t c = 4 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= width) return;
  const SequenceRows first = SequenceOfRow(args.rows, begin);
  const FourChannels<true, kWalks> channels(args, c);
  const ConvFour conv_q(args.conv_q_weight + c, args.conv_q_bias + c, width);
  const ConvFour conv_k(args.conv_k_weight + c, args.conv_k_bias + c, width);
  if (begin == first.first_row && threadIdx.x % kThreadsPerLine == 0) {
    for (int j = 0; j < kBefore; ++j) {
      PrefetchLine(channels.Tail(first) + int64_t{j} * width);
    }
  }
  WaitForKernelsBefore();
  ForEachConvSpan(
      args.rows, first, begin, end, kFastConvKernel,
      [&](const SequenceRows& sequence, RowSpan span) {
        float* const tail = channels.Tail(sequence);
        float4 before[kBefore];
#pragma unroll
        for (int j = 0; j < kBefore; ++j) {
          before[j] = span.begin == 0
                          ? LoadFour(tail + int64_t{j} * width)
                          : channels.Shared(int64_t{sequence.first_row} +
                                            span.begin - kBefore + j);
        }
        channels.Run(sequence, span,
                     [&](float4 own, float4& query, float4& key) {
                       query = conv_q.Convolve(before, own);
                       key = conv_k.Convolve(before, own);
                       Advance(before, own);
                     });
        if (span.begin > 0) return;
#pragma unroll
        for (int j = 0; j < kBefore; ++j) {
          if (span.end < sequence.num_rows) {
            before[j] = channels.Shared(int64_t{sequence.first_row} +
                                        sequence.num_rows - kBefore + j);
          }
          StoreFour(tail + int64_t{j} * width, before[j]);
        }
      });
}

// grid [num_rows, parts of the channels, and one for the rates].
__global__ void __launch_bounds__(kThreads)
    PlainInputsKernel(const __grid_constant__ LearnerInputsArgs args) {
  LetNextKernelBegin();
  const int32_t row = blockIdx.x;
  if (blockIdx.y + 1 == gridDim.y) {
    WaitForKernelsBefore();
    RunRates(args, row, row + 1);
    return;
  }
  const int32_t c = 4 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= args.num_heads * args.head_dim) return;
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  WaitForKernelsBefore();
  const int32_t index = row - sequence.first_row;
  FourChannels<false, false>(args, c).Run(sequence, {index, index + 1}, 0);
}

// One channel pair of one thread, of any convolution.
__device__ void RunPair(const LearnerInputsArgs& args,
                        const SequenceRows& sequence, int32_t row, int32_t c,
                        float2 query, float2 key) {
  const int32_t width = args.num_heads * args.head_dim;
  const int64_t step_row = int64_t{sequence.first_row} + row;
  const float* const values =
      args.projections + step_row * args.row_stride + args.value_offset + c;
  const int64_t phase = PhaseOf(sequence.position + row, args.mini_batch);
  const float* const rope =
      args.rope + phase * args.head_dim + c % args.head_dim;
  query = Rotate(rope[0], rope[1], query.x, query.y);
  key = Rotate(rope[0], rope[1], key.x, key.y);
  const int64_t out = step_row * width + c;
  StoreOperand(args.queries, out, query.x);
  StoreOperand(args.queries, out + 1, query.y);
  StoreOperand(args.keys, out, key.x);
  StoreOperand(args.keys, out + 1, key.y);
  StoreOperand(args.targets, out, values[0] - key.x);
  StoreOperand(args.targets, out + 1, values[1] - key.y);
}

// The same of any kernel and any place of a row; a thread owns a pair of
// channels.
__global__ void __launch_bounds__(kThreads)
    AnyInputsKernel(const __grid_constant__ LearnerInputsArgs args) {
  WaitForKernelsBefore();
  const int32_t step_row = blockIdx.x;
  if (blockIdx.y + 1 == gridDim.y) {
    RunRates(args, step_row, step_row + 1);
    return;
  }
  const int32_t width = args.num_heads * args.head_dim;
  const int32_t c = 2 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= width) return;
  const SequenceRows sequence = SequenceOfRow(args.rows, step_row);
  if (sequence.num_rows == 0) return;
  const int64_t stride = args.row_stride;
  const float* const first = args.projections + sequence.first_row * stride;
  if (args.conv_q_weight == nullptr) {
    const int32_t index = step_row - sequence.first_row;
    const float* const q = first + index * stride + args.query_offset + c;
    const float* const k = first + index * stride + args.key_offset + c;
    RunPair(args, sequence, index, c, {q[0], q[1]}, {k[0], k[1]});
    return;
  }
  float* const tail = SlotOf<float>(args.tail, sequence.slot) + c;
  const float* const shared = first + args.query_offset + c;
  const ConvChannel even = {shared, stride, tail, width, args.kernel};
  const ConvChannel odd = {shared + 1, stride, tail + 1, width, args.kernel};
  const float* const wq = args.conv_q_weight + c;
  const float* const wk = args.conv_k_weight + c;
  const RowSpan span = ConvRows(sequence, step_row, step_row + 1, args.kernel);
  for (int32_t row = span.begin; row < span.end; ++row) {
    RunPair(args, sequence, row, c,
            {even.Convolve(wq, args.conv_q_bias[c], row),
             odd.Convolve(wq + 1, args.conv_q_bias[c + 1], row)},
            {even.Convolve(wk, args.conv_k_bias[c], row),
             odd.Convolve(wk + 1, args.conv_k_bias[c + 1], row)});
  }
  if (span.begin > 0) return;
  even.ReplaceTail(sequence.num_rows);
  odd.ReplaceTail(sequence.num_rows);
}

bool IsAligned(const LearnerInputsArgs& args) {
  const int64_t places =
      args.row_stride | args.query_offset | args.key_offset | args.value_offset;
  return places % 4 == 0 &&
         reinterpret_cast<uintptr_t>(args.projections) % sizeof(float4) == 0;
}

}  // namespace

cudaError_t LaunchLearnerInputs(const LearnerInputsArgs& args,
                                cudaStream_t stream) {
  const int32_t num_rows = args.rows.num_rows;
  if (num_rows == 0) return cudaSuccess;
  const int32_t width = args.num_heads * args.head_dim;
  // The blocks of a row whose threads have so many channels.
  const auto blocks = [&](int32_t channels) {
    return (width / channels + kThreads - 1) / kThreads + 1;
  };
  const bool shares = args.conv_q_weight != nullptr;
  if (!IsAligned(args) || (shares && args.kernel != kFastConvKernel)) {
    return LaunchOverlapped(AnyInputsKernel, dim3(num_rows, blocks(2)),
                            kThreads, 0, stream, args);
  }
  if (!shares) {
    return LaunchOverlapped(PlainInputsKernel, dim3(num_rows, blocks(4)),
                            kThreads, 0, stream, args);
  }
  const int32_t rows = ConvRowsPerBlock(num_rows);
  return LaunchOverlapped(
      rows > 1 ? SharedInputsKernel<true> : SharedInputsKernel<false>,
      dim3((num_rows + rows - 1) / rows, blocks(4)), kThreads, 0, stream, args,
      rows);
}

}  // namespace ttt
