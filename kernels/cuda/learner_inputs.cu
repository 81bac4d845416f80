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

// The rates of rows [begin, end) of the step, once the kernels before have
// ended.
__device__ void RunRates(const LearnerInputsArgs& args, int32_t begin,
                         int32_t end) {
  const uint32_t heads = args.num_heads;
  int32_t row = begin + int32_t(threadIdx.x / heads);
  uint32_t head = threadIdx.x % heads;
  float bias = args.rate_bias[head];
  WaitForKernelsBefore();
#pragma unroll 1
  while (row < end) {
    const float logit = args.projections[row * args.row_stride +
                                         args.rate_offset + int32_t(head)];
    args.rates[int64_t{row} * heads + head] =
        args.base_lr * Sigmoid(logit + bias) / args.head_dim;
    head += kThreads;
    row += int32_t(head / heads);
    head %= heads;
    bias = args.rate_bias[head];
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
};

// Where a row is in its mini-batch, and the angles of that place.
struct Place {
  int32_t phase;
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
  // Of a row of a sequence. Reads weights alone.
  __device__ Place PlaceOf(const SequenceRows& sequence, int32_t row) const {
    return PlaceAt(PhaseOf(sequence.position + row, args_.mini_batch));
  }

  // Rows `span` of a sequence, of which the first has this place. `convolve`
  // makes a query and a key of the shared projection.
  template <typename Convolutions>
  __device__ void Run(const SequenceRows& sequence, RowSpan span, Place place,
                      const Convolutions& convolve) const {
    const int64_t first = sequence.first_row;
    FourInputs next = Load(first + span.begin);
    for (int32_t row = span.begin; row < span.end; ++row) {
      FourInputs in = next;
      const float4 rope = place.rope;
      if (kWalks && row + 1 < span.end) {
        next = Load(first + row + 1);
        place = After(place);
      }
      if (kWalks && row + kRowsAhead < span.end &&
          threadIdx.x % kThreadsPerLine == 0) {
        Prefetch(first + row + kRowsAhead);
      }
      if constexpr (kShares) convolve(in.query, in.query, in.key);
      Store(first + row, in, rope);
      if (!kWalks && row + 1 < span.end) {
        next = Load(first + row + 1);
        place = After(place);
      }
    }
  }

  // The projection that is convolved, of a row of the step.
  __device__ float4 Shared(int64_t step_row) const {
    return LoadFour(args_.projections + step_row * args_.row_stride +
                    args_.query_offset + c_);
  }
  __device__ FourInputs Load(int64_t step_row) const {
    const float* const row = args_.projections + step_row * args_.row_stride;
    FourInputs in;
    in.query = LoadFour(row + args_.query_offset + c_);
    if constexpr (!kShares) in.key = LoadFour(row + args_.key_offset + c_);
    in.value = LoadFour(row + args_.value_offset + c_);
    return in;
  }
  __device__ void Store(int64_t step_row, const FourInputs& in,
                        float4 rope) const {
    const float4 query = Rotate(rope, in.query);
    const float4 key = Rotate(rope, in.key);
    const int64_t out = step_row * width_ + c_;
    StoreFour(args_.queries, out, query);
    StoreFour(args_.keys, out, key);
    StoreFour(args_.targets, out,
              {in.value.x - key.x, in.value.y - key.y, in.value.z - key.z,
               in.value.w - key.w});
  }

 private:
  __device__ Place PlaceAt(int32_t phase) const {
    return {phase, LoadFour(rope_ + phase * args_.head_dim)};
  }
  __device__ Place After(Place place) const {
    return PlaceAt(place.phase + 1 == args_.mini_batch ? 0 : place.phase + 1);
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
  const float* const rope_;  // of place 0
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
  __device__ Place PlaceOf(const SequenceRows& sequence, int32_t row) const {
    return channels_.PlaceOf(sequence, row);
  }

  // Rows `span` of a sequence, of which the first has this place.
  __device__ void Run(const SequenceRows& sequence, RowSpan span,
                      Place place) const {
    float* const tail = channels_.Tail(sequence);
    float4 before[kBefore];
    if (span.begin == 0) {
      LoadTail(tail, width_, before);
    } else {
      LoadBefore(sequence, span.begin, before);
    }
    channels_.Run(sequence, span, place,
                  [&](float4 own, float4& query, float4& key) {
                    query = conv_q_.Convolve(before, own);
                    key = conv_k_.Convolve(before, own);
                    Advance(before, own);
                  });
    if (span.begin > 0) return;
    if (span.end < sequence.num_rows) {
      LoadBefore(sequence, sequence.num_rows, before);
    }
    StoreTail(tail, width_, before);
  }

  // Two rows next to each other, of a sequence each that has no other.
  __device__ void RunPair(const SequenceRows (&sequences)[kPair],
                          const Place (&places)[kPair]) const {
    FourInputs in[kPair];
    float4 before[kPair][kBefore];
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      in[i] = channels_.Load(sequences[i].first_row);
      LoadTail(channels_.Tail(sequences[i]), width_, before[i]);
    }
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      const float4 own = in[i].query;
      in[i].query = conv_q_.Convolve(before[i], own);
      in[i].key = conv_k_.Convolve(before[i], own);
      channels_.Store(sequences[i].first_row, in[i], places[i].rope);
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
__global__ void __launch_bounds__(kThreads, 6)
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
  const Place place = channels.PlaceOf(sequence, span.begin);
  WaitForKernelsBefore();
  if (span.begin < span.end) channels.Run(sequence, span, place);
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
  Place places[kPair];
#pragma unroll
  for (int i = 0; i < kPair; ++i) {
    if (sequences[i].first_row >= begin) channels.Prefetch(sequences[i]);
    places[i] = channels.PlaceOf(sequences[i], 0);
  }
  WaitForKernelsBefore();
  if (end - begin == kPair && sequences[0].num_rows == 1 &&
      sequences[1].num_rows == 1) {
    channels.RunPair(sequences, places);
    return;
  }
  ForEachConvSpan(args.rows, sequences[0], begin, end, kFastConvKernel,
                  [&](const SequenceRows& sequence, RowSpan span) {
                    channels.Run(sequence, span,
                                 channels.PlaceOf(sequence, span.begin));
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
  const int32_t index = row - sequence.first_row;
  const Place place = channels.PlaceOf(sequence, index);
  WaitForKernelsBefore();
  channels.Store(row, channels.Load(row), place.rope);
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
  if (rows == 1) {
    return LaunchOverlapped(SharedInputsKernel, dim3(num_rows, blocks(4)),
                            kThreads, 0, stream, args);
  }
  return LaunchOverlapped(WalkSharedInputsKernel,
                          dim3((num_rows + rows - 1) / rows, blocks(4)),
                          kThreads, 0, stream, args, rows);
}

}  // namespace ttt
