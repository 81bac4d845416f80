// A GPU that is really lost under a running server: a kernel writes where no
// memory is, after which no call of this process to the device succeeds. Needs
// a GPU; the same faults on a device that only says so: device_fault_test.cc.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/test_server.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/test_device.h"

namespace ttt {
namespace {

// Breaks the device before the copy that begins a step.
class BreakableDevice : public ForwardingBackend {
 public:
  explicit BreakableDevice(std::unique_ptr<Backend> device)
      : ForwardingBackend(device.get()), device_(std::move(device)) {}

  void Break() { breaks_ = true; }

  absl::Status CopyToDevice(void* to, const void* from,
                            int64_t size_bytes) override {
    if (breaks_.exchange(false)) {
      auto* const nowhere = reinterpret_cast<float*>(uintptr_t{1} << 46);
      static_cast<void>(device_->RmsNorm({.input = nowhere,
                                          .weight = nowhere,
                                          .output = {nowhere, DType::kFloat32},
                                          .num_rows = 1,
                                          .hidden_size = 64,
                                          .epsilon = 1e-6f}));
    }
    return device_->CopyToDevice(to, from, size_bytes);
  }

 private:
  const std::unique_ptr<Backend> device_;
  std::atomic<bool> breaks_ = false;
};

// Ends the process: with 0 if the server did as it promises.
[[noreturn]] void LoseTheGpuOfAServer() {
  std::atomic<int> lost = 0;
  BreakableDevice* device = nullptr;
  TestServer server({.adjust = [&](ServerOptions* options) {
    options->device = "cuda:0";
    options->http_listen = "127.0.0.1:0";
    options->on_device_lost = [&] { ++lost; };
    options->wrap_backend = [&](std::unique_ptr<Backend> backend) {
      auto breakable = std::make_unique<BreakableDevice>(std::move(backend));
      device = breakable.get();
      return breakable;
    };
  }});
  StreamCall running(&server, EndlessRequest("running"));
  running.ReadTokens(5);
  device->Break();
  const grpc::Status status = running.Finish();
  const bool is_told = Eventually(absl::Seconds(30), [&] { return lost == 1; });
  v1::CompleteResponse response;
  const grpc::Status refused = server.Complete(
      FromText<v1::CompleteRequest>("token_ids { ids: [5, 6, 7] }"), &response);
  const std::string ready =
      HttpGet(server.server().http_port().value(), "/readyz");
  const bool is_right =
      is_told && ErrorInfoOf(status).reason() == "STEP_FAILED" &&
      ErrorInfoOf(status).metadata().at("committed") == "false" &&
      ErrorInfoOf(refused).reason() == "DRAINING" &&
      ready.starts_with("HTTP/1.1 503") &&
      server.server().WaitUntilIdle(absl::Seconds(30));
  std::fprintf(stderr, "%s; %s; told %d; %s\n", status.error_message().c_str(),
               refused.error_message().c_str(), lost.load(),
               ready.substr(0, 12).c_str());
  std::_Exit(is_right ? 0 : 1);
}

class LostGpuTest : public testing::TestWithParam<TestDevice> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LostGpuTest);

TEST_P(LostGpuTest, EndsItsTurnsAndTheServing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(LoseTheGpuOfAServer(), testing::ExitedWithCode(0),
              "cudaErrorIllegalAddress");
}

INSTANTIATE_TEST_SUITE_P(Cuda, LostGpuTest,
                         testing::ValuesIn(HasCuda()
                                               ? std::vector{TestDevice::kCuda}
                                               : std::vector<TestDevice>{}));

}  // namespace
}  // namespace ttt
