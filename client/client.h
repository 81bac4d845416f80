// The C++ client of a tttd daemon.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "ttt/v1/admin.pb.h"
#include "ttt/v1/inference.pb.h"
#include "ttt/v1/sessions.pb.h"
#include "ttt/v1/tokenizer.pb.h"

namespace grpc {
class ClientContext;
}

namespace ttt {

// Ends calls from another thread. A call that is running ends with CANCELLED,
// and so does every later one. Thread-safe. Must outlive its calls.
class Canceller {
 public:
  void Cancel();
  bool cancelled() const;

 private:
  friend class Client;
  void Attach(grpc::ClientContext* context);  // null: no call runs.

  mutable std::mutex mutex_;
  grpc::ClientContext* context_ = nullptr;
  bool cancelled_ = false;
};

struct CallOptions {
  absl::Duration timeout = absl::InfiniteDuration();
  Canceller* canceller = nullptr;  // one call at a time
};

// The calls of one daemon. A status of a call that failed on the way or in the
// daemon holds what DecodeError reads. Text must be UTF-8: the caller checks.
// Thread-safe; a call blocks its thread until it ends.
class Client {
 public:
  struct Options {
    // HOST:PORT, or unix:PATH; CheckServerAddress tells what is wrong with one.
    std::string server = "127.0.0.1:50051";
  };

  // Connects with the first call, and again whenever the connection is lost.
  explicit Client(const Options& options);
  ~Client();

  // The RPCs of ttt.v1; their errors are in the protos. Callbacks run on the
  // calling thread.
  absl::StatusOr<v1::CompleteResponse> Complete(
      const v1::CompleteRequest& request, const CallOptions& options);
  absl::Status StreamComplete(
      const v1::CompleteRequest& request, const CallOptions& options,
      absl::FunctionRef<void(const v1::CompleteEvent&)> on_event);
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request,
                                          const CallOptions& options);

  absl::StatusOr<v1::Session> CreateSession(
      const v1::CreateSessionRequest& request, const CallOptions& options);
  absl::StatusOr<v1::Session> GetSession(const v1::GetSessionRequest& request,
                                         const CallOptions& options);
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(
      const v1::ListSessionsRequest& request, const CallOptions& options);
  absl::Status DeleteSession(const v1::DeleteSessionRequest& request,
                             const CallOptions& options);
  absl::StatusOr<v1::Session> ForkSession(const v1::ForkSessionRequest& request,
                                          const CallOptions& options);
  absl::StatusOr<v1::Session> RewindSession(
      const v1::RewindSessionRequest& request, const CallOptions& options);
  absl::StatusOr<v1::ListTurnsResponse> ListTurns(
      const v1::ListTurnsRequest& request, const CallOptions& options);
  // A status from `on_data` ends the call and is returned.
  absl::Status ExportSession(
      const v1::ExportSessionRequest& request, const CallOptions& options,
      absl::FunctionRef<absl::Status(absl::string_view data)> on_data);
  // `next` gives the data piece by piece, at last an empty piece; a status from
  // it ends the call and is returned.
  absl::StatusOr<v1::Session> ImportSession(
      const CallOptions& options,
      absl::FunctionRef<absl::StatusOr<std::string>()> next);

  absl::StatusOr<v1::TokenizeResponse> Tokenize(
      const v1::TokenizeRequest& request, const CallOptions& options);
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(
      const v1::DetokenizeRequest& request, const CallOptions& options);

  absl::StatusOr<v1::ServerInfo> GetServerInfo(const CallOptions& options);
  absl::Status Drain(const CallOptions& options);

  // grpc.health.v1: whether `service` ("" for all) is serving. NOT_FOUND: no
  // such service.
  absl::StatusOr<bool> IsServing(absl::string_view service,
                                 const CallOptions& options);

 private:
  class Call;
  struct Stubs;
  const std::unique_ptr<Stubs> stubs_;
};

}  // namespace ttt
