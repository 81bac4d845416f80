#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kBefore = kFastConvKernel - 1;  // inputs that the tail keeps

struct Shared {
  SumSpace<kBefore> before;
  SumSpace<1> own;
  SumSpace<1> sum;
};

// Four channels of one thread, and the part that the block has in a row.
class FourChannels {
 public:
  __device__ FourChannels(const ConvNormArgs& args, Shared& shared)
      : args_(args),
        shared_(shared),
        is_active_(4 * threadIdx.x < args.hidden_size),
        // A thread beyond the row reads what another has, and writes nothing.
        c_(is_active_ ? 4 * threadIdx.x : 0),
        conv_(args.weight + c_, args.bias + c_, args.hidden_size) {}

  __device__ float* Tail(const SequenceRows& sequence) const {
    return SlotOf<float>(args_.tail, sequence.slot) + c_;
  }
  // What else the first of the block's rows reads, but for its input.
  __device__ void Prefetch(const SequenceRows& sequence, bool has_tail) const {
    if (threadIdx.x % kThreadsPerLine != 0) return;
    PrefetchLine(args_.conv_norm_weight + c_);
    PrefetchLine(args_.norm_weight + c_);
    if (!has_tail) return;
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      PrefetchLine(Tail(sequence) + int64_t{j} * args_.hidden_size);
    }
  }

  __device__ void Run(const SequenceRows& sequence, RowSpan span) const {
    const int64_t size = args_.hidden_size;
    const int64_t first = sequence.first_row * size + c_;
    const float* const input = args_.input + first;
    float4 row_input = LoadFour(input + span.begin * size);
    float4 before[kBefore];
    if (span.begin == 0) {
#pragma unroll
      for (int j = 0; j < kBefore; ++j) {
        before[j] = LoadFour(Tail(sequence) + j * size);
      }
    } else {
      NormaliseBefore(input, span.begin, before);
    }
    for (int32_t row = span.begin; row < span.end; ++row) {
      const float4 x = row_input;
      if (row + 1 < span.end) row_input = LoadFour(input + (row + 1) * size);
      if (row + kRowsAhead < span.end && threadIdx.x % kThreadsPerLine == 0) {
        PrefetchLine(input + (row + kRowsAhead) * size);
      }
      const float4 weight_before = LoadFour(args_.conv_norm_weight + c_);
      const float4 own =
          Scaled(x, Scale(BlockSum(shared_.own, blockDim.x, Squares(x))),
                 weight_before);
      const float4 y = conv_.Convolve(before, own);
      const float4 sum = {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w};
      const int64_t out = first + row * size;
      if (is_active_) StoreFour(args_.sum + out, sum);
      Advance(before, own);
      const float4 weight = LoadFour(args_.norm_weight + c_);
      const float squares = BlockSum(shared_.sum, blockDim.x, Squares(sum));
      if (is_active_) {
        StoreFour(args_.output, out, Scaled(sum, Scale(squares), weight));
      }
    }
    if (span.begin > 0) return;
    if (span.end < sequence.num_rows) {
      NormaliseBefore(input, sequence.num_rows, before);
    }
    if (!is_active_) return;
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      StoreFour(Tail(sequence) + j * size, before[j]);
    }
  }

 private:
  // The inputs of the convolution before row `row`, all of them of this step.
  __device__ void NormaliseBefore(const float* input, int32_t row,
                                  float4 (&before)[kBefore]) const {
    float squares[kBefore];
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      before[j] =
          LoadFour(input + int64_t{row - kBefore + j} * args_.hidden_size);
      squares[j] = Squares(before[j]);
    }
    const float4 weight = LoadFour(args_.conv_norm_weight + c_);
    BlockSums(shared_.before, blockDim.x, squares);
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      before[j] = Scaled(before[j], Scale(squares[j]), weight);
    }
  }
  __device__ float Squares(float4 x) const {
    return is_active_ ? AddSquares(x, 0.0f) : 0.0f;
  }
  __device__ float Scale(float squares) const {
    return RmsScale<0>(squares, args_.hidden_size, args_.epsilon);
  }

  const ConvNormArgs& args_;
  Shared& shared_;
  const bool is_active_;
  const int32_t c_;
  const ConvFour conv_;
};

// grid [num_rows / rows]; a block owns so many rows of the step, and of these a
// thread four channels.
__global__ void __launch_bounds__(kMaxSumThreads, 1)
    ConvNormKernel(const __grid_constant__ ConvNormArgs args, int32_t rows) {
  __shared__ Shared shared;
  LetNextKernelBegin();
  const int32_t begin = blockIdx.x * rows;
  const int32_t end = min(begin + rows, args.rows.num_rows);
  const SequenceRows sequence = SequenceOfRow(args.rows, begin);
  const FourChannels channels(args, shared);
  channels.Prefetch(sequence, begin == sequence.first_row);
  WaitForKernelsBefore();
  ForEachConvSpan(
      args.rows, sequence, begin, end, kFastConvKernel,
      [&](const SequenceRows& of, RowSpan span) { channels.Run(of, span); });
}

constexpr int kAnyThreads = 256;

// Of any kernel and number of channels: what it needs of the rows before it
// computes anew for every row.
class AnyChannels {
 public:
  __device__ AnyChannels(const ConvNormArgs& args, const SequenceRows& sequence,
                         SumSpace<1>& space, float* scales)
      : args_(args),
        space_(space),
        scales_(scales),
        num_rows_(sequence.num_rows),
        first_(int64_t{sequence.first_row} * args.hidden_size),
        tail_(SlotOf<float>(args.tail, sequence.slot)) {}

  __device__ void RunRow(int32_t row) const {
    const int32_t size = args_.hidden_size;
    FindScales(row);
    float squares = 0.0f;
    float* const sum = args_.sum + first_ + int64_t{row} * size;
    for (int32_t c = threadIdx.x; c < size; c += kAnyThreads) {
      float y = args_.bias[c];
      for (int32_t j = 0; j < args_.kernel; ++j) {
        y = fmaf(args_.weight[int64_t{j} * size + c],
                 Input(row, row - args_.kernel + 1 + j, c), y);
      }
      sum[c] = args_.input[first_ + int64_t{row} * size + c] + y;
      squares = fmaf(sum[c], sum[c], squares);
    }
    const float scale = RmsScale<0>(Sum(squares), size, args_.epsilon);
    for (int32_t c = threadIdx.x; c < size; c += kAnyThreads) {
      StoreOperand(args_.output, first_ + int64_t{row} * size + c,
                   args_.norm_weight[c] * (sum[c] * scale));
    }
  }

  __device__ void ReplaceTail() const {
    const int32_t size = args_.hidden_size;
    const int32_t last = num_rows_ - 1;
    FindScales(last);
    for (int32_t c = threadIdx.x; c < size; c += kAnyThreads) {
      // In rising order: each place is read before it is written.
      for (int32_t j = 0; j < args_.kernel - 1; ++j) {
        tail_[int64_t{j} * size + c] =
            Input(last, last - args_.kernel + 2 + j, c);
      }
    }
  }

 private:
  __device__ float Sum(float value) const {
    __syncthreads();  // A call before this one may still read.
    return BlockSum(space_, kAnyThreads, value);
  }
  // Of the rows of this step that the convolution reads for `row`: scales_[i]
  // is of row - i.
  __device__ void FindScales(int32_t row) const {
    const int32_t size = args_.hidden_size;
    for (int32_t i = 0; i < args_.kernel && i <= row; ++i) {
      const float* const x = args_.input + first_ + int64_t{row - i} * size;
      float squares = 0.0f;
      for (int32_t c = threadIdx.x; c < size; c += kAnyThreads) {
        squares = fmaf(x[c], x[c], squares);
      }
      const float scale = RmsScale<0>(Sum(squares), size, args_.epsilon);
      if (threadIdx.x == 0) scales_[i] = scale;
    }
    __syncthreads();
  }
  // Channel c of the convolution's input `at`, from row - kernel + 1 to `row`,
  // of which the scales are.
  __device__ float Input(int32_t row, int32_t at, int32_t c) const {
    const int64_t size = args_.hidden_size;
    if (at < 0) return tail_[(at + args_.kernel - 1) * size + c];
    return args_.conv_norm_weight[c] *
           (args_.input[first_ + at * size + c] * scales_[row - at]);
  }

  const ConvNormArgs& args_;
  SumSpace<1>& space_;
  float* const scales_;  // [kMaxConvKernel], shared
  const int32_t num_rows_;
  const int64_t first_;
  float* const tail_;
};

// grid [num_rows]; a block owns a row.
__global__ void AnyConvNormKernel(const __grid_constant__ ConvNormArgs args) {
  __shared__ SumSpace<1> space;
  __shared__ float scales[kMaxConvKernel];
  WaitForKernelsBefore();
  const int32_t row = blockIdx.x;
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  if (sequence.num_rows == 0) return;
  const AnyChannels channels(args, sequence, space, scales);
  const RowSpan span = ConvRows(sequence, row, row + 1, args.kernel);
  for (int32_t i = span.begin; i < span.end; ++i) channels.RunRow(i);
  if (span.begin == 0) channels.ReplaceTail();
}

}  // namespace

cudaError_t LaunchConvNorm(const ConvNormArgs& args, cudaStream_t stream) {
  const int32_t num_rows = args.rows.num_rows;
  if (num_rows == 0) return cudaSuccess;
  if (args.kernel != kFastConvKernel || args.hidden_size % 4 != 0 ||
      args.hidden_size > 4 * kMaxSumThreads) {
    return LaunchOverlapped(AnyConvNormKernel, dim3(num_rows), kAnyThreads, 0,
                            stream, args);
  }
  const int32_t rows = ConvRowsPerBlock(num_rows);
  const RowShape shape = RowShapeOf(args.hidden_size, kMaxSumThreads);
  return LaunchOverlapped(ConvNormKernel, dim3((num_rows + rows - 1) / rows),
                          shape.threads, 0, stream, args, rows);
}

}  // namespace ttt
