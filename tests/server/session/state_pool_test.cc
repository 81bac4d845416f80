#include "server/session/state_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "server/base/error.h"
#include "tests/support/failing_backend.h"
#include "tests/support/fake_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr absl::StatusCode kFull = absl::StatusCode::kResourceExhausted;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

StateLayout SmallLayout() {
  StateLayout layout;
  layout.Add({"w1", PlaneRole::kFastWeights, {32}});
  return layout;
}

class StatePoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<StatePool> MakePool(int64_t session_slots,
                                      int32_t scratch_slots,
                                      bool poison = false) {
    return StatePool::Create({.session_slots = session_slots,
                              .scratch_slots = scratch_slots,
                              .poison_released = poison},
                             SmallLayout(), &backend_)
        .value();
  }

  FakeBackend memory_;
  FailingBackend backend_{&memory_};
};

TEST_F(StatePoolTest, HasRoomForSessionsAndTurns) {
  const auto pool = MakePool(3, 2);
  const StatePool::Usage usage = pool->usage();
  EXPECT_EQ(usage.session_slots, 3);
  EXPECT_EQ(usage.reserved, 0);
  EXPECT_EQ(usage.slots, 5);
  EXPECT_EQ(usage.slots_in_use, 0);
}

TEST_F(StatePoolTest, GivesEachSlotOnceUntilNoneIsFree) {
  const auto pool = MakePool(3, 2);
  std::vector<StateSlot> slots;
  std::set<int32_t> indices;
  for (int i = 0; i < 5; ++i) {
    slots.push_back(pool->AcquireSlot().value());
    indices.insert(slots.back().index());
    EXPECT_EQ(pool->usage().slots_in_use, i + 1);
  }
  EXPECT_THAT(indices, ::testing::ElementsAre(0, 1, 2, 3, 4));
  const auto refused = pool->AcquireSlot();
  EXPECT_THAT(refused, StatusIs(kFull, "all 5 slots"));
  EXPECT_EQ(ErrorReason(refused.status()), "STATE_POOL_FULL");
  EXPECT_TRUE(RetryAfter(refused.status()).has_value());
}

TEST_F(StatePoolTest, SlotIsFreeOnceItsOwnerIsGone) {
  const auto pool = MakePool(1, 1);
  { const StateSlot slot = pool->AcquireSlot().value(); }
  EXPECT_EQ(pool->usage().slots_in_use, 0);
}

TEST_F(StatePoolTest, SharedSlotIsFreeOnlyOnceTheLastShareIsGone) {
  const auto pool = MakePool(1, 1);
  StateSlot first = pool->AcquireSlot().value();
  StateSlot second = first.Share();
  EXPECT_EQ(second.index(), first.index());
  EXPECT_EQ(second.epoch(), first.epoch());
  first = StateSlot();
  EXPECT_EQ(pool->usage().slots_in_use, 1);
  second = StateSlot();
  EXPECT_EQ(pool->usage().slots_in_use, 0);
}

TEST_F(StatePoolTest, SlotKnowsWhetherItHasOneShare) {
  const auto pool = MakePool(1, 1);
  const StateSlot slot = pool->AcquireSlot().value();
  EXPECT_TRUE(slot.IsOnlyShare());
  {
    const StateSlot other = slot.Share();
    EXPECT_FALSE(slot.IsOnlyShare());
  }
  EXPECT_TRUE(slot.IsOnlyShare());
}

TEST_F(StatePoolTest, EpochGrowsEachTimeASlotIsGivenOut) {
  const auto pool = MakePool(1, 1);
  uint64_t epoch = 0;
  for (int i = 0; i < 3; ++i) {
    const StateSlot slot = pool->AcquireSlot().value();
    EXPECT_EQ(slot.index(), 0);
    EXPECT_GT(slot.epoch(), epoch);
    epoch = slot.epoch();
  }
}

TEST_F(StatePoolTest, MovedSlotHasOneOwner) {
  const auto pool = MakePool(1, 1);
  StateSlot from = pool->AcquireSlot().value();
  const StateSlot to = std::move(from);
  EXPECT_TRUE(to.has_value());
  EXPECT_FALSE(from.has_value());
  EXPECT_EQ(from.index(), -1);
  EXPECT_EQ(pool->usage().slots_in_use, 1);
}

TEST_F(StatePoolTest, AssignedSlotGivesBackTheOneItHad) {
  const auto pool = MakePool(1, 1);
  StateSlot kept = pool->AcquireSlot().value();
  StateSlot other = pool->AcquireSlot().value();
  const int32_t index = other.index();
  kept = std::move(other);
  EXPECT_EQ(kept.index(), index);
  EXPECT_EQ(pool->usage().slots_in_use, 1);
}

TEST_F(StatePoolTest, SlotAssignedToItselfStays) {
  const auto pool = MakePool(1, 1);
  StateSlot slot = pool->AcquireSlot().value();
  StateSlot& same = slot;
  slot = std::move(same);
  EXPECT_TRUE(slot.has_value());
  EXPECT_EQ(pool->usage().slots_in_use, 1);
}

TEST_F(StatePoolTest, ReservesOnlyTheSlotsOfSessions) {
  const auto pool = MakePool(2, 3);
  const StateReservation first = pool->Reserve().value();
  const StateReservation second = pool->Reserve().value();
  EXPECT_EQ(pool->usage().reserved, 2);
  const auto refused = pool->Reserve();
  EXPECT_THAT(refused, StatusIs(kFull, "all 2 states"));
  EXPECT_EQ(ErrorReason(refused.status()), "STATE_POOL_FULL");
  EXPECT_TRUE(RetryAfter(refused.status()).has_value());
}

TEST_F(StatePoolTest, ReservationIsFreeOnceItsOwnerIsGone) {
  const auto pool = MakePool(1, 1);
  { const StateReservation reservation = pool->Reserve().value(); }
  EXPECT_EQ(pool->usage().reserved, 0);
}

TEST_F(StatePoolTest, MovedReservationIsHeldOnce) {
  const auto pool = MakePool(2, 1);
  StateReservation from = pool->Reserve().value();
  StateReservation to = pool->Reserve().value();
  to = std::move(from);
  EXPECT_TRUE(to.has_value());
  EXPECT_FALSE(from.has_value());
  EXPECT_EQ(pool->usage().reserved, 1);
}

TEST_F(StatePoolTest, SlabHoldsAllSlotsOnTheDevice) {
  const auto pool = MakePool(3, 2);
  EXPECT_EQ(pool->layout().slot_bytes, 128);
  EXPECT_EQ(pool->slots().slot_stride, 128);
  std::vector<std::byte> slab(5 * 128);
  EXPECT_THAT(backend_.CopyToHost(slab.data(), pool->slots().base, 5 * 128),
              IsOk());
}

TEST_F(StatePoolTest, PoisonedSlotIsFullOfNanEachTimeItIsGivenOut) {
  const auto pool = MakePool(1, 1, /*poison=*/true);
  const StateSlot neighbour = pool->AcquireSlot().value();
  float* const floats = reinterpret_cast<float*>(pool->slots().base);
  for (int turn = 0; turn < 2; ++turn) {
    const StateSlot slot = pool->AcquireSlot().value();
    ASSERT_EQ(slot.index(), 1);
    for (int i = 32; i < 64; ++i) EXPECT_TRUE(std::isnan(floats[i])) << i;
    std::fill(floats, floats + 64, 1.0f);  // As a turn would leave it.
  }
  EXPECT_EQ(floats[0], 1.0f);  // Another's slot is left alone.
}

TEST_F(StatePoolTest, PoisonedSlotIsFullOfNanOnceItsLastShareHasGone) {
  const auto pool = MakePool(1, 1, /*poison=*/true);
  const float* const floats =
      reinterpret_cast<const float*>(pool->slots().base);
  {
    const StateSlot slot = pool->AcquireSlot().value();
    ASSERT_EQ(slot.index(), 0);
    std::fill_n(reinterpret_cast<float*>(pool->slots().base), 32, 1.0f);
    slot.Share();  // The share that goes is not the last.
    EXPECT_EQ(floats[0], 1.0f);
  }
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(std::isnan(floats[i])) << i;
}

TEST_F(StatePoolTest, SlotThatCannotBePoisonedIsNotGivenOut) {
  const auto pool = MakePool(1, 1, /*poison=*/true);
  backend_.FailNth(BackendCall::kCopyToDevice, 1, absl::InternalError("lost"));
  EXPECT_THAT(pool->AcquireSlot(),
              StatusIs(absl::StatusCode::kInternal, "lost"));
  EXPECT_EQ(pool->usage().slots_in_use, 0);
}

TEST_F(StatePoolTest, SlotsAreNotTouchedUnlessPoisoned) {
  const auto pool = MakePool(1, 1);
  const StateSlot slot = pool->AcquireSlot().value();
  EXPECT_EQ(backend_.calls(BackendCall::kAny),
            backend_.calls(BackendCall::kAllocate));
}

TEST_F(StatePoolTest, SmallDeviceIsResourceExhausted) {
  FakeBackend small(4 * 128);
  EXPECT_THAT(StatePool::Create({.session_slots = 3, .scratch_slots = 2},
                                SmallLayout(), &small),
              StatusIs(kFull));
}

TEST_F(StatePoolTest, FailedAllocationIsReported) {
  backend_.FailNth(BackendCall::kAllocate, 1, absl::InternalError("lost"));
  EXPECT_THAT(StatePool::Create({.session_slots = 1, .scratch_slots = 1},
                                SmallLayout(), &backend_),
              StatusIs(absl::StatusCode::kInternal, "lost"));
}

TEST_F(StatePoolTest, OptionsOutOfRangeAreRefusedWithTheirValue) {
  const auto create = [this](int64_t sessions, int32_t scratch) {
    return StatePool::Create(
        {.session_slots = sessions, .scratch_slots = scratch}, SmallLayout(),
        &backend_);
  };
  EXPECT_THAT(create(0, 1), StatusIs(kInvalid, "session_slots is 0"));
  EXPECT_THAT(create(1, 0), StatusIs(kInvalid, "scratch_slots is 0"));
  EXPECT_THAT(create(1, -1), StatusIs(kInvalid, "scratch_slots is -1"));
  EXPECT_THAT(create(std::numeric_limits<int64_t>::max(), 1),
              StatusIs(kInvalid, "session_slots is 9223372036854775807"));
  EXPECT_THAT(create((int64_t{1} << 31) - 2, 2),
              StatusIs(kInvalid, "session_slots is 2147483646"));
}

TEST_F(StatePoolTest, LayoutOutOfRangeIsRefusedWithItsSize) {
  const auto create = [this](int64_t slot_bytes) {
    return StatePool::Create({.session_slots = 1 << 30, .scratch_slots = 1},
                             StateLayout{.slot_bytes = slot_bytes}, &backend_);
  };
  EXPECT_THAT(create(0), StatusIs(kInvalid, "slot_bytes is 0"));
  EXPECT_THAT(create(64), StatusIs(kInvalid, "slot_bytes is 64"));
  EXPECT_THAT(create(int64_t{1} << 40), StatusIs(kInvalid, "1099511627776"));
}

using StatePoolDeathTest = StatePoolTest;

TEST_F(StatePoolDeathTest, PoolThatGoesBeforeItsSlotEndsTheProcess) {
  auto pool = MakePool(1, 1);
  const StateSlot slot = pool->AcquireSlot().value();
  EXPECT_DEATH(pool.reset(), "check failed");
}

TEST_F(StatePoolDeathTest, PoolThatGoesBeforeItsReservationEndsTheProcess) {
  auto pool = MakePool(1, 1);
  const StateReservation reservation = pool->Reserve().value();
  EXPECT_DEATH(pool.reset(), "check failed");
}

TEST_F(StatePoolDeathTest, ShareOfNothingEndsTheProcess) {
  EXPECT_DEATH(StateSlot().Share(), "check failed");
}

}  // namespace
}  // namespace ttt
