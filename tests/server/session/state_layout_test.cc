#include "server/session/state_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace ttt {
namespace {

TEST(PlaneSpecTest, WordsAreTheProductOfTheShape) {
  EXPECT_EQ((PlaneSpec{.name = "w", .shape = {2, 3, 5}}.num_words()), 30);
  EXPECT_EQ((PlaneSpec{.name = "one", .shape = {}}.num_words()), 1);
  EXPECT_EQ((PlaneSpec{.name = "none", .shape = {4, 0, 2}}.num_words()), 0);
}

TEST(StateLayoutTest, PlanesFollowEachOtherAtMultiplesOf128Bytes) {
  StateLayout layout;
  layout.Add({"w1", PlaneRole::kFastWeights, {17}});
  layout.Add({"rows", PlaneRole::kPendingRows, {2, 15, 4}, 4});
  layout.Add({"ring", PlaneRole::kTokenRing, {16}});
  EXPECT_EQ(layout.Find("w1").offset_bytes, 0);
  EXPECT_EQ(layout.Find("rows").offset_bytes, 128);
  EXPECT_EQ(layout.Find("ring").offset_bytes, 128 + 512);
  EXPECT_EQ(layout.slot_bytes, 128 + 512 + 128);
}

TEST(StateLayoutTest, PlanesStayInTheOrderAdded) {
  StateLayout layout;
  layout.Add({"b", PlaneRole::kTail, {1}});
  layout.Add({"a", PlaneRole::kTail, {1}});
  ASSERT_EQ(layout.planes.size(), 2);
  EXPECT_EQ(layout.planes[0].name, "b");
  EXPECT_EQ(layout.planes[1].name, "a");
}

TEST(StateLayoutTest, EmptyPlaneTakesNoRoom) {
  StateLayout layout;
  layout.Add({"rows", PlaneRole::kPendingRows, {2, 0, 4}, 4});
  EXPECT_EQ(layout.slot_bytes, 0);
}

TEST(StateLayoutTest, HalvesTakeHalfTheRoomAndSplitMatricesAllOfIt) {
  StateLayout layout;
  layout.Add({.name = "w1",
              .role = PlaneRole::kFastWeights,
              .shape = {2, 3, 4, 8},
              .form = PlaneForm::kSplit});
  layout.Add(
      {"rows", PlaneRole::kPendingRows, {2, 15, 4}, 4, PlaneForm::kBFloat16});
  layout.Add({"tail", PlaneRole::kTail, {1}});
  EXPECT_EQ(layout.Find("w1").matrix_words(), 32);
  EXPECT_EQ(layout.Find("w1").stored_bytes(), 2 * 3 * 32 * 4);
  EXPECT_EQ(layout.Find("rows").num_words(), 120);
  EXPECT_EQ(layout.Find("rows").stored_bytes(), 240);
  EXPECT_EQ(layout.Find("tail").offset_bytes, 768 + 256);
}

TEST(StateLayoutTest, SplitMatricesComeBackBitByBit) {
  const PlaneSpec plane = {.name = "w1",
                           .role = PlaneRole::kFastWeights,
                           .shape = {1, 2, 2, 4},
                           .form = PlaneForm::kSplit};
  const std::vector<uint32_t> words = {
      0,          0x80000000, 0x3f800000, 0x3f808000, 0x3f807fff, 0xbf80ffff,
      0x7f7fffff, 0x00000001, 0x7f800000, 0xff800000, 0x7fffffff, 0xffffffff,
      0xffff8000, 0x7f808000, 0x12345678, 0x8000ffff};
  std::vector<std::byte> stored(plane.stored_bytes());
  StoreWords(plane, words, stored.data());
  // The first half of each matrix is its bfloat16.
  uint16_t highs[8];
  std::memcpy(highs, stored.data(), sizeof(highs));
  EXPECT_EQ(highs[2], 0x3f80);
  EXPECT_EQ(highs[3], 0x3f81);
  EXPECT_EQ(highs[4], 0x3f80);
  std::vector<uint32_t> back(words.size());
  LoadWords(plane, stored.data(), absl::MakeSpan(back));
  EXPECT_EQ(back, words);
}

TEST(StateLayoutTest, HalvesAreRoundedToNearestEven) {
  const PlaneSpec plane = {
      "rows", PlaneRole::kPendingRows, {1, 6}, 6, PlaneForm::kBFloat16};
  const std::vector<uint32_t> words = {0x3f800000, 0x3f808000, 0x3f818000,
                                       0x3f808001, 0x7f800001, 0xff7fffff};
  std::vector<std::byte> stored(plane.stored_bytes());
  StoreWords(plane, words, stored.data());
  std::vector<uint32_t> back(words.size());
  LoadWords(plane, stored.data(), absl::MakeSpan(back));
  EXPECT_EQ(back, (std::vector<uint32_t>{0x3f800000, 0x3f800000, 0x3f820000,
                                         0x3f810000, 0x7fc00000, 0xff800000}));
}

TEST(StateLayoutTest, FindGivesThePlaneOfThatName) {
  StateLayout layout;
  layout.Add({"w1", PlaneRole::kFastWeights, {4}});
  layout.Add({"tail", PlaneRole::kTail, {8}});
  EXPECT_EQ(layout.Find("tail").role, PlaneRole::kTail);
}

TEST(StateLayoutDeathTest, FindOfAnUnknownPlaneEndsTheProcess) {
  const StateLayout layout;
  EXPECT_DEATH(layout.Find("w1"), "check failed");
}

TEST(StateLayoutDeathTest, TwoPlanesOfOneNameEndTheProcess) {
  StateLayout layout;
  layout.Add({"w1", PlaneRole::kFastWeights, {4}});
  EXPECT_DEATH(layout.Add({"w1", PlaneRole::kTail, {4}}), "check failed");
}

TEST(StateLayoutDeathTest, PendingRowsWithoutARowEndTheProcess) {
  StateLayout layout;
  EXPECT_DEATH(layout.Add({"rows", PlaneRole::kPendingRows, {15, 4}}),
               "check failed");
}

TEST(StateLayoutDeathTest, SizeThatDoesNotFitEndsTheProcess) {
  StateLayout layout;
  const int64_t huge = int64_t{1} << 32;
  EXPECT_DEATH(layout.Add({"w1", PlaneRole::kFastWeights, {huge, huge}}),
               "check failed");
  EXPECT_DEATH(layout.Add({"w1", PlaneRole::kFastWeights, {int64_t{1} << 61}}),
               "check failed");
}

}  // namespace
}  // namespace ttt
