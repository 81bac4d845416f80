#include "server/session/state_layout.h"

#include <gtest/gtest.h>

namespace ttt {
namespace {

TEST(PlaneSpecTest, WordsAreTheProductOfTheShape) {
  EXPECT_EQ((PlaneSpec{.name = "w", .shape = {2, 3, 5}}.num_words()), 30);
  EXPECT_EQ((PlaneSpec{.name = "one", .shape = {}}.num_words()), 1);
  EXPECT_EQ((PlaneSpec{.name = "none", .shape = {4, 0, 2}}.num_words()), 0);
}

TEST(StateLayoutTest, PlanesFollowEachOtherAtMultiplesOf64Bytes) {
  StateLayout layout;
  layout.Add({"w1", PlaneRole::kFastWeights, {17}});
  layout.Add({"rows", PlaneRole::kPendingRows, {2, 15, 4}, 4});
  layout.Add({"ring", PlaneRole::kTokenRing, {16}});
  EXPECT_EQ(layout.Find("w1").offset_bytes, 0);
  EXPECT_EQ(layout.Find("rows").offset_bytes, 128);
  EXPECT_EQ(layout.Find("ring").offset_bytes, 128 + 512);
  EXPECT_EQ(layout.slot_bytes, 128 + 512 + 64);
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
