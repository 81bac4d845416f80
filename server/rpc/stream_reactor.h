// One call of StreamComplete.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <optional>

#include "server/rpc/turn_call.h"

namespace ttt {

// Writes a turn's output as it comes: `accepted` from the thread of the call,
// the rest from the delivery thread, one write in flight. From then on one
// thing at a time moves it: the end of a write, or the stream's word that there
// is more. Deletes itself in OnDone.
class StreamReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamReactor(const TurnCallContext& shared,
                grpc::CallbackServerContext* context,
                const grpc::ByteBuffer* request);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  void WriteAccepted();
  // On the delivery thread. Goes on with Next, but not before both `accepted`
  // is written and the turn has its first output.
  void Resume();
  void Next();
  // What a chunk becomes, in order.
  void QueueEvents(const TokenStream::Chunk& chunk);
  void QueueEnd(const TurnEnd& end);
  void WriteFirst();

  Executor* const delivery_;
  TurnCall call_;
  grpc::ByteBuffer in_flight_;
  // On the delivery thread:
  int starts_left_ = 2;
  std::deque<v1::CompleteEvent> events_;
  std::optional<absl::Status> end_;  // after the events
};

}  // namespace ttt
