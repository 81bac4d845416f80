// A server of ttt.v1 that tells a fixed story, for tests of the client.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "ttt/v1/admin.grpc.pb.h"
#include "ttt/v1/inference.grpc.pb.h"
#include "ttt/v1/sessions.grpc.pb.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {

// A status with google.rpc details, as the daemon sends it.
grpc::Status DetailedStatus(grpc::StatusCode code, const std::string& message,
                            const std::string& reason, int retry_after_ms,
                            const std::map<std::string, std::string>& metadata);

// Every turn generates ` word0 word1 ...`, one token a word; a token is a word
// of the text, and its id is the length of the word. Session names mean:
//   busy     every turn is refused, ABORTED
//   lost     every turn ends after its first token, with UNAVAILABLE
//            (a fork that is given no name has this one)
//   drained  every turn ends after its first token, with DRAINING, and is
//            rolled back to revision 3
// A text that ends in `wait` holds its turn after the first token until it is
// cancelled, which leaves the session as it was. Thread-safe.
class FakeServer {
 public:
  explicit FakeServer(const std::string& address = "127.0.0.1:0");
  ~FakeServer();

  // HOST:PORT, or unix:PATH as given
  const std::string& address() const { return address_; }
  // As grpc.health.v1 tells.
  void SetServing(bool is_serving);
  // Called when a held turn has sent its first token, or a score is refused.
  void OnHold(std::function<void()> callback);
  // Waits until a held turn was cancelled.
  void AwaitCancel();
  // The last request of its kind.
  v1::CompleteRequest complete_request() const;
  std::vector<v1::ScoreRequest> score_requests() const;
  // The next `count` scores are refused for want of room, with that hint.
  void RefuseScores(int count, int retry_after_ms = 1);
  std::map<std::string, v1::Session> sessions() const;

  struct State;

 private:
  const std::unique_ptr<State> state_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace ttt
