#pragma once

#include "server/base/executor.h"
#include "server/rpc/turn_call.h"
#include "ttt/v1/inference.grpc.pb.h"

namespace ttt {

// ttt.v1.Inference. Thread-safe; outlives its calls.
class InferenceService final
    : public v1::Inference::WithRawCallbackMethod_Complete<
          v1::Inference::WithRawCallbackMethod_StreamComplete<
              v1::Inference::WithRawCallbackMethod_Score<
                  v1::Inference::WithRawCallbackMethod_AttachTurn<
                      v1::Inference::WithRawCallbackMethod_CancelTurn<
                          v1::Inference::Service>>>>> {
 public:
  // All must outlive the service.
  InferenceService(const RpcParts& parts, const RequestLimits& limits,
                   absl::Duration stream_interval, ActiveCalls* active_calls,
                   TextThreads* texts)
      : parts_(parts), limits_(limits), shared_{parts_,          limits_,
                                                stream_interval, active_calls,
                                                texts,           &delivery_,
                                                &scoring_} {}

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamComplete(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* AttachTurn(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* CancelTurn(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  const RpcParts parts_;
  const RequestLimits limits_;
  Executor delivery_;
  Executor scoring_;
  const TurnCallContext shared_;
};

}  // namespace ttt
