#include "server/base/check.h"

#include <gtest/gtest.h>

namespace ttt {
namespace {

TEST(CheckDeathTest, BrokenInvariantEndsTheProcessAndNamesItself) {
  const int slots = 3;
  EXPECT_DEATH(TTT_CHECK(slots == 4),
               "check_test.cc:.*check failed: slots == 4");
}

TEST(CheckTest, HoldingInvariantIsEvaluatedOnce) {
  int evaluated = 0;
  TTT_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

}  // namespace
}  // namespace ttt
