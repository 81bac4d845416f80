#include "server/session/host_states.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/failing_backend.h"
#include "tests/support/fake_backend.h"
#include "tests/support/late_copies_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

constexpr bool kToHost = true;
constexpr bool kToDevice = false;

StateLayout SmallLayout() {
  StateLayout layout;
  layout.mini_batch = 4;
  layout.Add({"w1", PlaneRole::kFastWeights, {32}});
  return layout;
}

class HostStatesTest : public ::testing::Test {
 protected:
  float* Words(const StateSlot& slot) {
    return reinterpret_cast<float*>(pool_->slots().base +
                                    slot.index() * pool_->slots().slot_stride);
  }
  StateSlot Filled(float value) {
    StateSlot slot = pool_->AcquireSlot().value();
    std::fill_n(Words(slot), 32, value);
    return slot;
  }
  static std::vector<std::byte> BytesOf(float value) {
    const std::vector<float> words(32, value);
    std::vector<std::byte> bytes(32 * 4);
    std::memcpy(bytes.data(), words.data(), bytes.size());
    return bytes;
  }

  FakeBackend memory_;
  FailingBackend failing_{&memory_};
  LateCopiesBackend backend_{&failing_};
  std::unique_ptr<StatePool> pool_ =
      StatePool::Create({.session_slots = 2, .scratch_slots = 1}, SmallLayout(),
                        &backend_)
          .value();
  std::unique_ptr<HostStates> states_ =
      HostStates::Create(2, pool_.get(), &backend_).value();
};

TEST_F(HostStatesTest, ParkedStateComesBackInAnotherSlot) {
  HostState state;
  {
    const StateSlot slot = Filled(3.0f);
    state = states_->Park(slot).value();
  }
  EXPECT_THAT(states_->Wait(state), IsOk());
  const StateSlot slot = Filled(0.0f);
  EXPECT_THAT(states_->Wake(state, slot), IsOk());
  backend_.MakeAll(kToDevice);
  EXPECT_EQ(Words(slot)[31], 3.0f);
  // It may come back more than once.
  const StateSlot other = Filled(0.0f);
  EXPECT_THAT(states_->Wake(state, other), IsOk());
  backend_.MakeAll(kToDevice);
  EXPECT_EQ(Words(other)[0], 3.0f);
}

TEST_F(HostStatesTest, SlotIsNotGivenOutBeforeItHasBeenRead) {
  std::vector<StateSlot> others;
  others.push_back(Filled(1.0f));
  others.push_back(Filled(2.0f));
  StateSlot slot = Filled(3.0f);
  const int32_t index = slot.index();
  const HostState state = states_->Park(slot).value();
  slot = StateSlot();
  EXPECT_THAT(pool_->AcquireSlot(),
              StatusIs(absl::StatusCode::kResourceExhausted, "all 3 slots"));
  EXPECT_EQ(pool_->usage().slots_in_use, 3);
  backend_.MakeAll(kToHost);
  const StateSlot next = pool_->AcquireSlot().value();
  EXPECT_EQ(next.index(), index);
  std::fill_n(Words(next), 32, 9.0f);
  EXPECT_EQ(states_->Export(state, 0).value(), BytesOf(3.0f));
}

TEST_F(HostStatesTest, SlotIsNotGivenOutWhileAStateComesIntoIt) {
  const HostState state = states_->Import(BytesOf(5.0f), 0).value();
  StateSlot slot = pool_->AcquireSlot().value();
  EXPECT_THAT(states_->Wake(state, slot), IsOk());
  slot = StateSlot();
  std::vector<StateSlot> others;
  others.push_back(pool_->AcquireSlot().value());
  others.push_back(pool_->AcquireSlot().value());
  EXPECT_THAT(pool_->AcquireSlot(),
              StatusIs(absl::StatusCode::kResourceExhausted));
  backend_.MakeAll(kToDevice);
  EXPECT_THAT(pool_->AcquireSlot(), IsOk());
}

TEST_F(HostStatesTest, OpsOnASlotAwaitItsImportAndNoOther) {
  const HostState first = states_->Import(BytesOf(5.0f), 0).value();
  const HostState second = states_->Import(BytesOf(6.0f), 0).value();
  const StateSlot a = Filled(0.0f);
  const StateSlot b = Filled(0.0f);
  ASSERT_THAT(states_->Wake(first, a), IsOk());
  ASSERT_THAT(states_->Wake(second, b), IsOk());
  const StateSlot neither = Filled(1.0f);
  int32_t index = neither.index();
  EXPECT_THAT(pool_->AwaitImports(absl::MakeConstSpan(&index, 1)), IsOk());
  EXPECT_EQ(backend_.under_way(kToDevice), 2);
  index = a.index();
  EXPECT_THAT(pool_->AwaitImports(absl::MakeConstSpan(&index, 1)), IsOk());
  EXPECT_EQ(backend_.under_way(kToDevice), 1);
  EXPECT_EQ(Words(a)[7], 5.0f);
  EXPECT_EQ(Words(b)[7], 0.0f);
}

TEST_F(HostStatesTest, StateCanBeParkedWhileItComes) {
  const HostState state = states_->Import(BytesOf(5.0f), 0).value();
  const StateSlot slot = Filled(0.0f);
  ASSERT_THAT(states_->Wake(state, slot), IsOk());
  const HostState again = states_->Park(slot).value();
  EXPECT_EQ(states_->Export(again, 0).value(), BytesOf(5.0f));
}

TEST_F(HostStatesTest, StateCanBeWokenWhileItIsParked) {
  HostState state;
  {
    const StateSlot slot = Filled(4.0f);
    state = states_->Park(slot).value();
  }
  const StateSlot slot = Filled(0.0f);
  ASSERT_THAT(states_->Wake(state, slot), IsOk());
  backend_.MakeAll(kToDevice);
  EXPECT_EQ(Words(slot)[0], 4.0f);
}

TEST_F(HostStatesTest, PlaceIsNotUsedAgainBeforeItHasBeenRead) {
  HostState first = states_->Import(BytesOf(5.0f), 0).value();
  const HostState second = states_->Import(BytesOf(6.0f), 0).value();
  const StateSlot slot = Filled(0.0f);
  ASSERT_THAT(states_->Wake(first, slot), IsOk());
  first = HostState();
  EXPECT_THAT(states_->Import(BytesOf(7.0f), 0),
              StatusIs(absl::StatusCode::kResourceExhausted, "all 2 places"));
  backend_.MakeAll(kToDevice);
  EXPECT_EQ(Words(slot)[0], 5.0f);
  EXPECT_THAT(states_->Import(BytesOf(7.0f), 0), IsOk());
}

TEST_F(HostStatesTest, ImportOfAnotherSizeIsRefusedAndTakesNoPlace) {
  std::vector<std::byte> bytes = BytesOf(1.0f);
  bytes.pop_back();
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(
        states_->Import(bytes, 0),
        StatusIs(absl::StatusCode::kInvalidArgument, "bytes has 127 bytes"));
  }
  EXPECT_THAT(states_->Import(BytesOf(1.0f), -3),
              StatusIs(absl::StatusCode::kInvalidArgument, "tokens is -3"));
  const HostState first = states_->Import(BytesOf(1.0f), 0).value();
  EXPECT_THAT(states_->Import(BytesOf(1.0f), 0), IsOk());
}

TEST_F(HostStatesTest, NumberOfStatesOutOfRangeIsRefused) {
  EXPECT_THAT(HostStates::Create(0, pool_.get(), &backend_),
              StatusIs(absl::StatusCode::kInvalidArgument, "num_states is 0"));
  EXPECT_THAT(HostStates::Create(int64_t{1} << 40, pool_.get(), &backend_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "num_states is 1099511627776"));
}

TEST_F(HostStatesTest, CopyThatFailsIsReported) {
  failing_.FailNth(BackendCall::kCopyToHost, 1, absl::UnavailableError("lost"));
  const StateSlot slot = Filled(1.0f);
  const HostState state = states_->Park(slot).value();
  EXPECT_THAT(states_->Export(state, 0),
              StatusIs(absl::StatusCode::kUnavailable, "lost"));
}

TEST_F(HostStatesTest, PoolAndPlacesWaitForTheirCopiesAtTheEnd) {
  {
    const StateSlot slot = Filled(1.0f);
    const HostState state = states_->Park(slot).value();
  }
  states_.reset();
  pool_.reset();
  EXPECT_EQ(backend_.under_way(kToHost), 0);
}

TEST_F(HostStatesTest, RefusesToWakeAStateInASharedSlot) {
  const HostState state = states_->Import(BytesOf(1.0f), 0).value();
  const StateSlot slot = Filled(0.0f);
  {
    const StateSlot share = slot.Share();
    EXPECT_THAT(states_->Wake(state, slot),
                StatusIs(absl::StatusCode::kFailedPrecondition, "is shared"));
  }
  EXPECT_THAT(states_->Wake(state, slot), IsOk());
  // A copy that is under way has a share.
  EXPECT_THAT(states_->Wake(state, slot),
              StatusIs(absl::StatusCode::kFailedPrecondition, "being copied"));
}

}  // namespace
}  // namespace ttt
