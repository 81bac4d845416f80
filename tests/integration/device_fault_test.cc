// A device that fails, seen by clients: a step, a commit, a number that is not
// finite, and a device that is lost.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"
#include "tests/support/failing_backend.h"

namespace ttt {
namespace {

using grpc::StatusCode;

constexpr char kTurn[] =
    "session_id: 's' create_session: true token_ids { ids: [5, 6, 7] } "
    "sampling { max_tokens: 4 } stop { ignore_eos: true }";

// Fails as told, can make one number of a step not finite, and can be lost.
class FaultyDevice : public FailingBackend {
 public:
  explicit FaultyDevice(std::unique_ptr<Backend> device)
      : FailingBackend(device.get()), device_(std::move(device)) {}

  // From any thread. The hidden state of the first token of the next step that
  // reads more than one.
  void SpoilNextStep() { spoils_ = true; }
  void Lose() { is_lost_ = true; }

  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    TTT_RETURN_IF_ERROR(FailingBackend::EmbedTokens(args));
    if (args.rows.num_rows > 1 && spoils_.exchange(false)) {
      args.hidden[0] = std::numeric_limits<float>::quiet_NaN();
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override {
    ++recordings_;
    if (!has_room_) return absl::ResourceExhaustedError("no room");
    return FailingBackend::Record(work);
  }
  void FillUp() { has_room_ = false; }
  int recordings() const { return recordings_; }

  absl::Status Gemm(const GemmArgs& args) override {
    if (is_lost_) return absl::UnavailableError("illegal address");
    return FailingBackend::Gemm(args);
  }

 private:
  const std::unique_ptr<Backend> device_;
  std::atomic<bool> spoils_ = false;
  std::atomic<bool> is_lost_ = false;
  std::atomic<bool> has_room_ = true;
  std::atomic<int> recordings_ = 0;
};

class DeviceFaultTest : public testing::Test {
 protected:
  // The turn that fails; what it says of itself is looked at.
  grpc::Status Fail() {
    v1::CompleteResponse response;
    const grpc::Status status =
        server_.Complete(FromText<v1::CompleteRequest>(kTurn), &response);
    EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
    EXPECT_EQ(ErrorInfoOf(status).metadata().at("committed"), "false");
    return status;
  }

  // Told how often the device was lost.
  std::atomic<int> lost_ = 0;
  FaultyDevice* device_ = nullptr;  // the server's
  TestServer server_{{.adjust = [this](ServerOptions* options) {
    options->http_listen = "127.0.0.1:0";
    options->on_device_lost = [this] { ++lost_; };
    options->wrap_backend = [this](std::unique_ptr<Backend> backend) {
      auto device = std::make_unique<FaultyDevice>(std::move(backend));
      device_ = device.get();
      return device;
    };
  }}};
};

TEST_F(DeviceFaultTest, AStepThatFailsRollsItsTurnBackAndTheNextIsAsEver) {
  const std::string digest = server_.Complete(kTurn).state_digest();
  device_->FailNth(BackendCall::kGemm, 20, absl::InternalError("gone wrong"));
  const grpc::Status status = Fail();
  EXPECT_EQ(ErrorInfoOf(status).reason(), "STEP_FAILED");
  EXPECT_EQ(status.error_message(), "the device failed: gone wrong");
  EXPECT_EQ(server_.GetSession("s").revision(), 1);
  EXPECT_EQ(server_.GetSession("s").state_digest(), digest);
  EXPECT_EQ(server_.Complete(kTurn).revision(), 2);
  EXPECT_EQ(lost_, 0);
}

TEST_F(DeviceFaultTest, ACommitThatFailsRollsItsTurnBack) {
  device_->FailNth(BackendCall::kDigestStates, 1, absl::InternalError("no"));
  EXPECT_EQ(ErrorInfoOf(Fail()).reason(), "COMMIT_FAILED");
  EXPECT_EQ(server_.Complete(kTurn).revision(), 1);
}

TEST_F(DeviceFaultTest, AStateThatCannotBePreparedFailsItsTurnAlone) {
  server_.Complete(kTurn);
  device_->FailNth(BackendCall::kCopyOnDevice, 1, absl::InternalError("no"));
  EXPECT_EQ(ErrorInfoOf(Fail()).reason(), "STEP_FAILED");
  EXPECT_EQ(server_.Complete(kTurn).revision(), 2);
}

// Of two turns in one step, one fails, and the other has the bits that it has
// alone.
TEST_F(DeviceFaultTest, ANumberThatIsNotFiniteRollsItsTurnBackAlone) {
  const auto request = [](const std::string& session) {
    return absl::StrCat("create_session: true session_id: '", session,
                        "' token_ids { ids: [5, 6, 7] } sampling { "
                        "max_tokens: 500 temperature: 0 } stop { ignore_eos: "
                        "true }");
  };
  const std::string alone = server_.Complete(request("alone")).state_digest();
  StreamCall first(&server_, request("first"));
  first.ReadTokens(1);
  device_->SpoilNextStep();
  StreamCall second(&server_, request("second"));
  const grpc::Status statuses[] = {first.Finish(), second.Finish()};
  const int failed = statuses[0].ok() ? 1 : 0;
  EXPECT_EQ(ErrorInfoOf(statuses[failed]).reason(), "NUMERIC_FAULT");
  EXPECT_TRUE(statuses[1 - failed].ok());
  StreamCall& other = failed == 0 ? second : first;
  EXPECT_EQ(other.committed()->state_digest(), alone);
  EXPECT_TRUE(absl::StrContains(
      HttpGet(server_.server().http_port().value(), "/metrics"),
      "ttt_numeric_faults_total 1\n"));
}

TEST_F(DeviceFaultTest, WithoutRoomToRecordAStepItsOpsRunOneByOne) {
  device_->FillUp();
  EXPECT_EQ(server_.Complete(kTurn).token_ids_size(), 4);
  const int recordings = device_->recordings();
  EXPECT_GT(recordings, 0);
  EXPECT_EQ(server_.Complete(kTurn).token_ids_size(), 4);
  EXPECT_EQ(device_->recordings(), recordings);  // It is not tried again.
}

TEST_F(DeviceFaultTest, ADeviceThatIsLostEndsAllTurnsAndTheServing) {
  StreamCall running(&server_, EndlessRequest("running"));
  running.ReadTokens(5);
  device_->Lose();
  const grpc::Status status = running.Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "STEP_FAILED");
  EXPECT_TRUE(Eventually(absl::Seconds(30), [&] { return lost_ == 1; }));
  EXPECT_EQ(
      HttpGet(server_.server().http_port().value(), "/readyz").substr(0, 12),
      "HTTP/1.1 503");
  v1::CompleteResponse response;
  const grpc::Status refused =
      server_.Complete(FromText<v1::CompleteRequest>(kTurn), &response);
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(refused).reason(), "DRAINING");
  EXPECT_TRUE(server_.server().WaitUntilIdle(absl::Seconds(30)));
  EXPECT_EQ(lost_, 1);
}

TEST_F(DeviceFaultTest, ADeviceLostAtACommitEndsTheServingToo) {
  device_->FailNth(BackendCall::kDigestStates, 1,
                   absl::UnavailableError("illegal address"));
  EXPECT_EQ(ErrorInfoOf(Fail()).reason(), "COMMIT_FAILED");
  EXPECT_TRUE(Eventually(absl::Seconds(30), [&] { return lost_ == 1; }));
}

}  // namespace
}  // namespace ttt
