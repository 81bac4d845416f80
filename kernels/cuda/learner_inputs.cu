#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/learner_inputs_math.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/rehearse.cuh"

namespace ttt {
namespace {

constexpr int kThreads = 128;
constexpr int kBefore = kFastConvKernel - 1;  // inputs that the tail keeps

__device__ float4 Rotate(float4 rope, float4 x) {
  const float2 low = RotatePair(rope.x, rope.y, x.x, x.y);
  const float2 high = RotatePair(rope.z, rope.w, x.z, x.w);
  return {low.x, low.y, high.x, high.y};
}

// The rates of rows [begin, end) of the step, once the kernels before have
// ended.
__device__ void RunRates(const LearnerInputsArgs& args, int32_t begin,
                         int32_t end) {
  const uint32_t heads = args.num_heads;
  const int32_t first_row = begin + int32_t(threadIdx.x / heads);
  const uint32_t first_head = threadIdx.x % heads;
  const float first_bias = args.rate_bias[first_head];
  Rehearse(args.rows.num_rows, [&](bool is_real) {
    int32_t row = first_row;
    uint32_t head = first_head;
    float bias = first_bias;
#pragma unroll 1
    while (row < end) {
      float logit = 0.0f;
      if (is_real) {
        logit = args.projections[row * args.row_stride + args.rate_offset +
                                 int32_t(head)];
      }
      const float rate = LearningRate(args.base_lr, logit, bias, args.head_dim);
      StoreOne(args.rates + int64_t{row} * heads + head, rate, is_real);
      head += kThreads;
      row += int32_t(head / heads);
      head %= heads;
      bias = args.rate_bias[head];
    }
  });
}

// The place of a row in its mini-batch. Without a division of 64 bits, which is
// a long call.
__device__ int32_t PhaseOf(int64_t position, uint32_t mini_batch) {
  static_assert(kMaxMiniBatch < 1 << 16);
  const auto low = uint32_t(position);
  const auto high = uint32_t(position >> 32);
  if (high == 0) return int32_t(low % mini_batch);
  const uint32_t of_high = high % mini_batch;
  const uint32_t of_most = (of_high << 16 | low >> 16) % mini_batch;
  return int32_t((of_most << 16 | (low & 0xffff)) % mini_batch);
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
      : args_(args),
        c_(c),
        width_(args.num_heads * args.head_dim),
        rope_(args.rope + uint32_t(c) % uint32_t(args.head_dim)) {}

  __device__ float* Tail(const SequenceRows& sequence) const {
    return SlotOf<float>(args_.tail, sequence.slot) + c_;
  }
  // The place of a row of a sequence in its mini-batch.
  __device__ int32_t Phase(const SequenceRows& sequence, int32_t row) const {
    return PhaseOf(sequence.position + row, args_.mini_batch);
  }

  // Rows `span` of a sequence, of which the first has this phase. `convolve`
  // makes a query and a key of the shared projection. If not `is_real`, which
  // only a single row may be, reads and writes no rows.
  template <typename Convolutions>
  __device__ void Run(const SequenceRows& sequence, RowSpan span, int32_t phase,
                      bool is_real, const Convolutions& convolve) const {
    const int64_t first = sequence.first_row;
    FourInputs next = {};
    if (is_real) next = Load(first + span.begin, phase);
    for (int32_t row = span.begin; row < span.end; ++row) {
      FourInputs in = next;
      phase = phase + 1 == args_.mini_batch ? 0 : phase + 1;
      if (kWalks && row + 1 < span.end) next = Load(first + row + 1, phase);
      if (kWalks && row + kRowsAhead < span.end &&
          threadIdx.x % kThreadsPerLine == 0) {
        Prefetch(first + row + kRowsAhead);
      }
      if constexpr (kShares) convolve(in.query, in.query, in.key);
      Store(first + row, in, is_real);
      if (!kWalks && row + 1 < span.end) next = Load(first + row + 1, phase);
    }
  }

  // The projection that is convolved, of a row of the step.
  __device__ float4 Shared(int64_t step_row) const {
    return LoadFour(args_.projections + step_row * args_.row_stride +
                    args_.query_offset + c_);
  }
  __device__ FourInputs Load(int64_t step_row, int32_t phase) const {
    const float* const row = args_.projections + step_row * args_.row_stride;
    FourInputs in;
    in.query = LoadFour(row + args_.query_offset + c_);
    if constexpr (!kShares) in.key = LoadFour(row + args_.key_offset + c_);
    in.value = LoadFour(row + args_.value_offset + c_);
    in.rope = LoadFour(rope_ + phase * args_.head_dim);
    return in;
  }
  __device__ void Store(int64_t step_row, const FourInputs& in,
                        bool does = true) const {
    const float4 query = Rotate(in.rope, in.query);
    const float4 key = Rotate(in.rope, in.key);
    const int64_t out = step_row * width_ + c_;
    StoreFour(args_.queries, out, query, does);
    StoreFour(args_.keys, out, key, does);
    StoreFour(args_.targets, out,
              {in.value.x - key.x, in.value.y - key.y, in.value.z - key.z,
               in.value.w - key.w},
              does);
  }

 private:
  __device__ void Prefetch(int64_t step_row) const {
    const float* const row = args_.projections + step_row * args_.row_stride;
    PrefetchLine(row + args_.query_offset + c_);
    if constexpr (!kShares) PrefetchLine(row + args_.key_offset + c_);
    PrefetchLine(row + args_.value_offset + c_);
  }

  const LearnerInputsArgs& args_;
  const int32_t c_;
  const int32_t width_;
  const float* const rope_;  // of phase 0
};

// Four channels of one thread, of a shared projection.
template <bool kWalks>
class SharedChannels {
 public:
  __device__ SharedChannels(const LearnerInputsArgs& args, int32_t c)
      : channels_(args, c),
        width_(args.num_heads * args.head_dim),
        conv_q_(args.conv_q_weight + c, args.conv_q_bias + c, width_),
        conv_k_(args.conv_k_weight + c, args.conv_k_bias + c, width_) {}

  __device__ void Prefetch(const SequenceRows& sequence) const {
    PrefetchTail(channels_.Tail(sequence), width_);
  }
  __device__ int32_t Phase(const SequenceRows& sequence, int32_t row) const {
    return channels_.Phase(sequence, row);
  }

  // Rows `span` of a sequence, of which the first has this phase; `is_real` as
  // for FourChannels.
  __device__ void Run(const SequenceRows& sequence, RowSpan span, int32_t phase,
                      bool is_real = true) const {
    float* const tail = channels_.Tail(sequence);
    float4 before[kBefore] = {};
    if (span.begin == 0) {
      if (is_real) LoadTail(tail, width_, before);
    } else {
      LoadBefore(sequence, span.begin, before);
    }
    channels_.Run(sequence, span, phase, is_real,
                  [&](float4 own, float4& query, float4& key) {
                    query = conv_q_.Convolve(before, own);
                    key = conv_k_.Convolve(before, own);
                    Advance(before, own);
                  });
    if (span.begin > 0) return;
    if (is_real && span.end < sequence.num_rows) {
      LoadBefore(sequence, sequence.num_rows, before);
    }
    StoreTail(tail, width_, before, is_real);
  }

  // Two rows next to each other, of a sequence each that has no other.
  __device__ void RunPair(const SequenceRows (&sequences)[kPair],
                          const int32_t (&phases)[kPair]) const {
    FourInputs in[kPair];
    float4 before[kPair][kBefore];
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      in[i] = channels_.Load(sequences[i].first_row, phases[i]);
      LoadTail(channels_.Tail(sequences[i]), width_, before[i]);
    }
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      const float4 own = in[i].query;
      in[i].query = conv_q_.Convolve(before[i], own);
      in[i].key = conv_k_.Convolve(before[i], own);
      channels_.Store(sequences[i].first_row, in[i]);
      Advance(before[i], own);
      StoreTail(channels_.Tail(sequences[i]), width_, before[i]);
    }
  }

 private:
  // The rows before row `row`, all of them of this step.
  __device__ void LoadBefore(const SequenceRows& sequence, int32_t row,
                             float4 (&before)[kBefore]) const {
    const int64_t first = int64_t{sequence.first_row} + row - kBefore;
#pragma unroll
    for (int j = 0; j < kBefore; ++j) before[j] = channels_.Shared(first + j);
  }

  const FourChannels<true, kWalks> channels_;
  const int32_t width_;
  const ConvFour conv_q_;
  const ConvFour conv_k_;
};

// grid [num_rows, parts of the channels, and one for the rates]; a block owns a
// row in its channels, and of it a thread four.
__global__ void __launch_bounds__(kThreads, 5)
    SharedInputsKernel(const __grid_constant__ LearnerInputsArgs args) {
  LetNextKernelBegin();
  const int32_t row = blockIdx.x;
  if (blockIdx.y + 1 == gridDim.y) {
    RunRates(args, row, row + 1);
    return;
  }
  const int32_t c = 4 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= args.num_heads * args.head_dim) return;
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  const SharedChannels<false> channels(args, c);
  if (row == sequence.first_row) channels.Prefetch(sequence);
  const RowSpan span = ConvRows(sequence, row, row + 1, kFastConvKernel);
  const int32_t phase = channels.Phase(sequence, span.begin);
  Rehearse(args.rows.num_rows, [&](bool is_real) {
    // First as of one row that is decoded.
    const RowSpan rows = is_real ? span : RowSpan{0, 1};
    if (rows.begin < rows.end) channels.Run(sequence, rows, phase, is_real);
  });
}

// grid [num_rows / rows, parts of the channels, and one for the rates]; a block
// owns so many rows of the step, two or more, in its channels.
__global__ void __launch_bounds__(kThreads, 4)
    WalkSharedInputsKernel(const __grid_constant__ LearnerInputsArgs args,
                           int32_t rows) {
  LetNextKernelBegin();
  const int32_t begin = blockIdx.x * rows;
  const int32_t end = min(begin + rows, args.rows.num_rows);
  if (blockIdx.y + 1 == gridDim.y) {
    RunRates(args, begin, end);
    return;
  }
  const int32_t c = 4 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= args.num_heads * args.head_dim) return;
  const SequenceRows sequences[kPair] = {
      SequenceOfRow(args.rows, begin),
      SequenceOfRow(args.rows, min(begin + 1, end - 1))};
  const SharedChannels<true> channels(args, c);
  int32_t phases[kPair];
#pragma unroll
  for (int i = 0; i < kPair; ++i) {
    if (sequences[i].first_row >= begin) channels.Prefetch(sequences[i]);
    phases[i] = channels.Phase(sequences[i], 0);
  }
  WaitForKernelsBefore();
  if (end - begin == kPair && sequences[0].num_rows == 1 &&
      sequences[1].num_rows == 1) {
    channels.RunPair(sequences, phases);
    return;
  }
  ForEachConvSpan(args.rows, sequences[0], begin, end, kFastConvKernel,
                  [&](const SequenceRows& sequence, RowSpan span) {
                    channels.Run(sequence, span,
                                 channels.Phase(sequence, span.begin));
                  });
}

// grid [num_rows, parts of the channels, and one for the rates].
__global__ void __launch_bounds__(kThreads)
    PlainInputsKernel(const __grid_constant__ LearnerInputsArgs args) {
  LetNextKernelBegin();
  const int32_t row = blockIdx.x;
  if (blockIdx.y + 1 == gridDim.y) {
    RunRates(args, row, row + 1);
    return;
  }
  const int32_t c = 4 * (blockIdx.y * kThreads + threadIdx.x);
  if (c >= args.num_heads * args.head_dim) return;
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  const FourChannels<false, false> channels(args, c);
  const int32_t phase = channels.Phase(sequence, row - sequence.first_row);
  WaitForKernelsBefore();
  channels.Store(row, channels.Load(row, phase));
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
  query = RotatePair(rope[0], rope[1], query.x, query.y);
  key = RotatePair(rope[0], rope[1], key.x, key.y);
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
  const int32_t step_row = blockIdx.x;
  if (blockIdx.y + 1 == gridDim.y) {
    RunRates(args, step_row, step_row + 1);
    return;
  }
  WaitForKernelsBefore();
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
  if (rows == 1) {
    return LaunchOverlapped(SharedInputsKernel, dim3(num_rows, blocks(4)),
                            kThreads, 0, stream, args);
  }
  return LaunchOverlapped(WalkSharedInputsKernel,
                          dim3((num_rows + rows - 1) / rows, blocks(4)),
                          kThreads, 0, stream, args, rows);
}

}  // namespace ttt
