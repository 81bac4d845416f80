// Builds every part of the daemon, in order, and owns them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/options.h"

namespace ttt {

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
