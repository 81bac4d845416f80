// What a server is started with; the flags of main.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "server/base/error.h"

namespace ttt {

struct ServerOptions {
  std::string model_dir;
  bool dummy_weights = false;  // random weights, from config.json alone
  std::string listen = "127.0.0.1:50051";
  std::string http_listen = "127.0.0.1:9464";  // empty: no HTTP
  std::string device = "auto";                 // auto, cpu or cuda:N
  std::string precision = "auto";              // auto, fp32 or bf16
  int32_t num_threads = 0;  // of the CPU backend; 0: one a core
  int32_t max_batch_rows = 32;
  int32_t max_batch_tokens = 512;
  int64_t max_input_tokens = 1048576;
  int64_t device_state_bytes = 0;      // for the sessions' states; 0: a share
  int32_t max_queue = 1024;            // calls that wait, beside those that run
  int64_t max_queue_tokens = 4 << 20;  // of calls that wait
  int64_t max_queue_bytes = int64_t{256} << 20;  // of all requests
  absl::Duration max_queue_wait = absl::Seconds(10);
  int32_t max_top_logprobs = 20;
  absl::Duration stream_interval = absl::Milliseconds(20);
  bool reflection = false;
  absl::Duration max_stall = absl::Seconds(60);  // see Engine::Options
  // Tokens and candidates of one answer of Complete or Score.
  int64_t max_answer_candidates = int64_t{4} << 20;
  int64_t max_sessions = 1 << 20;  // empty ones too
  // A call whose client has not taken what was sent within that time, and a
  // second more for each MiB of an answer, is cut. Longer than max_stall, so
  // that the client may still learn that its turn has ended.
  absl::Duration max_unread = absl::Seconds(90);
  // Called once, on a thread of the server's, if its device is lost: all turns
  // have ended then, and it drains.
  std::function<void()> on_device_lost;
  // For tests: what stands between the server and its device.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)>
      wrap_backend;
};

// What is wrong with an option, by the name of its flag.
inline absl::Status BadFlag(absl::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "BAD_FLAG", message);
}

}  // namespace ttt
