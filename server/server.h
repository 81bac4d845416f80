// Builds every part of the daemon, in order, and owns them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

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
  // A call whose client takes nothing of its answer for that long is cut.
  // Longer than max_stall, so that the client may still learn that its turn has
  // ended.
  absl::Duration max_unread = absl::Seconds(90);
};

// What the exit codes mean to whoever starts the daemon.
inline constexpr int kExitBadFlag = 64;
inline constexpr int kExitBadModel = 65;
inline constexpr int kExitUnavailable = 69;  // a port or the device
inline constexpr int kExitInternal = 70;

// Of a status that PlanServer or Server::Create returned.
int ExitCode(const absl::Status& status);

// What a server of these options would take of its device, as lines for people;
// reads config.json and no weights. Errors as Server::Create.
absl::StatusOr<std::string> PlanServer(const ServerOptions& options);

// Thread-safe, but for the destructor.
class Server {
 public:
  // Everything is there and listens; health says NOT_SERVING and calls are
  // refused with UNAVAILABLE (STARTING) until SetServing. Any failure has a
  // code of ExitCode.
  static absl::StatusOr<std::unique_ptr<Server>> Create(
      const ServerOptions& options);
  // As Shutdown.
  ~Server();

  void SetServing();
  // Refuses new calls; running turns go on.
  void StartDrain();
  // False: turns were still running after `bound`.
  bool WaitUntilIdle(absl::Duration bound);
  // Ends what is left with UNAVAILABLE (DRAINING) and stops listening.
  void Shutdown();

  int port() const;
  std::optional<int> http_port() const;  // none without HTTP

 private:
  class Parts;
  explicit Server(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace ttt
