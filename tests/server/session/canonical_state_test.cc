#include "server/session/canonical_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr int32_t kMiniBatch = 4;
constexpr int32_t kRowWords = 6;
constexpr int64_t kRuns = 2 * 3;

// Two layers of three heads.
StateLayout Layout(PlaneForm matrices, PlaneForm rows) {
  StateLayout layout;
  layout.mini_batch = kMiniBatch;
  layout.Add({.name = "w1",
              .role = PlaneRole::kFastWeights,
              .shape = {2, 3, 4, 5},
              .form = matrices});
  layout.Add({"b1", PlaneRole::kFastWeights, {2, 3, 5}});
  layout.Add({"rows",
              PlaneRole::kPendingRows,
              {2, 3, kMiniBatch - 1, kRowWords},
              kRowWords,
              rows});
  layout.Add({"tail", PlaneRole::kTail, {2, 3}});
  layout.Add({"hidden", PlaneRole::kLastHidden, {7}});
  layout.Add({"ring", PlaneRole::kTokenRing, {8}});
  return layout;
}

const StateLayout kPlain = Layout(PlaneForm::kWords, PlaneForm::kWords);
const StateLayout kCompact = Layout(PlaneForm::kSplit, PlaneForm::kBFloat16);

// A slot of kPlain; its rows are exact in bfloat16, all others are any bits.
std::vector<std::byte> RandomSlot() {
  std::mt19937 random(1);
  std::vector<std::byte> slot(kPlain.slot_bytes);
  for (const PlaneSpec& plane : kPlain.planes) {
    for (int64_t i = 0; i < plane.num_words(); ++i) {
      uint32_t word = random();
      if (plane.name == "rows") word &= 0xbfff0000;
      std::memcpy(slot.data() + plane.offset_bytes + 4 * i, &word, 4);
    }
  }
  return slot;
}

TEST(CanonicalStateTest, HoldsThePlanesInOrderAndOnlyValidRows) {
  const auto slot = RandomSlot();
  const PlaneSpec& rows = kPlain.Find("rows");
  for (const int64_t tokens : {0, 4, 5, 7, 1000002}) {
    const int64_t valid = tokens % kMiniBatch * kRowWords;
    std::vector<std::byte> expected;
    const auto append = [&](int64_t begin, int64_t words) {
      expected.insert(expected.end(), slot.begin() + begin,
                      slot.begin() + begin + 4 * words);
    };
    append(0, 120);
    append(kPlain.Find("b1").offset_bytes, 30);
    for (int64_t run = 0; run < kRuns; ++run) {
      append(rows.offset_bytes + run * (kMiniBatch - 1) * kRowWords * 4, valid);
    }
    append(kPlain.Find("tail").offset_bytes, 6);
    append(kPlain.Find("hidden").offset_bytes, 7);
    append(kPlain.Find("ring").offset_bytes, 8);
    EXPECT_EQ(ToCanonical(kPlain, tokens, slot.data()), expected) << tokens;
    EXPECT_EQ(CanonicalBytes(kPlain, tokens), 4 * (171 + kRuns * valid));
    EXPECT_EQ(CanonicalBytes(kCompact, tokens), 4 * (171 + kRuns * valid));
  }
}

TEST(CanonicalStateTest, IsTheSameOfEveryForm) {
  for (const int64_t tokens : {4, 6, 7}) {
    const auto bytes = ToCanonical(kPlain, tokens, RandomSlot().data());
    std::vector<std::byte> compact(kCompact.slot_bytes, std::byte{0xff});
    ASSERT_THAT(FromCanonical(kCompact, tokens, bytes, compact.data()), IsOk());
    EXPECT_EQ(ToCanonical(kCompact, tokens, compact.data()), bytes);
    std::vector<std::byte> plain(kPlain.slot_bytes, std::byte{0xff});
    ASSERT_THAT(FromCanonical(kPlain, tokens, bytes, plain.data()), IsOk());
    EXPECT_EQ(ToCanonical(kPlain, tokens, plain.data()), bytes);
  }
}

TEST(CanonicalStateTest, RowsThatAreNotValidBecomeZero) {
  const auto bytes = ToCanonical(kPlain, 5, RandomSlot().data());
  std::vector<std::byte> slot(kPlain.slot_bytes, std::byte{0xff});
  ASSERT_THAT(FromCanonical(kPlain, 5, bytes, slot.data()), IsOk());
  const PlaneSpec& rows = kPlain.Find("rows");
  for (int64_t run = 0; run < kRuns; ++run) {
    for (int64_t i = kRowWords * 4; i < (kMiniBatch - 1) * kRowWords * 4; ++i) {
      ASSERT_EQ(
          slot[rows.offset_bytes + run * (kMiniBatch - 1) * kRowWords * 4 + i],
          std::byte{0});
    }
  }
}

TEST(CanonicalStateTest, RefusesOtherSizesWithTheirValueAndLeavesTheSlot) {
  auto bytes = ToCanonical(kPlain, 5, RandomSlot().data());
  const std::vector<std::byte> before(kPlain.slot_bytes, std::byte{7});
  auto slot = before;
  const auto refuses = [&](int64_t tokens, const std::string& message) {
    EXPECT_THAT(FromCanonical(kPlain, tokens, bytes, slot.data()),
                StatusIs(absl::StatusCode::kInvalidArgument, message));
    EXPECT_EQ(slot, before);
  };
  refuses(6, "bytes has 828 bytes, and a state of 6 tokens 972");
  refuses(-1, "tokens is -1");
  bytes.pop_back();
  refuses(5, "bytes has 827 bytes, and a state of 5 tokens 828");
  bytes.clear();
  refuses(5, "bytes has 0 bytes");
}

}  // namespace
}  // namespace ttt
