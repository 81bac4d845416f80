#include "server/base/status_macros.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  TTT_ASSIGN_OR_RETURN(const int half, Half(value));
  TTT_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::Status CheckEven(int value, bool* went_on) {
  TTT_RETURN_IF_ERROR(Half(value).status());
  *went_on = true;
  return absl::OkStatus();
}

TEST(StatusMacrosTest, AssignOrReturnAssigns) {
  EXPECT_EQ(Quarter(12).value(), 3);
}

TEST(StatusMacrosTest, AssignOrReturnReturnsTheFirstError) {
  EXPECT_THAT(Quarter(3), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

TEST(StatusMacrosTest, ReturnIfErrorGoesOnWhenOk) {
  bool went_on = false;
  EXPECT_THAT(CheckEven(2, &went_on), IsOk());
  EXPECT_TRUE(went_on);
}

TEST(StatusMacrosTest, ReturnIfErrorStopsAtAnError) {
  bool went_on = false;
  EXPECT_THAT(CheckEven(1, &went_on),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(went_on);
}

TEST(StatusMacrosTest, AssignOrReturnMovesWhatCannotBeCopied) {
  const auto take = []() -> absl::StatusOr<int> {
    TTT_ASSIGN_OR_RETURN(
        const std::unique_ptr<int> owned,
        absl::StatusOr<std::unique_ptr<int>>(std::make_unique<int>(7)));
    return *owned;
  };
  EXPECT_EQ(take().value(), 7);
}

}  // namespace
}  // namespace ttt
