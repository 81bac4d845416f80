// A state that leaves the device and comes back is the same: its digest, and
// all that is read with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "server/session/canonical_state.h"
#include "server/session/host_states.h"
#include "tests/support/model_fixture.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

struct Param {
  TestDevice device;
  Precision precision;
  bool is_mlp;
};

std::vector<Param> Params() {
  std::vector<Param> params;
  for (const TestDevice device : TestDevices()) {
    for (const Precision precision :
         {Precision::kFloat32, Precision::kBFloat16}) {
      if (precision == Precision::kBFloat16 && !HasBFloat16(device)) continue;
      for (const bool is_mlp : {false, true}) {
        params.push_back({device, precision, is_mlp});
      }
    }
  }
  return params;
}

std::string ParamName(const testing::TestParamInfo<Param>& info) {
  return TestDeviceName(info.param.device) +
         (info.param.precision == Precision::kBFloat16 ? "BF16" : "FP32") +
         (info.param.is_mlp ? "Mlp" : "Linear");
}

// Of heads that the learners on a GPU are tuned for.
ModelConfig Config(bool is_mlp) {
  ModelConfig config = SmallConfig(is_mlp);
  config.hidden_size = 128;
  config.intermediate_size = 192;
  return config;
}

std::vector<int32_t> Tokens(int64_t count, int32_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>((i * 31 + seed * 17 + i * i) % 97));
  }
  return tokens;
}

class ParkedStateTest : public testing::TestWithParam<Param> {
 protected:
  ParkedStateTest() {
    f_.pool =
        StatePool::Create(
            {.session_slots = 3, .scratch_slots = 5, .poison_released = true},
            f_.pool->layout(), f_.backend.get())
            .value();
    states_ = HostStates::Create(4, f_.pool.get(), f_.backend.get()).value();
  }

  StateSlot Session(int64_t tokens, int32_t seed) {
    StateSlot slot = f_.EmptySession();
    f_.Read(slot, 0, Tokens(tokens, seed));
    return slot;
  }
  StateSlot Woken(const HostState& state) {
    StateSlot slot = f_.pool->AcquireSlot().value();
    EXPECT_THAT(states_->Wake(state, slot), IsOk());
    return slot;
  }

  ModelFixture f_ = ModelFixture::Dummy(
      Config(GetParam().is_mlp),
      {.device = GetParam().device, .precision = GetParam().precision},
      {64, 5, 0});
  std::unique_ptr<HostStates> states_;
};

constexpr int64_t kLengths[] = {0, 1, 15, 16, 33, 47};

TEST_P(ParkedStateTest, IsTheSameWhenItWakesAndReadsOnAlike) {
  for (const int64_t length : kLengths) {
    StateSlot slot = Session(length, 1);
    const StateDigest digest = f_.Digest(slot, length);
    const HostState state = states_->Park(slot).value();
    const std::vector<float> wanted = f_.Read(slot, length, Tokens(20, 2));
    const StateDigest end = f_.Digest(slot, length + 20);
    slot = StateSlot();
    const StateSlot woken = Woken(state);
    EXPECT_EQ(f_.Digest(woken, length), digest) << length << " tokens";
    EXPECT_EQ(f_.Read(woken, length, Tokens(20, 2)), wanted);
    EXPECT_EQ(f_.Digest(woken, length + 20), end) << length << " tokens";
  }
}

TEST_P(ParkedStateTest, ImportOfAnExportIsTheSameAndReadsOnAlike) {
  for (const int64_t length : kLengths) {
    StateDigest digest;
    StateDigest end;
    std::vector<std::byte> bytes;
    std::vector<float> wanted;
    {
      const StateSlot slot = Session(length, 3);
      digest = f_.Digest(slot, length);
      const HostState state = states_->Park(slot).value();
      bytes = states_->Export(state, length).value();
      wanted = f_.Read(slot, length, Tokens(20, 4));
      end = f_.Digest(slot, length + 20);
    }
    EXPECT_EQ(static_cast<int64_t>(bytes.size()),
              CanonicalBytes(f_.pool->layout(), length));
    const HostState state = states_->Import(bytes, length).value();
    const StateSlot slot = Woken(state);
    EXPECT_EQ(f_.Digest(slot, length), digest) << length << " tokens";
    EXPECT_EQ(states_->Export(states_->Park(slot).value(), length).value(),
              bytes);
    EXPECT_EQ(f_.Read(slot, length, Tokens(20, 4)), wanted);
    EXPECT_EQ(f_.Digest(slot, length + 20), end) << length << " tokens";
  }
}

// The planes that a test reads are those that the bytes hold.
TEST_P(ParkedStateTest, ExportBeginsWithTheFastWeights) {
  const StateSlot slot = Session(40, 4);
  const auto bytes = states_->Export(states_->Park(slot).value(), 40).value();
  const std::vector<float> w1 = f_.Plane(slot, "w1");
  ASSERT_GT(bytes.size(), w1.size() * sizeof(float));
  std::vector<float> first(w1.size());
  std::memcpy(first.data(), bytes.data(), w1.size() * sizeof(float));
  EXPECT_EQ(first, w1);
}

// A device of another precision, or a CPU, reads what this one wrote.
TEST_P(ParkedStateTest, ExportIsReadOnTheReference) {
  const StateSlot slot = Session(39, 5);
  const auto bytes = states_->Export(states_->Park(slot).value(), 39).value();
  ModelFixture other = ModelFixture::Dummy(Config(GetParam().is_mlp),
                                           {.device = TestDevice::kReference});
  const auto states =
      HostStates::Create(2, other.pool.get(), other.backend.get()).value();
  const HostState state = states->Import(bytes, 39).value();
  const StateSlot copy = other.pool->AcquireSlot().value();
  ASSERT_THAT(states->Wake(state, copy), IsOk());
  for (const char* plane : {"w1", "b1", "conv_tail", "last_hidden"}) {
    EXPECT_EQ(other.Plane(copy, plane), f_.Plane(slot, plane)) << plane;
  }
  EXPECT_EQ(states->Export(states->Park(copy).value(), 39).value(), bytes);
  other.Read(copy, 39, Tokens(20, 6));
  other.Digest(copy, 59);  // finite
}

TEST_P(ParkedStateTest, StatesComeAndGoWhileStepsRun) {
  constexpr int64_t kLength = 21;
  constexpr int kRounds = 24;
  const StateSlot alone = Session(kLength, 7);
  std::vector<std::vector<float>> wanted;
  for (int64_t i = 0; i < kRounds; ++i) {
    wanted.push_back(f_.Read(alone, kLength + i, Tokens(1, int32_t(i))));
  }
  const StateDigest end = f_.Digest(alone, kLength + kRounds);

  std::vector<HostState> parked;
  std::vector<StateDigest> digests;
  for (int32_t seed = 0; seed < 2; ++seed) {
    const StateSlot slot = Session(kLength + seed, seed);
    digests.push_back(f_.Digest(slot, kLength + seed));
    parked.push_back(states_->Park(slot).value());
  }
  const StateSlot running = Session(kLength, 7);
  for (int64_t i = 0; i < kRounds; ++i) {
    const int32_t seed = int32_t(i % 2);
    StateSlot slot = Woken(parked[seed]);
    // A step of another session, then one of its own right behind.
    ASSERT_EQ(f_.Read(running, kLength + i, Tokens(1, int32_t(i))), wanted[i]);
    if (i % 3 == 0) {
      ASSERT_EQ(f_.Digest(slot, kLength + seed), digests[seed]);
    }
    parked[seed] = states_->Park(slot).value();
  }
  EXPECT_EQ(f_.Digest(running, kLength + kRounds), end);
  for (int32_t seed = 0; seed < 2; ++seed) {
    const StateSlot slot = Woken(parked[seed]);
    EXPECT_EQ(f_.Digest(slot, kLength + seed), digests[seed]);
  }
}

TEST_P(ParkedStateTest, OtherSizesAreRefused) {
  const StateSlot slot = Session(17, 8);
  auto bytes = states_->Export(states_->Park(slot).value(), 17).value();
  const std::string size = std::to_string(bytes.size());
  EXPECT_THAT(states_->Import(bytes, 18),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "bytes has " + size + " bytes"));
  bytes.push_back(std::byte{0});
  EXPECT_THAT(states_->Import(bytes, 17),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "a state of 17 tokens " + size));
}

INSTANTIATE_TEST_SUITE_P(Devices, ParkedStateTest, testing::ValuesIn(Params()),
                         ParamName);

}  // namespace
}  // namespace ttt
