// The HTTP side of the server, for scrapers and probes.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/mutex.h"

struct mg_callbacks;
struct mg_connection;
struct mg_context;

namespace ttt {

// Answers GET and HEAD of /metrics (the page), /healthz (200 while the process
// lives) and /readyz (200, or 503 with the state) on threads of its own.
class HttpEndpoint {
 public:
  // Both are called on the endpoint's threads, maybe on two at once.
  struct Sources {
    std::function<std::string()> metrics;
    // "serving" is ready, all else is not.
    std::function<std::string()> state;
  };

  // `listen` is host:port; port 0: a free one. UNAVAILABLE (PORT_UNAVAILABLE).
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(
      const std::string& listen, Sources sources);
  // Waits for the answers being given.
  ~HttpEndpoint();
  HttpEndpoint(const HttpEndpoint&) = delete;
  HttpEndpoint& operator=(const HttpEndpoint&) = delete;

  int port() const { return port_; }

 private:
  explicit HttpEndpoint(Sources sources) : sources_(std::move(sources)) {}

  // The library's own lines on standard error would not be in the log's form;
  // what matters of them, why a port cannot be had, is kept.
  static int TakeMessage(const mg_connection* connection, const char* message);
  std::string WhyNot() const ABSL_LOCKS_EXCLUDED(mutex_);
  static int Handle(mg_connection* connection, void* endpoint);
  int Answer(mg_connection* connection) const;

  const Sources sources_;
  mg_context* context_ = nullptr;
  std::string host_;  // that it listens on
  int port_ = 0;
  mutable Mutex mutex_;
  std::string why_not_ ABSL_GUARDED_BY(mutex_);  // `: cause`, or empty
};

}  // namespace ttt
