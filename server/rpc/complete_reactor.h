// One call of Complete.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "server/rpc/turn_call.h"

namespace ttt {

// Gathers the turn's output on the delivery thread, answers at its end, and
// deletes itself in OnDone.
class CompleteReactor : public grpc::ServerUnaryReactor {
 public:
  CompleteReactor(const TurnCallContext& shared,
                  grpc::CallbackServerContext* context,
                  const grpc::ByteBuffer* request, grpc::ByteBuffer* response);

  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  void Next();
  void Gather(const TokenStream::Chunk& chunk);
  void End(const TurnEnd& end);

  const int64_t max_candidates_;
  grpc::ByteBuffer* const response_bytes_;
  TurnCall call_;
  v1::CompleteResponse response_;
  int64_t num_candidates_ = 0;
  bool is_too_large_ = false;
};

}  // namespace ttt
