// What a server would take of a device that has memory of its own.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/integration/test_server.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

class DeviceOfBytes : public ForwardingBackend {
 public:
  DeviceOfBytes(std::unique_ptr<Backend> device, int64_t free_bytes,
                const DeviceOverhead& overhead)
      : ForwardingBackend(device.get()),
        device_(std::move(device)),
        free_bytes_(free_bytes),
        overhead_(overhead) {}

  absl::StatusOr<std::optional<int64_t>> FreeBytes() override {
    return free_bytes_;
  }
  DeviceOverhead overhead() const override { return overhead_; }

 private:
  const std::unique_ptr<Backend> device_;
  const int64_t free_bytes_;
  const DeviceOverhead overhead_;
};

class PlanTest : public testing::Test {
 protected:
  absl::StatusOr<std::string> PlanWith(int64_t free_bytes,
                                       int64_t device_state_bytes) {
    ServerOptions options;
    options.model_dir = model_.path();
    options.device = "cpu";
    options.precision = "fp32";
    options.num_threads = 1;
    options.device_state_bytes = device_state_bytes;
    options.wrap_backend = [this,
                            free_bytes](std::unique_ptr<Backend> backend) {
      return std::make_unique<DeviceOfBytes>(std::move(backend), free_bytes,
                                             overhead_);
    };
    return PlanServer(options);
  }

  const TinyModel model_;
  DeviceOverhead overhead_;
};

// Of a line "name   value", which may go on.
int64_t ValueOf(const std::string& plan, const std::string& name) {
  const std::vector<std::string> lines = absl::StrSplit(plan, '\n');
  for (const std::string& line : lines) {
    int64_t value = 0;
    const std::vector<std::string> words =
        absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() >= 2 && words[0] == name &&
        absl::SimpleAtoi(words[1], &value)) {
      return value;
    }
  }
  ADD_FAILURE() << "no " << name << " in\n" << plan;
  return 0;
}

TEST_F(PlanTest, WithoutAFlagTheSessionsTakeMostOfTheDevice) {
  constexpr int64_t kFree = int64_t{10} << 30;
  const absl::StatusOr<std::string> plan = PlanWith(kFree, 0);
  ASSERT_THAT(plan, IsOk());
  const int64_t total = ValueOf(*plan, "total_bytes");
  EXPECT_GT(total, kFree * 0.97);
  EXPECT_LE(total, kFree * 0.99);
  EXPECT_EQ(
      ValueOf(*plan, "session_slots"),
      ValueOf(*plan, "state_pool_bytes") / ValueOf(*plan, "bytes_per_session") -
          ValueOf(*plan, "scratch_slots"));
}

TEST_F(PlanTest, WhatDoesNotFitIsRefusedWithThePlan) {
  const absl::StatusOr<std::string> small = PlanWith(int64_t{1} << 30, 4 << 20);
  ASSERT_THAT(small, IsOk());
  const int64_t total = ValueOf(*small, "total_bytes");
  EXPECT_THAT(PlanWith(total, 4 << 20), IsOk());
  const absl::StatusOr<std::string> refused = PlanWith(total - 1, 4 << 20);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                absl::StrCat("cpu has ", total - 1,
                                             " bytes free, and the plan takes ",
                                             total, ": ")));
  EXPECT_EQ(ExitCode(refused.status()), kExitUnavailable);
}

// The memory of the machine is that of the CPU.
TEST_F(PlanTest, WhatTheMachineHasNotIsRefusedToo) {
  ServerOptions options;
  options.model_dir = model_.path();
  options.device = "cpu";
  options.device_state_bytes = int64_t{1} << 50;
  const absl::StatusOr<std::string> refused = PlanServer(options);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                " bytes free, and the plan takes 11258999"));
  EXPECT_EQ(ExitCode(refused.status()), kExitUnavailable);
  options.device_state_bytes = 0;
  EXPECT_THAT(PlanServer(options), IsOk());
}

TEST_F(PlanTest, WhatTheBackendTakesBesideIsNamed) {
  overhead_ = {.driver_bytes = 500 << 20,
               .own_bytes = 2560,
               .reserve_bytes = 100 << 20,
               .pinned_bytes = 4096};
  const absl::StatusOr<std::string> plan = PlanWith(int64_t{1} << 30, 4 << 20);
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(ValueOf(*plan, "driver_bytes"), 500 << 20);
  EXPECT_EQ(ValueOf(*plan, "backend_bytes"), 2560);
  EXPECT_EQ(ValueOf(*plan, "reserve_bytes"), 100 << 20);
  EXPECT_EQ(ValueOf(*plan, "pinned_host_bytes"), 4096);
  EXPECT_EQ(ValueOf(*plan, "total_bytes"),
            ValueOf(*plan, "weight_bytes") + ValueOf(*plan, "workspace_bytes") +
                ValueOf(*plan, "state_pool_bytes") + (100 << 20));
  // Sessions do not take what is reserved.
  const absl::StatusOr<std::string> full = PlanWith(int64_t{1} << 30, 0);
  ASSERT_THAT(full, IsOk());
  EXPECT_LE(ValueOf(*full, "total_bytes"), int64_t{1} << 30);
}

TEST_F(PlanTest, ADeviceWithRoomForNoSessionIsRefused) {
  EXPECT_THAT(PlanWith(1 << 20, 0),
              StatusIs(absl::StatusCode::kResourceExhausted, "1048576 bytes"));
}

}  // namespace
}  // namespace ttt
