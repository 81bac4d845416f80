// The digest of a state: what DigestStates computes, exactly.
//
// A 256-bit hash for finding damage and comparing states. It is not made to
// withstand an adversary who chooses the state. A change of a single 32-bit
// word always changes it; other changes are missed with probability about
// 2^-64.
//
// 1. Words. A plane gives `count` runs; run r begins `offset_bytes` into the
//    slot plus r * stride words. Its first `words` words count, or with
//    is_pending the first (position % mini_batch) * words. Words are taken as
//    bits: 0.0 and -0.0 differ. A plane of another form than kWords is hashed
//    as if its words stood there.
// 2. Blocks. A run is cut into blocks of kDigestBlockWords words from its
//    start; the last may be short; an empty run has none. Block i of run r of
//    plane p has the key p << 48 | r << 24 | i. The header is run 0 of plane
//    2^16 - 1.
// 3. Lanes. A block is read in units of 64 bits, unit u = word 2u | word 2u+1
//    << 32, zeros standing for missing words. Unit u goes to lane u %
//    kDigestLanes, in rising order of u, and each lane does, modulo 2^64, from
//    lane = kDigestLaneSeed + its index:
//        lane = (lane ^ unit) * kDigestMultiplier;  lane ^= lane >> 32
//    with only the units that hold a word of the block.
// 4. Block. Word j = 0..3 of a block's hash folds eight lanes:
//        h = Mix(key + kDigestSeeds[j]);  h = Mix(h ^ (number of words))
//        for lane in lanes 8j .. 8j+7:  h = Mix(h ^ lane)
// 5. Sum. The state's four 64-bit words are the sums, modulo 2^64, of those of
//    its blocks, so that blocks may be hashed in any order.
// 6. End. t[0] += position, then twice, for j = 0..3:
//        t[j] = Mix(t[j] + kDigestMultiplier * rotl(t[(j + 3) % 4], 17))
//    and the digest is t[0..3], each little-endian.
#pragma once

#include <cstdint>

namespace ttt {

inline constexpr int64_t kDigestBlockWords = 4096;
inline constexpr int kDigestLanes = 32;
inline constexpr uint64_t kDigestMultiplier = 0x9e3779b97f4a7c15u;
inline constexpr uint64_t kDigestLaneSeed = 0x243f6a8885a308d3u;
inline constexpr uint64_t kDigestSeeds[4] = {
    0x13198a2e03707344u, 0xa4093822299f31d0u, 0x082efa98ec4e6c89u,
    0x452821e638d01377u};
inline constexpr uint64_t kDigestHeaderPlane = 0xffff;

// A permutation of the 64-bit words in which each bit depends on all.
constexpr uint64_t DigestMix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  return x;
}

constexpr uint64_t DigestBlockKey(uint64_t plane, uint64_t run,
                                  uint64_t block) {
  return plane << 48 | run << 24 | block;
}

// Step 3: num_words in [1, kDigestBlockWords].
constexpr void DigestBlockLanes(const uint32_t* words, int64_t num_words,
                                uint64_t* lanes) {
  for (int i = 0; i < kDigestLanes; ++i) lanes[i] = kDigestLaneSeed + i;
  for (int64_t i = 0; i < num_words; i += 2) {
    const uint64_t high = i + 1 < num_words ? words[i + 1] : 0;
    uint64_t& lane = lanes[i / 2 % kDigestLanes];
    lane = (lane ^ (words[i] | high << 32)) * kDigestMultiplier;
    lane ^= lane >> 32;
  }
}

// Steps 4 and 5: adds a block to the sums.
constexpr void DigestAddBlock(uint64_t key, int64_t num_words,
                              const uint64_t* lanes, uint64_t* sums) {
  for (int j = 0; j < 4; ++j) {
    uint64_t hash = DigestMix(key + kDigestSeeds[j]);
    hash = DigestMix(hash ^ uint64_t(num_words));
    for (int i = 8 * j; i < 8 * j + 8; ++i) hash = DigestMix(hash ^ lanes[i]);
    sums[j] += hash;
  }
}

// Step 6.
constexpr void DigestFinish(int64_t position, uint64_t* sums) {
  sums[0] += uint64_t(position);
  for (int j = 0; j < 8; ++j) {
    const uint64_t other = sums[(j + 3) % 4];
    sums[j % 4] = DigestMix(sums[j % 4] +
                            kDigestMultiplier * (other << 17 | other >> 47));
  }
}

}  // namespace ttt
