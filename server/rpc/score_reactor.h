// One call of Score.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "server/rpc/turn_call.h"

namespace ttt {

// Waits for the end of the turn, answers on the scoring thread, and deletes
// itself in OnDone.
class ScoreReactor : public grpc::ServerUnaryReactor {
 public:
  ScoreReactor(const TurnCallContext& shared,
               grpc::CallbackServerContext* context,
               const grpc::ByteBuffer* request, grpc::ByteBuffer* response);

  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  void Next();
  void End(const TurnEnd& end);

  grpc::ByteBuffer* const response_bytes_;
  TurnCall call_;
};

}  // namespace ttt
