// The gRPC server: services, health.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/listener.h"
#include "server/rpc/rpc_parts.h"

namespace ttt {

// Serves from Start until Shutdown. Thread-safe, but for Shutdown.
class RpcServer {
 public:
  struct Options {
    bool reflection = false;
    absl::Duration stream_interval;  // see TokenStream::Options
    int64_t max_answer_candidates = int64_t{4} << 20;  // see RequestLimits
  };

  // Serves with Admission in the state it has: SetServing opens it. Takes the
  // connections of `listener`, those too that have waited in it. `parts` must
  // outlive the server.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const Options& options, const RpcParts& parts, const ServerFacts& facts,
      std::unique_ptr<Listener> listener);
  // As Shutdown without a grace.
  ~RpcServer();

  int port() const;
  // Admits calls; health says SERVING.
  void SetServing();
  // Admits no more; health says NOT_SERVING. Running turns go on.
  void StartDrain();
  // False: turns were still running after `timeout`.
  bool WaitUntilIdle(absl::Duration timeout);
  // Cuts the calls whose client has not taken what was sent `max_unread` ago.
  // Not from two threads at once.
  void CutUnread(absl::Duration max_unread);
  // Ends the turns that run with UNAVAILABLE (DRAINING), closes the port, and
  // cuts the calls that have not ended after `grace`.
  void Shutdown(absl::Duration grace);

 private:
  class Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace ttt
