// A tttd whose GPU is really lost while a turn runs: what its clients are told,
// and how it ends. Needs a GPU; the same within a process: lost_gpu_test.cc.
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/mutex.h"
#include "tests/chaos/tttd_process.h"
#include "tests/integration/test_server.h"
#include "tests/support/test_device.h"

namespace ttt {
namespace {

// grpc.health.v1.HealthCheckResponse, by hand.
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

// All that the health service tells of the server until its end.
class HealthWatch
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit HealthWatch(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(channel) {
    stub_.PrepareBidiStreamingCall(&context_, "/grpc.health.v1.Health/Watch",
                                   grpc::StubOptions(), this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }

  // Waits for so many answers, or the end.
  void WaitFor(size_t count) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (answers_.size() < count && !is_done_) changed_.Wait(mutex_);
  }
  // Waits for the end.
  std::vector<std::string> Finish() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (!is_done_) changed_.Wait(mutex_);
    return answers_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    std::vector<grpc::Slice> slices;
    std::string answer;
    TTT_CHECK(response_.Dump(&slices).ok());
    for (const grpc::Slice& slice : slices) {
      answer.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    {
      MutexLock lock(mutex_);
      answers_.push_back(answer);
      changed_.NotifyAll();
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status&) override {
    MutexLock lock(mutex_);
    is_done_ = true;
    changed_.NotifyAll();
  }

 private:
  const grpc::Slice nothing_;
  const grpc::ByteBuffer request_{&nothing_, 1};  // of the whole server
  grpc::ByteBuffer response_;
  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> answers_ ABSL_GUARDED_BY(mutex_);
  bool is_done_ ABSL_GUARDED_BY(mutex_) = false;
};

class TttdLostGpuTest : public testing::TestWithParam<TestDevice> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TttdLostGpuTest);

TEST_P(TttdLostGpuTest, EndsWith70) {
  const TinyModel model;
  const std::filesystem::path library =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() /
      "lose_gpu.so";
  ASSERT_TRUE(std::filesystem::exists(library)) << library;
  TttdProcess tttd(
      {absl::StrCat("--model=", model.path()), "--load_format=dummy",
       "--device=cuda:0", "--device_state_bytes=4000000"},
      {absl::StrCat("LD_PRELOAD=", library.string())});
  ASSERT_NE(tttd.port(), 0);
  Client client(tttd.address());
  HealthWatch health(client.channel);
  health.WaitFor(1);
  grpc::ClientContext context;
  const auto running = client.inference->StreamComplete(
      &context, FromText<v1::CompleteRequest>(EndlessRequest("running")));
  v1::CompleteEvent event;
  do {
    ASSERT_TRUE(running->Read(&event));
  } while (event.tokens().index() < 20);

  tttd.Signal(SIGUSR1);
  while (running->Read(&event)) EXPECT_FALSE(event.has_committed());
  const grpc::Status status = running->Finish();
  EXPECT_EQ(ErrorInfoOf(status).reason(), "STEP_FAILED")
      << status.error_message();
  EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
  const std::vector<std::string> told = health.Finish();
  EXPECT_EQ(told.front(), kServing);
  EXPECT_EQ(told.back(), kNotServing);
  EXPECT_NE(tttd.WaitForLine("the device is lost"), "");
  EXPECT_EQ(tttd.Wait(), 70);
}

INSTANTIATE_TEST_SUITE_P(Cuda, TttdLostGpuTest,
                         testing::ValuesIn(HasCuda()
                                               ? std::vector{TestDevice::kCuda}
                                               : std::vector<TestDevice>{}));

}  // namespace
}  // namespace ttt
