// The socket that clients connect to.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/log_limit.h"

namespace ttt {

// Listens and accepts on a thread of its own. gRPC's own listener goes deaf for
// ever once accept has failed for lack of descriptors (1.51, tcp_server_posix);
// this one waits until there are some.
class Listener {
 public:
  // Takes over the descriptor of a connection; `listener` is the one that it
  // came through.
  using OnConnection = std::function<void(int listener, int connection)>;

  // `address`: HOST:PORT, [IPV6]:PORT, or unix:PATH; port 0 takes a free one.
  // `clock` must outlive the listener. UNAVAILABLE (PORT_UNAVAILABLE), with the
  // cause.
  static absl::StatusOr<std::unique_ptr<Listener>> Open(
      absl::string_view address, const Clock* clock);
  // Stops, and removes the file of a unix: address.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Once. `on_connection` is called on the listener's thread until Stop.
  void Start(OnConnection on_connection);
  // Accepts no more and closes the port. Waits for the thread. Idempotent.
  void Stop();

  int port() const { return port_; }  // 0 of a unix: address

 private:
  explicit Listener(const Clock* clock) : clock_(clock) {}
  absl::Status OpenUnix(const std::string& path);
  absl::Status OpenTcp(const std::string& host, const std::string& port);
  absl::Status Bind(int family, const void* address, size_t address_bytes);
  void Run();
  // False: out of descriptors or memory.
  bool AcceptAll(int listener);
  // After a round of AcceptAll.
  void LogRound(bool all_accepted);

  const Clock* const clock_;
  std::vector<int> sockets_;
  int wake_ = -1;  // an eventfd, readable once Stop was called
  int port_ = 0;
  std::string unix_path_;
  OnConnection on_connection_;
  // Who opens and closes connections at the limit makes many such rounds.
  LogLimit exhausted_log_{absl::Seconds(10)};
  int error_ = 0;                  // why a connection was not accepted
  bool exhausted_logged_ = false;  // since connections were last accepted
  std::thread thread_;
};

}  // namespace ttt
