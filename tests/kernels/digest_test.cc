// DigestStates: the algorithm of digest.h, and what must and must not change
// it.
#include "kernels/digest.h"

#include <cstring>
#include <set>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

// A slot with a large plane, a strided one, pending rows and unused words:
//   [0, 9001)  plane 0, one run, more than two blocks
//   [9002, ..)  plane 1, three runs of 5 words, 7 apart
//   [9024, ..)  plane 2, two runs of up to 3 pending rows of 6 words, 20 apart
constexpr int64_t kSlotWords = 9100;
constexpr int32_t kMiniBatch = 4;
const std::vector<DigestPlane> kPlanes = {
    {.offset_bytes = 0,
     .count = 1,
     .stride = 0,
     .words = 9001,
     .is_pending = false},
    {.offset_bytes = 9002 * 4,
     .count = 3,
     .stride = 7,
     .words = 5,
     .is_pending = false},
    {.offset_bytes = 9024 * 4,
     .count = 2,
     .stride = 20,
     .words = 6,
     .is_pending = true},
};
using Words = std::vector<uint32_t>;
using Digest = std::vector<uint8_t>;

Words RandomWords(size_t size, int seed) {
  std::mt19937 random(seed);
  Words words(size);
  for (uint32_t& word : words) word = random();
  return words;
}

// Whether word i of the slot counts when `rows` rows are pending.
bool Counts(int64_t i, int64_t rows) {
  if (i < 9001) return true;
  for (int64_t run = 0; run < 3; ++run) {
    if (i >= 9002 + 7 * run && i < 9007 + 7 * run) return true;
  }
  for (int64_t run = 0; run < 2; ++run) {
    const int64_t first = 9024 + 20 * run;
    if (i >= first && i < first + 6 * rows) return true;
  }
  return false;
}

class DigestTest : public testing::TestWithParam<BackendKind> {
 protected:
  // The digests of slots given as words, by (slot, position).
  std::vector<Digest> Run(
      const std::vector<Words>& slots,
      const std::vector<std::pair<int32_t, int64_t>>& states,
      const Words& header = {1, 2, 3}) {
    Words all;
    for (const Words& slot : slots) {
      all.insert(all.end(), slot.begin(), slot.end());
    }
    std::vector<int32_t> ids;
    std::vector<int64_t> positions;
    for (const auto& [slot, position] : states) {
      ids.push_back(slot);
      positions.push_back(position);
    }
    Array<uint32_t> words(*backend_, all);
    Digest digests(states.size() * kDigestBytes);
    EXPECT_THAT(
        backend_->DigestStates({.slots = words.Plane(int64_t(slots.size())),
                                .slot_ids = ids.data(),
                                .positions = positions.data(),
                                .planes = kPlanes.data(),
                                .num_planes = int32_t(kPlanes.size()),
                                .header = header.data(),
                                .header_words = int32_t(header.size()),
                                .digests = digests.data(),
                                .batch = int32_t(states.size()),
                                .mini_batch = kMiniBatch}),
        IsOk());
    std::vector<Digest> result;
    for (size_t i = 0; i < states.size(); ++i) {
      result.push_back(Part(digests, i * kDigestBytes, kDigestBytes));
    }
    return result;
  }
  Digest Of(const Words& slot, int64_t position = 6) {
    return Run({slot}, {{0, position}})[0];
  }

  const std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

TEST_P(DigestTest, FollowsTheDefinition) {
  const Words slot = RandomWords(kSlotWords, 1);
  const Words header = {1, 2, 3};
  uint64_t sums[4] = {};
  uint64_t lanes[kDigestLanes];
  const auto add = [&](uint64_t plane, uint64_t run, const uint32_t* words,
                       int64_t size) {
    for (int64_t block = 0; block * kDigestBlockWords < size; ++block) {
      const int64_t begin = block * kDigestBlockWords;
      const int64_t n = std::min(kDigestBlockWords, size - begin);
      DigestBlockLanes(words + begin, n, lanes);
      DigestAddBlock(DigestBlockKey(plane, run, block), n, lanes, sums);
    }
  };
  add(0, 0, slot.data(), 9001);
  for (int run = 0; run < 3; ++run) {
    add(1, run, slot.data() + 9002 + 7 * run, 5);
  }
  for (int run = 0; run < 2; ++run) {
    add(2, run, slot.data() + 9024 + 20 * run, 2 * 6);  // 6 % 4 rows
  }
  add(kDigestHeaderPlane, 0, header.data(), 3);
  DigestFinish(6, sums);
  Digest wanted(kDigestBytes);
  std::memcpy(wanted.data(), sums, kDigestBytes);
  EXPECT_EQ(Of(slot), wanted);
}

TEST_P(DigestTest, IsAsItAlwaysWas) {
  // Stored digests outlive the build. The slot's word i is 2654435761 i.
  Words slot(kSlotWords);
  for (size_t i = 0; i < slot.size(); ++i) slot[i] = uint32_t(2654435761u * i);
  const Digest digest = Of(slot, 1000003);
  std::string hex;
  for (const uint8_t byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  EXPECT_EQ(hex,
            "133a1b52a2ee64d045d4b8feb4e148f11f8e32977c16480c38ed78ad8a37b514");
}

TEST_P(DigestTest, ChangesWithEveryWordThatCountsAndWithNoOther) {
  const Words slot = RandomWords(kSlotWords, 1);
  for (const int64_t position : {4, 5, 7}) {
    const Digest before = Of(slot, position);
    std::vector<Words> slots;
    std::vector<std::pair<int32_t, int64_t>> states;
    std::vector<int64_t> places;
    for (int64_t i = 0; i < kSlotWords; i += i < 8980 ? 61 : 1) {
      Words changed = slot;
      changed[i] ^= 1u << i % 32;
      slots.push_back(changed);
      states.push_back({int32_t(states.size()), position});
      places.push_back(i);
    }
    const std::vector<Digest> digests = Run(slots, states);
    for (size_t i = 0; i < places.size(); ++i) {
      EXPECT_EQ(digests[i] != before, Counts(places[i], position % kMiniBatch))
          << "word " << places[i] << ", position " << position;
    }
  }
}

TEST_P(DigestTest, ChangesWithPositionAndHeader) {
  const Words slot = RandomWords(kSlotWords, 1);
  std::set<Digest> digests = {
      Run({slot}, {{0, 4}}, {1, 2})[0], Run({slot}, {{0, 8}}, {1, 2})[0],
      Run({slot}, {{0, 4}}, {1, 3})[0], Run({slot}, {{0, 4}}, {1, 2, 0})[0],
      Run({slot}, {{0, 4}}, {})[0]};
  EXPECT_EQ(digests.size(), 5u);
}

TEST_P(DigestTest, TellsZeroFromMinusZero) {
  Words slot(kSlotWords, 0);
  const Digest zero = Of(slot);
  slot[100] = 0x80000000u;
  EXPECT_NE(Of(slot), zero);
}

TEST_P(DigestTest, ChangesWhenWordsOrRunsSwap) {
  const Words slot = RandomWords(kSlotWords, 1);
  const Digest before = Of(slot);
  for (const auto& [a, b] : {std::pair<int, int>{0, 64},
                             {0, 4096},
                             {1, 0},
                             {9002, 9009},
                             {9024, 9044}}) {
    Words swapped = slot;
    std::swap(swapped[a], swapped[b]);
    EXPECT_NE(Of(swapped), before) << a << ", " << b;
  }
}

TEST_P(DigestTest, DoesNotDependOnTheSlotOrTheBatch) {
  const std::vector<Words> slots = {RandomWords(kSlotWords, 1),
                                    RandomWords(kSlotWords, 2),
                                    RandomWords(kSlotWords, 1)};
  const std::vector<Digest> digests = Run(slots, {{2, 6}, {1, 7}, {0, 6}});
  EXPECT_EQ(digests[0], digests[2]);
  EXPECT_EQ(digests[0], Of(slots[0], 6));
  EXPECT_EQ(digests[1], Of(slots[1], 7));
}

TEST_P(DigestTest, DoesNothingForAnEmptyBatch) {
  EXPECT_THAT(Run({Words(kSlotWords)}, {}), testing::IsEmpty());
}

// Of a state whose matrices and rows are in the forms of a GPU in bfloat16, as
// the reference has it of the words that those forms stand for.
class DigestFormsTest : public testing::TestWithParam<BackendKind> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DigestFormsTest);

TEST_P(DigestFormsTest, HashesTheWordsThatTheFormsStandFor) {
  const std::unique_ptr<Backend> cuda = MakeBackend(GetParam());
  const std::unique_ptr<Backend> reference =
      MakeBackend(BackendKind::kReference);
  constexpr int64_t kPending = 15;
  constexpr int64_t kRow = 64;
  for (const int64_t matrix : {32 * 32, 64 * 64, 96 * 96, 64 * 256}) {
    const int64_t matrix_words = 3 * matrix;
    // Every pattern of bits, but no number that is not finite.
    Words words = RandomWords(matrix_words, int(matrix));
    for (uint32_t& word : words) word &= 0xbfffffff;
    Words rows = RandomWords(2 * kPending * kRow, 2);
    for (uint32_t& word : rows) word &= 0xbfff0000;
    std::vector<uint16_t> stored;
    for (int64_t first = 0; first < matrix_words; first += matrix) {
      for (int64_t i = 0; i < matrix; ++i) {
        stored.push_back(SplitHigh(words[first + i]));
      }
      for (int64_t i = 0; i < matrix; ++i) {
        stored.push_back(uint16_t(SplitLow(words[first + i])));
      }
    }
    for (const uint32_t row : rows) stored.push_back(uint16_t(row >> 16));
    words.insert(words.end(), rows.begin(), rows.end());

    DigestPlane planes[] = {{0, 1, matrix_words, matrix_words, false},
                            {matrix_words * 4, 2, kPending * kRow, kRow, true}};
    const auto digest = [&](Backend& backend, StatePlane slots,
                            int64_t position, uint8_t* finite) {
      const int32_t slot = 0;
      const uint32_t header = 5;
      Digest bytes(kDigestBytes);
      EXPECT_THAT(backend.DigestStates({.slots = slots,
                                        .slot_ids = &slot,
                                        .positions = &position,
                                        .planes = planes,
                                        .num_planes = 2,
                                        .header = &header,
                                        .header_words = 1,
                                        .digests = bytes.data(),
                                        .finite = finite,
                                        .batch = 1,
                                        .mini_batch = 16}),
                  IsOk());
      return bytes;
    };
    for (const int64_t position : {160, 167, 175}) {
      uint8_t finite = 0;
      planes[0].form = planes[1].form = PlaneForm::kWords;
      Array<uint32_t> canonical(*reference, words);
      const Digest wanted =
          digest(*reference, canonical.Plane(1), position, nullptr);
      planes[0].form = PlaneForm::kSplit;
      planes[0].matrix_words = matrix;
      planes[1].form = PlaneForm::kBFloat16;
      Array<uint16_t> in_forms(*cuda, stored);
      EXPECT_EQ(digest(*cuda, in_forms.Plane(1), position, &finite), wanted)
          << "matrices of " << matrix << ", position " << position;
      EXPECT_EQ(finite, 1);
    }
    // An infinity is seen whichever half it is in.
    uint8_t finite = 1;
    stored[matrix + 1] = 0xff80;  // rounds up to one: 0x7f7fff80
    stored[1] = 0x7f80;
    Array<uint16_t> nearly(*cuda, stored);
    digest(*cuda, nearly.Plane(1), 160, &finite);
    EXPECT_EQ(finite, 1);
    stored[matrix + 1] = 0;
    Array<uint16_t> infinite(*cuda, stored);
    digest(*cuda, infinite.Plane(1), 160, &finite);
    EXPECT_EQ(finite, 0);
    // The NaN of the tensor cores: its high half alone is minus zero.
    stored[1] = SplitHigh(0x7fffffff);
    stored[matrix + 1] = uint16_t(SplitLow(0x7fffffff));
    Array<uint16_t> broken(*cuda, stored);
    digest(*cuda, broken.Plane(1), 160, &finite);
    EXPECT_EQ(finite, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Backends, DigestFormsTest,
    testing::ValuesIn(HasCuda() ? std::vector<BackendKind>{BackendKind::kCuda}
                                : std::vector<BackendKind>{}),
    BackendKindName);

INSTANTIATE_TEST_SUITE_P(Backends, DigestTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

}  // namespace
}  // namespace ttt
