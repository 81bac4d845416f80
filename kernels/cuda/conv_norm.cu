#include "kernels/cuda/conv_window.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/rehearse.cuh"
#include "kernels/cuda/row_values.cuh"

namespace ttt {
namespace {

constexpr int kBefore = kFastConvKernel - 1;  // inputs that the tail keeps

struct Shared {
  SumSpace<kBefore> before;
  SumSpace<kPair> own;
  SumSpace<kPair> sum;
};

// Four channels of one thread, and the part that the block has in a row. kSize
// as in CallOfSize. One that walks many rows loads ahead; others spare the
// registers.
template <int kSize, bool kWalks>
class FourChannels {
 public:
  __device__ FourChannels(const ConvNormArgs& args, Shared& shared)
      : args_(args),
        shared_(shared),
        size_(kSize > 0 ? kSize : args.hidden_size),
        is_active_(kSize == 4 * NumThreads() || 4 * threadIdx.x < size_),
        // A thread beyond the row reads what another has, and writes nothing.
        c_(is_active_ ? 4 * threadIdx.x : 0),
        conv_(args.weight + c_, args.bias + c_, size_),
        conv_norm_weight_(LoadFour(args.conv_norm_weight + c_)),
        norm_weight_(LoadFour(args.norm_weight + c_)) {}

  __device__ float* Tail(const SequenceRows& sequence) const {
    return SlotOf<float>(args_.tail, sequence.slot) + c_;
  }

  // Rows `span` of a sequence. If not `is_real`, which only a single row may
  // be, reads and writes none of its memory.
  __device__ void Run(const SequenceRows& sequence, RowSpan span,
                      bool is_real = true) const {
    const int64_t first = int64_t{sequence.first_row} * size_ + c_;
    const float* const input = args_.input + first;
    const bool writes = is_active_ && is_real;
    float4 row_input = {};
    if (is_real) row_input = LoadRow(input, span.begin);
    float4 before[kBefore] = {};
    if (span.begin == 0) {
      if (is_real) LoadTail(Tail(sequence), size_, before);
    } else {
      NormaliseBefore(input, span.begin, before);
    }
    for (int32_t row = span.begin; row < span.end; ++row) {
      const float4 x[1] = {row_input};
      if (kWalks && row + 1 < span.end) row_input = LoadRow(input, row + 1);
      if (kWalks && row + kRowsAhead < span.end &&
          threadIdx.x % kThreadsPerLine == 0) {
        PrefetchLine(input + int64_t{row + kRowsAhead} * size_);
      }
      float4 own[1];
      RunRows(first + int64_t{row} * size_, x, &before, writes, own);
      Advance(before, own[0]);
      if (!kWalks && row + 1 < span.end) row_input = LoadRow(input, row + 1);
    }
    if (span.begin > 0) return;
    if (is_real && span.end < sequence.num_rows) {
      NormaliseBefore(input, sequence.num_rows, before);
    }
    StoreTail(Tail(sequence), size_, before, writes);
  }

  // Two rows next to each other, of a sequence each that has no other.
  __device__ void RunPair(const SequenceRows (&sequences)[kPair]) const {
    const int64_t first = int64_t{sequences[0].first_row} * size_ + c_;
    float4 x[kPair];
    float4 before[kPair][kBefore];
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      x[i] = LoadRow(args_.input + first, i);
      LoadTail(Tail(sequences[i]), size_, before[i]);
    }
    float4 own[kPair];
    RunRows(first, x, before, is_active_, own);
#pragma unroll
    for (int i = 0; i < kPair; ++i) {
      Advance(before[i], own[i]);
      StoreTail(Tail(sequences[i]), size_, before[i], is_active_);
    }
  }

 private:
  // Rows next to each other, of which the four channels begin at `at`: their
  // inputs, and the inputs of the convolution before each. Gives its own.
  template <int kRows>
  __device__ void RunRows(int64_t at, const float4 (&x)[kRows],
                          const float4 (*before)[kBefore], bool writes,
                          float4 (&own)[kRows]) const {
    float squares[kRows];
    float4 sum[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) squares[i] = Squares(x[i]);
    BlockSums(shared_.own, NumThreads(), squares);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      own[i] = Scaled(x[i], Scale(squares[i]), conv_norm_weight_);
      const float4 y = conv_.Convolve(before[i], own[i]);
      sum[i] = {x[i].x + y.x, x[i].y + y.y, x[i].z + y.z, x[i].w + y.w};
      StoreFour(args_.sum + at + int64_t{i} * size_, sum[i], writes);
      squares[i] = Squares(sum[i]);
    }
    BlockSums(shared_.sum, NumThreads(), squares);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float4 normed = Scaled(sum[i], Scale(squares[i]), norm_weight_);
      StoreFour(args_.output, at + int64_t{i} * size_, normed, writes);
    }
  }

  // The inputs of the convolution before row `row`, all of them of this step.
  __device__ void NormaliseBefore(const float* input, int32_t row,
                                  float4 (&before)[kBefore]) const {
    float squares[kBefore];
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      before[j] = LoadRow(input, row - kBefore + j);
      squares[j] = Squares(before[j]);
    }
    BlockSums(shared_.before, NumThreads(), squares);
#pragma unroll
    for (int j = 0; j < kBefore; ++j) {
      before[j] = Scaled(before[j], Scale(squares[j]), conv_norm_weight_);
    }
  }

  __device__ float4 LoadRow(const float* input, int32_t row) const {
    return LoadFour(input + int64_t{row} * size_);
  }
  __device__ float Squares(float4 x) const {
    return is_active_ ? AddSquares(x, 0.0f) : 0.0f;
  }
  __device__ float Scale(float squares) const {
    return RmsScale<kSize>(squares, size_, args_.epsilon);
  }
  static __device__ int NumThreads() {
    return kSize > 0 ? RowShapeOf(kSize, kMaxSumThreads).threads : blockDim.x;
  }

  const ConvNormArgs& args_;
  Shared& shared_;
  const int32_t size_;
  const bool is_active_;
  const int32_t c_;
  const ConvFour conv_;
  const float4 conv_norm_weight_;
  const float4 norm_weight_;
};

// More than a block of a row has, which bounds its registers.
constexpr int kRowThreads = kMaxSumThreads + kSumThreads;

// grid [num_rows]; a block owns a row, and of it a thread four channels.
template <int kSize>
__global__ void __launch_bounds__(kRowThreads, 1)
    ConvNormKernel(const __grid_constant__ ConvNormArgs args) {
  __shared__ Shared shared;
  LetNextKernelBegin();
  const int32_t row = blockIdx.x;
  const SequenceRows sequence = SequenceOfRow(args.rows, row);
  const FourChannels<kSize, false> channels(args, shared);
  if (row == sequence.first_row) {
    PrefetchTail(channels.Tail(sequence), args.hidden_size);
  }
  const RowSpan span = ConvRows(sequence, row, row + 1, kFastConvKernel);
  Rehearse(args.rows.num_rows, [&](bool is_real) {
    // First as of one row that is decoded.
    const RowSpan rows = is_real ? span : RowSpan{0, 1};
    if (rows.begin < rows.end) channels.Run(sequence, rows, is_real);
  });
}

// grid [num_rows / rows]; a block owns so many rows of the step, two or more,
// and of these a thread four channels.
template <int kSize>
__global__ void __launch_bounds__(kMaxSumThreads, 1)
    WalkConvNormKernel(const __grid_constant__ ConvNormArgs args,
                       int32_t rows) {
  __shared__ Shared shared;
  LetNextKernelBegin();
  const int32_t begin = blockIdx.x * rows;
  const int32_t end = min(begin + rows, args.rows.num_rows);
  // Of the second row only where it is the last.
  const SequenceRows sequences[kPair] = {
      SequenceOfRow(args.rows, begin),
      SequenceOfRow(args.rows, min(begin + 1, end - 1))};
  const FourChannels<kSize, true> channels(args, shared);
  for (const SequenceRows& sequence : sequences) {
    if (sequence.first_row >= begin) {
      PrefetchTail(channels.Tail(sequence), args.hidden_size);
    }
  }
  WaitForKernelsBefore();
  if (end - begin == kPair && sequences[0].num_rows == 1 &&
      sequences[1].num_rows == 1) {
    channels.RunPair(sequences);
    return;
  }
  ForEachConvSpan(
      args.rows, sequences[0], begin, end, kFastConvKernel,
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
  const int32_t threads = RowShapeOf(args.hidden_size, kMaxSumThreads).threads;
  return CallOfSize(args.hidden_size, [&](auto size) {
    const int32_t rows = ConvRowsPerBlock(num_rows);
    if (rows == 1) {
      return LaunchOverlapped(ConvNormKernel<size>, dim3(num_rows), threads, 0,
                              stream, args);
    }
    return LaunchOverlapped(WalkConvNormKernel<size>,
                            dim3((num_rows + rows - 1) / rows), threads, 0,
                            stream, args, rows);
  });
}

}  // namespace ttt
