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

// The units of one lane of a block, in a plane of each form: words 2 *
// lane_index and the next, and so on in steps of 2 * kDigestLanes.
class PlainUnits {
 public:
  __device__ PlainUnits(const DigestBlock& block, int lane_index)
      : words_(reinterpret_cast<const uint32_t*>(block.plane_begin) +
               block.begin + 2 * lane_index) {}
  __device__ uint32_t First() const { return words_[0]; }
  __device__ uint32_t Second() const { return words_[1]; }
  __device__ void Advance() { words_ += 2 * kDigestLanes; }

 private:
  const uint32_t* words_;
};

class BFloat16Units {
 public:
  __device__ BFloat16Units(const DigestBlock& block, int lane_index)
      : halves_(reinterpret_cast<const uint16_t*>(block.plane_begin) +
                block.begin + 2 * lane_index) {}
  __device__ uint32_t First() const { return uint32_t{halves_[0]} << 16; }
  __device__ uint32_t Second() const { return uint32_t{halves_[1]} << 16; }
  __device__ void Advance() { halves_ += 2 * kDigestLanes; }

 private:
  const uint16_t* halves_;
};

// Matrices are whole steps long, so that a unit is of one matrix.
class SplitUnits {
 public:
  __device__ SplitUnits(const DigestBlock& block, int lane_index)
      : matrix_words_(block.matrix_words),
        at_(block.begin % block.matrix_words + 2 * lane_index),
        highs_(reinterpret_cast<const uint16_t*>(
            block.plane_begin + (block.begin - block.begin % matrix_words_) *
                                    int64_t{sizeof(uint32_t)})) {}
  __device__ uint32_t First() const {
    return JoinSplit(uint16_t(Highs()), int16_t(Lows()));
  }
  __device__ uint32_t Second() const {
    return JoinSplit(uint16_t(Highs() >> 16), int16_t(Lows() >> 16));
  }
  __device__ void Advance() {
    at_ += 2 * kDigestLanes;
    if (at_ < matrix_words_) return;
    at_ -= matrix_words_;
    highs_ += 2 * matrix_words_;
  }

 private:
  __device__ uint32_t Highs() const {
    return *reinterpret_cast<const uint32_t*>(highs_ + at_);
  }
  __device__ uint32_t Lows() const {
    return *reinterpret_cast<const uint32_t*>(highs_ + matrix_words_ + at_);
  }

  const int64_t matrix_words_;
  int64_t at_;             // in the matrix
  const uint16_t* highs_;  // its first
};

// The warp's lane of a block, and whether the words that it saw are finite.
template <typename Units>
__device__ uint64_t HashLane(Units units, int num_words, int lane_index,
                             bool* finite) {
  uint64_t lane = kDigestLaneSeed + lane_index;
#pragma unroll 8
  for (int i = 2 * lane_index; i < num_words; i += 2 * kDigestLanes) {
    const uint32_t low = units.First();
    const uint32_t high = i + 1 < num_words ? units.Second() : 0;
    units.Advance();
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
      return HashLane(SplitUnits(block, lane_index), size, lane_index, finite);
    case PlaneForm::kBFloat16:
      return HashLane(BFloat16Units(block, lane_index), size, lane_index,
                      finite);
    default:
      return HashLane(PlainUnits(block, lane_index), size, lane_index, finite);
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
