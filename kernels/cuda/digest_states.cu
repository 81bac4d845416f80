#include "kernels/cuda/launchers.h"
#include "kernels/digest.h"

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

struct DigestBlock {
  const uint32_t* words;
  int64_t num_words;
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
    block->words =
        reinterpret_cast<const uint32_t*>(slot + plane.offset_bytes) +
        run * plane.stride + begin;
    block->num_words =
        words - begin < kDigestBlockWords ? words - begin : kDigestBlockWords;
    block->key = DigestBlockKey(p, run, part);
    return true;
  }
  return false;
}

// The warp's lane of a block, and whether the words that it saw are finite.
__device__ uint64_t HashLane(const DigestBlock& block, int lane_index,
                             bool* finite) {
  uint64_t lane = kDigestLaneSeed + lane_index;
#pragma unroll 8
  for (int64_t i = 2 * lane_index; i < block.num_words; i += 2 * kDigestLanes) {
    const uint32_t low = block.words[i];
    const uint32_t high = i + 1 < block.num_words ? block.words[i + 1] : 0;
    lane = (lane ^ (low | uint64_t{high} << 32)) * kDigestMultiplier;
    lane ^= lane >> 32;
    *finite = *finite && (low & kExponentBits) != kExponentBits &&
              (high & kExponentBits) != kExponentBits;
  }
  return lane;
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
