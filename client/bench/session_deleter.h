// Deletes the sessions that a run made.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "client/bench/call.h"
#include "client/bench/timers.h"

namespace ttt::bench {

// On the thread of the queue. All that it is given must outlive it, and nothing
// may be pending when it goes.
class SessionDeleter : public PlainCall::Owner {
 public:
  SessionDeleter(grpc::GenericStub* stub, grpc::CompletionQueue* queue,
                 Timers* timers)
      : stub_(stub), queue_(queue), timers_(timers) {}

  // A session that is in use still, by a call that was just cancelled, is tried
  // again for a while.
  void Delete(const std::string& session_id);
  void OnEnd(PlainCall* call, const grpc::Status& status) override;

  int64_t pending() const { return pending_; }
  int64_t deleted() const { return deleted_; }
  int64_t left() const { return left_; }

 private:
  struct Deletion {
    std::unique_ptr<PlainCall> call;
    std::string session_id;
    int64_t give_up_at = 0;
  };

  void Start(Deletion deletion);

  grpc::GenericStub* const stub_;
  grpc::CompletionQueue* const queue_;
  Timers* const timers_;
  std::unordered_map<PlainCall*, Deletion> running_;
  int64_t pending_ = 0;
  int64_t deleted_ = 0;
  int64_t left_ = 0;
};

}  // namespace ttt::bench
