#include "server/rpc/inference_service.h"

#include "server/rpc/complete_reactor.h"
#include "server/rpc/score_reactor.h"
#include "server/rpc/stream_reactor.h"

namespace ttt {

grpc::ServerUnaryReactor* InferenceService::Complete(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return new CompleteReactor(shared_, context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::StreamComplete(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return new StreamReactor(shared_, context, request);
}

grpc::ServerUnaryReactor* InferenceService::Score(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return new ScoreReactor(shared_, context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::AttachTurn(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer*) {
  return new RefusingReactor<grpc::ServerWriteReactor<grpc::ByteBuffer>>(
      "AttachTurn", parts_, context);
}

grpc::ServerUnaryReactor* InferenceService::CancelTurn(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
    grpc::ByteBuffer*) {
  return Refuse("CancelTurn", parts_, context);
}

}  // namespace ttt
