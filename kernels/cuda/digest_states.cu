#include "kernels/cuda/launchers.h"
#include "kernels/digest.h"
#include "kernels/state_forms.h"

namespace ttt {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr int kWarps = kThreads / kWarpSize;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kBlocksOfAState = 32;
constexpr int kFoldedLanes = kDigestLanes / 4;  // of each word of a hash
static_assert(kDigestLanes == kWarpSize, "a lane of the digest is one's own");

// Of a float32 that is NaN or infinite, and of no other, all exponent bits are
// set.
constexpr uint32_t kExponentBits = 0x7f800000;

__constant__ const uint64_t kSeeds[4] = {kDigestSeeds[0], kDigestSeeds[1],
                                         kDigestSeeds[2], kDigestSeeds[3]};

// Words [begin, begin + num_words) of a plane, of which `plane_begin` is the
// first byte.
struct DigestBlock {
  const std::byte* plane_begin;
  int64_t begin;
  int64_t num_words;
  int64_t matrix_words;
  PlaneForm form;
  uint64_t key;
};

__device__ int64_t WordsOfRun(const DigestPlane& plane, int64_t phase) {
  return plane.is_pending ? phase * plane.words : plane.words;
}

__device__ int64_t NumBlocks(int64_t words) {
  return (words + kDigestBlockWords - 1) / kDigestBlockWords;
}

// Block `index` of the state in `slot`, counted over its planes, if it has so
// many.
__device__ bool FindBlock(const DigestBatch& batch, const std::byte* slot,
                          int64_t phase, int64_t index, DigestBlock* block) {
  for (int32_t p = 0; p < batch.num_planes; ++p) {
    const DigestPlane& plane = batch.planes[p];
    const int64_t words = WordsOfRun(plane, phase);
    const int64_t blocks = NumBlocks(words);
    if (index >= plane.count * blocks) {
      index -= plane.count * blocks;
      continue;
    }
    const int64_t run = index / blocks;
    const int64_t part = index % blocks;
    const int64_t begin = part * kDigestBlockWords;
    block->plane_begin = slot + plane.offset_bytes;
    block->begin = run * plane.stride + begin;
    block->matrix_words = plane.matrix_words;
    block->form = plane.form;
    block->num_words =
        words - begin < kDigestBlockWords ? words - begin : kDigestBlockWords;
    block->key = DigestBlockKey(p, run, part);
    return true;
  }
  return false;
}

// The words of a block in a plane of each form.
struct PlainWords {
  const uint32_t* words;

  __device__ explicit PlainWords(const DigestBlock& block)
      : words(reinterpret_cast<const uint32_t*>(block.plane_begin) +
              block.begin) {}
  __device__ uint32_t operator[](int i) const { return words[i]; }
};
struct BFloat16Words {
  const uint16_t* halves;

  __device__ explicit BFloat16Words(const DigestBlock& block)
      : halves(reinterpret_cast<const uint16_t*>(block.plane_begin) +
               block.begin) {}
  __device__ uint32_t operator[](int i) const {
    return uint32_t{halves[i]} << 16;
  }
};
struct SplitWords {
  const std::byte* matrix;  // that the block begins in
  uint32_t begin;           // of the block in it
  uint32_t matrix_words;

  __device__ explicit SplitWords(const DigestBlock& block)
      : matrix(block.plane_begin + block.begin / block.matrix_words *
                                       block.matrix_words * sizeof(uint32_t)),
        begin(block.begin % block.matrix_words),
        matrix_words(block.matrix_words) {}
  __device__ uint32_t operator[](int i) const {
    const uint32_t skipped = (begin + i) / matrix_words;
    const uint32_t at = (begin + i) % matrix_words;
    const auto* const highs = reinterpret_cast<const uint16_t*>(
        matrix + int64_t{skipped} * matrix_words * sizeof(uint32_t));
    return JoinSplit(highs[at], static_cast<int16_t>(highs[matrix_words + at]));
  }
};

// The warp's lane of a block, and whether the words that it saw are finite.
template <typename Words>
__device__ uint64_t HashLane(const Words& words, int num_words, int lane_index,
                             bool* finite) {
  uint64_t lane = kDigestLaneSeed + lane_index;
#pragma unroll 8
  for (int i = 2 * lane_index; i < num_words; i += 2 * kDigestLanes) {
    const uint32_t low = words[i];
    const uint32_t high = i + 1 < num_words ? words[i + 1] : 0;
    lane = (lane ^ (low | uint64_t{high} << 32)) * kDigestMultiplier;
    lane ^= lane >> 32;
    *finite = *finite && (low & kExponentBits) != kExponentBits &&
              (high & kExponentBits) != kExponentBits;
  }
  return lane;
}

__device__ uint64_t HashLane(const DigestBlock& block, int lane_index,
                             bool* finite) {
  const int size = block.num_words;
  switch (block.form) {
    case PlaneForm::kSplit:
      return HashLane(SplitWords(block), size, lane_index, finite);
    case PlaneForm::kBFloat16:
      return HashLane(BFloat16Words(block), size, lane_index, finite);
    default:
      return HashLane(PlainWords(block), size, lane_index, finite);
  }
}

// grid [kBlocksOfAState, batch]; the warps of a state's blocks share the blocks
// of its digest. Sums are modulo 2^64, so that their order changes nothing.
__global__ void DigestKernel(const DigestBatch batch) {
  const int32_t state = blockIdx.y;
  const int lane_index = threadIdx.x % kWarpSize;
  const std::byte* const slot =
      batch.slots.base + batch.slot_ids[state] * batch.slots.slot_stride;
  const int64_t phase = batch.positions[state] % batch.mini_batch;
  uint64_t sum = 0;  // of lanes 0..3: of word j of the hash
  bool finite = true;
  DigestBlock block;
  for (int64_t index = blockIdx.x * kWarps + threadIdx.x / kWarpSize;
       FindBlock(batch, slot, phase, index, &block);
       index += kBlocksOfAState * kWarps) {
    const uint64_t lane = HashLane(block, lane_index, &finite);
    const int word = lane_index % 4;
    uint64_t hash = DigestMix(block.key + kSeeds[word]);
    hash = DigestMix(hash ^ uint64_t(block.num_words));
    for (int i = 0; i < kFoldedLanes; ++i) {
      hash = DigestMix(hash ^
                       __shfl_sync(kAllLanes, lane, kFoldedLanes * word + i));
    }
    sum += hash;
  }
  DigestSums& out = batch.sums[state];
  if (lane_index < 4) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&out.words[lane_index]),
              static_cast<unsigned long long>(sum));
  }
  if (!finite) atomicExch(&out.not_finite, 1u);
}

}  // namespace

cudaError_t LaunchDigest(const DigestBatch& batch, cudaStream_t stream) {
  if (batch.batch == 0) return cudaSuccess;
  const cudaError_t error =
      cudaMemsetAsync(batch.sums, 0, batch.batch * sizeof(DigestSums), stream);
  if (error != cudaSuccess) return error;
  const dim3 grid(kBlocksOfAState, batch.batch);
  DigestKernel<<<grid, kThreads, 0, stream>>>(batch);
  return cudaGetLastError();
}

}  // namespace ttt
