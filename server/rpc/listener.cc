#include "server/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// As long as the kernel sends what a vanished peer does not acknowledge.
constexpr int kUserTimeoutMs = 10000;
// Before looking whether to stop.
constexpr int kMostAtOnce = 64;
// How long to wait for others to give descriptors back.
constexpr int kExhaustedWaitMs = 100;

absl::Status Unavailable(absl::string_view cause) {
  return Error(absl::StatusCode::kUnavailable, "PORT_UNAVAILABLE", cause);
}

absl::Status ErrnoError(int error) { return Unavailable(std::strerror(error)); }

void Allow(int socket, int level, int option, int value) {
  // A refusal costs speed at most.
  (void)setsockopt(socket, level, option, &value, sizeof(value));
}

// Only what refuses a connection is known to be left behind.
bool IsLeftBehind(const sockaddr_un& address) {
  const int socket =
      ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return false;
  const bool refused =
      connect(socket, reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) != 0 &&
      errno == ECONNREFUSED;
  close(socket);
  return refused;
}

int PortOf(int socket) {
  sockaddr_storage address = {};
  socklen_t bytes = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
    return 0;
  }
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return 0;
}

void SetPort(sockaddr* address, int port) {
  if (address->sa_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address)->sin_port =
        htons(static_cast<uint16_t>(port));
  } else if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port =
        htons(static_cast<uint16_t>(port));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Open(
    absl::string_view address, const Clock* clock) {
  std::unique_ptr<Listener> listener(new Listener(clock));
  listener->wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->wake_ < 0) return ErrnoError(errno);
  if (absl::ConsumePrefix(&address, "unix:")) {
    TTT_RETURN_IF_ERROR(listener->OpenUnix(std::string(address)));
    return listener;
  }
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return Unavailable("there is no port");
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  TTT_RETURN_IF_ERROR(listener->OpenTcp(
      std::string(host), std::string(address.substr(colon + 1))));
  return listener;
}

Listener::~Listener() {
  Stop();
  if (wake_ >= 0) close(wake_);
}

absl::Status Listener::Bind(int family, const void* address,
                            size_t address_bytes) {
  const int socket =
      ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return ErrnoError(errno);
  // Not SO_REUSEPORT: two daemons on one port would share its connections, and
  // no session.
  Allow(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  if (family != AF_UNIX) {
    // A connection has these of its listener.
    Allow(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    Allow(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  }
  if (family == AF_INET6) Allow(socket, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (bind(socket, static_cast<const sockaddr*>(address),
           static_cast<socklen_t>(address_bytes)) != 0 ||
      listen(socket, SOMAXCONN) != 0) {
    const int error = errno;
    close(socket);
    return ErrnoError(error);
  }
  sockets_.push_back(socket);
  return absl::OkStatus();
}

absl::Status Listener::OpenUnix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Unavailable(absl::StrCat("the path has ", path.size(),
                                    " bytes, and may have 1 to ",
                                    sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat file = {};
  if (stat(path.c_str(), &file) == 0 && S_ISSOCK(file.st_mode)) {
    if (!IsLeftBehind(address)) return ErrnoError(EADDRINUSE);
    unlink(path.c_str());
  }
  TTT_RETURN_IF_ERROR(Bind(AF_UNIX, &address, sizeof(address)));
  unix_path_ = path;
  return absl::OkStatus();
}

// Every address of the host that this machine has; a name may have several.
absl::Status Listener::OpenTcp(const std::string& host,
                               const std::string& port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                port.c_str(), &hints, &found);
  if (error != 0) return Unavailable(gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(
      found, &freeaddrinfo);
  absl::Status last;
  std::set<std::string> seen;  // A file of hosts may name one twice.
  for (addrinfo* i = found; i != nullptr; i = i->ai_next) {
    if (!seen.insert(std::string(reinterpret_cast<const char*>(i->ai_addr),
                                 i->ai_addrlen))
             .second) {
      continue;
    }
    if (port_ != 0) SetPort(i->ai_addr, port_);  // The port that was free.
    const absl::Status status = Bind(i->ai_family, i->ai_addr, i->ai_addrlen);
    if (status.ok()) {
      port_ = PortOf(sockets_.back());
    } else if (absl::EndsWith(status.message(), std::strerror(EADDRINUSE))) {
      return status;  // Half a name's addresses would be another daemon's.
    } else {
      last = status;
    }
  }
  return sockets_.empty() ? last : absl::OkStatus();
}

void Listener::Start(OnConnection on_connection) {
  TTT_CHECK(!thread_.joinable());
  on_connection_ = std::move(on_connection);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    TTT_CHECK(write(wake_, &one, sizeof(one)) == sizeof(one));
    thread_.join();
  }
  for (const int socket : sockets_) close(socket);
  sockets_.clear();
  if (!unix_path_.empty()) unlink(unix_path_.c_str());
  unix_path_.clear();
}

void Listener::Run() {
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
  for (const int socket : sockets_) polled.push_back({socket, POLLIN, 0});
  bool exhausted = false;
  while (true) {
    // Exhausted: only for Stop and for the time, as the sockets stay readable.
    if (poll(polled.data(), exhausted ? 1 : polled.size(),
             exhausted ? kExhaustedWaitMs : -1) < 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(kExhaustedWaitMs));
    }
    uint64_t stopped = 0;
    if (read(wake_, &stopped, sizeof(stopped)) == sizeof(stopped)) return;
    bool all_accepted = true;
    for (const int socket : sockets_) all_accepted &= AcceptAll(socket);
    LogRound(all_accepted);
    exhausted = !all_accepted;
  }
}

void Listener::LogRound(bool all_accepted) {
  if (!all_accepted) {
    const auto rounds = exhausted_log_.Count(clock_->Now());
    if (!rounds.has_value()) return;
    Log(LogLevel::kWarning, "connections wait: none can be accepted",
        {{"error", std::strerror(error_)}, {"times", absl::StrCat(*rounds)}});
    exhausted_logged_ = true;
  } else if (std::exchange(exhausted_logged_, false)) {
    Log(LogLevel::kWarning, "connections are accepted again");
  }
}

bool Listener::AcceptAll(int listener) {
  for (int i = 0; i < kMostAtOnce; ++i) {
    const int connection =
        accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0) {
      on_connection_(listener, connection);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    // These are of one connection, which is gone already.
    if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO) continue;
    error_ = errno;
    return false;
  }
  return true;
}

}  // namespace ttt
