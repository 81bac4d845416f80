#include "server/telemetry/http_endpoint.h"

#include <civetweb.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/base/error.h"

namespace ttt {
namespace {

constexpr char kPlain[] = "text/plain; charset=utf-8";
constexpr char kPrometheus[] = "text/plain; version=0.0.4; charset=utf-8";
// A connection has a thread until its request has come: these two bound how
// long a probe waits behind connections on which none comes. A thread that
// waits costs some 20 KiB.
constexpr char kThreads[] = "64";
constexpr char kRequestTimeoutMs[] = "1000";

// Of `cannot bind to 127.0.0.1:9464: 98 (Address already in use)`.
absl::string_view Cause(absl::string_view message) {
  const size_t begin = message.rfind('(');
  if (begin == absl::string_view::npos) return message;
  return absl::StripSuffix(message.substr(begin + 1), ")");
}

int Send(mg_connection* connection, bool with_body, absl::string_view status,
         absl::string_view type, absl::string_view body) {
  std::string reply =
      absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type,
                   "\r\nContent-Length: ", body.size(),
                   "\r\nCache-Control: no-store"
                   "\r\nConnection: close\r\n\r\n");
  if (with_body) absl::StrAppend(&reply, body);
  mg_write(connection, reply.data(), reply.size());
  return 1;
}

// Connects to the endpoint and leaves again.
void Touch(const std::string& host, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.empty() ? nullptr : host.c_str(),
                  absl::StrCat(port).c_str(), &hints, &found) != 0) {
    return;
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(
      found, &freeaddrinfo);
  const int socket =
      ::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return;
  (void)connect(socket, found->ai_addr, found->ai_addrlen);
  close(socket);
}

// `host` of host:port, without the brackets of an IPv6 address.
std::string HostOf(absl::string_view listen) {
  const size_t colon = listen.rfind(':');
  if (colon == absl::string_view::npos) return "";
  absl::string_view host = listen.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return std::string(host);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(
    const std::string& listen, Sources sources) {
  std::unique_ptr<HttpEndpoint> endpoint(new HttpEndpoint(std::move(sources)));
  const char* options[] = {"listening_ports",
                           listen.c_str(),
                           "num_threads",
                           kThreads,
                           "request_timeout_ms",
                           kRequestTimeoutMs,
                           "enable_keep_alive",
                           "no",
                           "max_request_size",
                           "8192",
                           nullptr};
  mg_callbacks callbacks = {};
  callbacks.log_message = &TakeMessage;
  mg_init_library(0);
  endpoint->context_ = mg_start(&callbacks, endpoint.get(), options);
  mg_server_port ports[1] = {};
  if (endpoint->context_ == nullptr ||
      mg_get_server_ports(endpoint->context_, 1, ports) < 1) {
    return Error(absl::StatusCode::kUnavailable, "PORT_UNAVAILABLE",
                 absl::StrCat("--http_listen: cannot listen on ", listen,
                              endpoint->WhyNot()));
  }
  endpoint->host_ = HostOf(listen);
  endpoint->port_ = ports[0].port;
  mg_set_request_handler(endpoint->context_, "**", &Handle, endpoint.get());
  return endpoint;
}

HttpEndpoint::~HttpEndpoint() {
  if (context_ != nullptr) {
    // The library's acceptor looks whether to stop after a connection, and else
    // every two seconds.
    const auto stopped =
        std::async(std::launch::async, [this] { mg_stop(context_); });
    do {
      Touch(host_, port_);
    } while (stopped.wait_for(std::chrono::milliseconds(10)) !=
             std::future_status::ready);
  }
  mg_exit_library();
}

int HttpEndpoint::TakeMessage(const mg_connection* connection,
                              const char* message) {
  auto* const endpoint =
      static_cast<HttpEndpoint*>(mg_get_user_data(mg_get_context(connection)));
  if (endpoint != nullptr && absl::StartsWith(message, "cannot ")) {
    MutexLock lock(endpoint->mutex_);
    endpoint->why_not_ = absl::StrCat(": ", Cause(message));
  }
  return 1;
}

std::string HttpEndpoint::WhyNot() const {
  MutexLock lock(mutex_);
  return why_not_;
}

int HttpEndpoint::Handle(mg_connection* connection, void* endpoint) {
  return static_cast<const HttpEndpoint*>(endpoint)->Answer(connection);
}

int HttpEndpoint::Answer(mg_connection* connection) const {
  const mg_request_info* const request = mg_get_request_info(connection);
  const absl::string_view method = request->request_method;
  const absl::string_view path = request->local_uri;
  const bool with_body = method != "HEAD";
  if (method != "GET" && method != "HEAD") {
    return Send(connection, true, "405 Method Not Allowed\r\nAllow: GET, HEAD",
                kPlain, "only GET and HEAD\n");
  }
  if (path == "/metrics") {
    return Send(connection, with_body, "200 OK", kPrometheus,
                sources_.metrics());
  }
  if (path == "/healthz")
    return Send(connection, with_body, "200 OK", kPlain, "ok\n");
  if (path == "/readyz") {
    const std::string state = sources_.state();
    return Send(connection, with_body,
                state == "serving" ? "200 OK" : "503 Service Unavailable",
                kPlain, absl::StrCat(state, "\n"));
  }
  return Send(connection, with_body, "404 Not Found", kPlain,
              "/metrics, /healthz or /readyz\n");
}

}  // namespace ttt
