#include "kernels/cpu/digest_states.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/digest.h"

namespace ttt {
namespace {

using Sums = std::array<uint64_t, 4>;

struct PieceResult {
  Sums sums = {};
  bool finite = true;
};

// Of a float32 that is NaN or infinite, and of no other, all exponent bits are
// set.
constexpr uint32_t kExponentBits = 0x7f800000;

// Blocks that one task hashes, at least: 256 KiB.
constexpr int64_t kWordsPerTask = 16 * kDigestBlockWords;

// Some runs of one plane of one slot, or some blocks of one run.
struct Piece {
  int32_t state;  // index into slot_ids
  int32_t plane;
  int64_t first_run;
  int64_t end_run;
  int64_t first_block;  // of each run
  int64_t end_block;
};

int64_t WordsOfRun(const DigestStatesArgs& args, const DigestPlane& plane,
                   int32_t state) {
  if (!plane.is_pending) return plane.words;
  return args.positions[state] % args.mini_batch * plane.words;
}

int64_t NumBlocks(int64_t words) {
  return (words + kDigestBlockWords - 1) / kDigestBlockWords;
}

void HashBlocks(const uint32_t* run, int64_t words, uint64_t first_key,
                int64_t first_block, int64_t end_block,
                DigestLanesFunction function, Sums& sums) {
  uint64_t lanes[kDigestLanes];
  for (int64_t block = first_block; block < end_block; ++block) {
    const int64_t begin = block * kDigestBlockWords;
    const int64_t size = std::min(kDigestBlockWords, words - begin);
    function(run + begin, size, lanes);
    DigestAddBlock(first_key + block, size, lanes, sums.data());
  }
}

// Cuts the planes of a state into pieces of about kWordsPerTask.
void AddPieces(const DigestStatesArgs& args, int32_t state,
               std::vector<Piece>& pieces) {
  for (int32_t p = 0; p < args.num_planes; ++p) {
    const DigestPlane& plane = args.planes[p];
    const int64_t words = WordsOfRun(args, plane, state);
    const int64_t num_blocks = NumBlocks(words);
    if (num_blocks == 0) continue;
    if (words >= kWordsPerTask) {
      constexpr int64_t kBlocks = kWordsPerTask / kDigestBlockWords;
      for (int64_t run = 0; run < plane.count; ++run) {
        for (int64_t block = 0; block < num_blocks; block += kBlocks) {
          pieces.push_back({state, p, run, run + 1, block,
                            std::min(num_blocks, block + kBlocks)});
        }
      }
      continue;
    }
    const int64_t runs = kWordsPerTask / words;
    for (int64_t run = 0; run < plane.count; run += runs) {
      pieces.push_back(
          {state, p, run, std::min(plane.count, run + runs), 0, num_blocks});
    }
  }
}

bool AllFinite(const uint32_t* words, int64_t count) {
  // Greatest of the exponents, as integers: no branch in the loop.
  uint32_t greatest = 0;
  for (int64_t i = 0; i < count; ++i) {
    greatest = std::max(greatest, words[i] & kExponentBits);
  }
  return greatest < kExponentBits;
}

PieceResult HashPiece(const DigestStatesArgs& args, const Piece& piece,
                      DigestLanesFunction function) {
  PieceResult result;
  const DigestPlane& plane = args.planes[piece.plane];
  const uint32_t* const first =
      SlotOf<uint32_t>(args.slots, args.slot_ids[piece.state]) +
      plane.offset_bytes / int64_t{sizeof(uint32_t)};
  const int64_t words = WordsOfRun(args, plane, piece.state);
  for (int64_t run = piece.first_run; run < piece.end_run; ++run) {
    const uint32_t* const begin = first + run * plane.stride;
    HashBlocks(begin, words, DigestBlockKey(piece.plane, run, 0),
               piece.first_block, piece.end_block, function, result.sums);
    const int64_t from = piece.first_block * kDigestBlockWords;
    const int64_t to = std::min(piece.end_block * kDigestBlockWords, words);
    result.finite = AllFinite(begin + from, to - from) && result.finite;
  }
  return result;
}

}  // namespace

void DigestStates(const DigestStatesArgs& args, DigestLanesFunction lanes,
                  ThreadPool& pool) {
  std::vector<Piece> pieces;
  for (int32_t i = 0; i < args.batch; ++i) AddPieces(args, i, pieces);
  std::vector<PieceResult> results(pieces.size());
  pool.Run(pieces.size(), [&](int64_t task, int32_t) {
    results[task] = HashPiece(args, pieces[task], lanes);
  });

  Sums header = {};
  HashBlocks(args.header, args.header_words,
             DigestBlockKey(kDigestHeaderPlane, 0, 0), 0,
             NumBlocks(args.header_words), lanes, header);
  std::vector<Sums> sums(args.batch, header);
  std::vector<uint8_t> finite(args.batch, 1);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int32_t state = pieces[i].state;
    for (int j = 0; j < 4; ++j) sums[state][j] += results[i].sums[j];
    finite[state] &= results[i].finite;
  }
  if (args.finite != nullptr)
    std::copy(finite.begin(), finite.end(), args.finite);
  for (int32_t i = 0; i < args.batch; ++i) {
    DigestFinish(args.positions[i], sums[i].data());
    std::memcpy(args.digests + int64_t{i} * kDigestBytes, sums[i].data(),
                kDigestBytes);
  }
}

}  // namespace ttt
