#include "kernels/cuda/launchers.h"

namespace ttt {
namespace {

constexpr int kWarpSize = 32;
constexpr int kTileInputs = 64;  // of a stage
constexpr int kChunk = 8;        // bfloat16 of 16 bytes
constexpr int kChunksOfARow = kTileInputs / kChunk;
constexpr int kMmaInputs = 16;

// Shared memory of a stage holds rows of 128 bytes, 16-byte chunk c of row r in
// place c ^ (r % 8): neither the copies nor ldmatrix meet a bank twice.
__device__ int SwizzledChunk(int row, int chunk) {
  return row * kChunksOfARow + (chunk ^ (row % 8));
}

__device__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, or, of those, as many as `bytes` and zeros.
__device__ void CopyAsync(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(bytes));
}
__device__ void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::); }
template <int kPending>
__device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ void LoadMatrices(uint32_t (&to)[4], const void* shared) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(SharedAddress(shared)));
}

__device__ void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4],
                            uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A block computes kRows x kOutputs, a warp kWarpRows x kWarpOutputs of them,
// from a ring of kStages stages of kTileInputs inputs.
template <int kRowsOfTile, int kOutputsOfTile, int kRowsOfWarp,
          int kOutputsOfWarp, int kNumStages>
struct Shape {
  static constexpr int kRows = kRowsOfTile;
  static constexpr int kOutputs = kOutputsOfTile;
  static constexpr int kWarpRows = kRowsOfWarp;
  static constexpr int kWarpOutputs = kOutputsOfWarp;
  static constexpr int kStages = kNumStages;
  static constexpr int kRowWarps = kRows / kWarpRows;
  static constexpr int kWarps = kRowWarps * (kOutputs / kWarpOutputs);
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStageChunks = (kRows + kOutputs) * kChunksOfARow;
  static constexpr int kSharedBytes = kStages * kStageChunks * 16;
  static_assert(kWarpRows % 16 == 0 && kWarpOutputs % 16 == 0);
};

template <typename S>
class Block {
 public:
  __device__ Block(const GemmArgs& args, const PackedMatrix& weights,
                   uint4* shared)
      : args_(args),
        weights_(weights),
        shared_(shared),
        first_output_(blockIdx.x * S::kOutputs),
        first_row_(blockIdx.y * S::kRows),
        lane_(threadIdx.x % kWarpSize),
        warp_row_(threadIdx.x / kWarpSize % S::kRowWarps * S::kWarpRows),
        warp_output_(threadIdx.x / kWarpSize / S::kRowWarps * S::kWarpOutputs) {
  }

  __device__ void Run() {
    const int num_tiles = weights_.padded_inputs / kTileInputs;
    for (int stage = 0; stage < S::kStages - 1; ++stage) {
      if (stage < num_tiles) Load(stage, stage);
      CommitCopies();
    }
    for (int tile = 0; tile < num_tiles; ++tile) {
      WaitForCopies<S::kStages - 2>();
      __syncthreads();
      const int next = tile + S::kStages - 1;
      if (next < num_tiles) Load(next % S::kStages, next);
      CommitCopies();
      Multiply(shared_ + tile % S::kStages * S::kStageChunks);
    }
    Store();
  }

 private:
  static constexpr int kRowTiles = S::kWarpRows / 16;
  static constexpr int kOutputPairs = S::kWarpOutputs / 16;

  __device__ void Load(int stage, int tile) {
    uint4* const to = shared_ + stage * S::kStageChunks;
    const auto* const input =
        static_cast<const __nv_bfloat16*>(args_.input.data);
    const auto* const matrix = static_cast<const __nv_bfloat16*>(weights_.data);
    const int32_t begin = tile * kTileInputs;
    for (int i = threadIdx.x; i < S::kRows * kChunksOfARow; i += S::kThreads) {
      const int row = i / kChunksOfARow;
      const int32_t k = begin + i % kChunksOfARow * kChunk;
      const bool is_row = first_row_ + row < args_.num_rows;
      LoadInput(
          to + SwizzledChunk(row, i % kChunksOfARow),
          input + int64_t{is_row ? first_row_ + row : 0} * weights_.num_inputs,
          k, is_row ? weights_.num_inputs - k : 0);
    }
    uint4* const weights = to + S::kRows * kChunksOfARow;
    for (int i = threadIdx.x; i < S::kOutputs * kChunksOfARow;
         i += S::kThreads) {
      const int row = i / kChunksOfARow;
      const int chunk = i % kChunksOfARow;
      CopyAsync(weights + SwizzledChunk(row, chunk),
                matrix + int64_t{first_output_ + row} * weights_.padded_inputs +
                    begin + chunk * kChunk,
                16);
    }
  }

  // Eight values from row[k], of which `valid` are there; zeros for the rest.
  __device__ void LoadInput(uint4* to, const __nv_bfloat16* row, int32_t k,
                            int32_t valid) {
    if (weights_.num_inputs % kChunk == 0) {
      CopyAsync(to, valid > 0 ? row + k : row, valid > 0 ? 16 : 0);
      return;
    }
    auto* const values = reinterpret_cast<__nv_bfloat16*>(to);
    for (int i = 0; i < kChunk; ++i) {
      values[i] = i < valid ? row[k + i] : __nv_bfloat16(0.0f);
    }
  }

  __device__ void Multiply(const uint4* stage) {
    const uint4* const weights = stage + S::kRows * kChunksOfARow;
#pragma unroll
    for (int k = 0; k < kTileInputs / kMmaInputs; ++k) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const int row = warp_row_ + r * 16 + lane_ % 16;
        LoadMatrices(a[r], stage + SwizzledChunk(row, 2 * k + lane_ / 16));
      }
#pragma unroll
      for (int n = 0; n < kOutputPairs; ++n) {
        uint32_t b[4];  // inputs 0..7, 8..15 of 8 outputs, then of 8 more
        const int row = warp_output_ + n * 16 + lane_ / 16 * 8 + lane_ % 8;
        LoadMatrices(b, weights + SwizzledChunk(row, 2 * k + lane_ / 8 % 2));
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          MultiplyAdd(sums_[r][2 * n], a[r], b[0], b[1]);
          MultiplyAdd(sums_[r][2 * n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  __device__ void Store() const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int n = 0; n < 2 * kOutputPairs; ++n) {
        const int32_t row = first_row_ + warp_row_ + r * 16 + lane_ / 4;
        const int32_t output =
            first_output_ + warp_output_ + n * 8 + lane_ % 4 * 2;
        Store(row, output, sums_[r][n][0]);
        Store(row, output + 1, sums_[r][n][1]);
        Store(row + 8, output, sums_[r][n][2]);
        Store(row + 8, output + 1, sums_[r][n][3]);
      }
    }
  }
  __device__ void Store(int32_t row, int32_t output, float sum) const {
    if (row >= args_.num_rows || output >= weights_.num_outputs) return;
    float* const to = args_.output + row * args_.output_stride + output;
    *to = args_.accumulate ? *to + sum : sum;
  }

  const GemmArgs& args_;
  const PackedMatrix& weights_;
  uint4* const shared_;
  const int32_t first_output_;
  const int32_t first_row_;
  const int lane_;
  const int warp_row_;
  const int warp_output_;
  float sums_[kRowTiles][2 * kOutputPairs][4] = {};
};

// grid [outputs / S::kOutputs, rows / S::kRows].
template <typename S>
__global__ void __launch_bounds__(S::kThreads)
    GemmBFloat16Kernel(const __grid_constant__ GemmArgs args,
                       const __grid_constant__ PackedMatrix weights) {
  extern __shared__ uint4 shared[];
  Block<S>(args, weights, shared).Run();
}

// One accumulator an output and one order of its inputs in all of them.
using Rows16 = Shape<16, 16, 16, 16, 12>;
using Rows32 = Shape<32, 32, 16, 16, 8>;
using Rows64 = Shape<64, 32, 32, 16, 6>;
using Rows128 = Shape<128, 128, 64, 32, 4>;

template <typename S>
cudaError_t Launch(const GemmArgs& args, const PackedMatrix& weights,
                   cudaStream_t stream) {
  const dim3 grid((weights.num_outputs + S::kOutputs - 1) / S::kOutputs,
                  (args.num_rows + S::kRows - 1) / S::kRows);
  GemmBFloat16Kernel<S>
      <<<grid, S::kThreads, S::kSharedBytes, stream>>>(args, weights);
  return cudaGetLastError();
}

template <typename S>
cudaError_t Prepare() {
  return cudaFuncSetAttribute(GemmBFloat16Kernel<S>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              S::kSharedBytes);
}

}  // namespace

cudaError_t LaunchGemmBFloat16(const GemmArgs& args,
                               const PackedMatrix& weights,
                               cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (args.num_rows <= 16) return Launch<Rows16>(args, weights, stream);
  if (args.num_rows <= 32) return Launch<Rows32>(args, weights, stream);
  if (args.num_rows <= 64) return Launch<Rows64>(args, weights, stream);
  return Launch<Rows128>(args, weights, stream);
}

cudaError_t PrepareGemm() {
  for (cudaError_t (*prepare)() :
       {Prepare<Rows16>, Prepare<Rows32>, Prepare<Rows64>, Prepare<Rows128>}) {
    if (const cudaError_t error = prepare(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace ttt
