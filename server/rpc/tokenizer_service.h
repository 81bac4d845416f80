#pragma once

#include "server/rpc/text_threads.h"
#include "server/rpc/unary_call.h"
#include "server/rpc/validate_request.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {

// ttt.v1.Tokenizer. Thread-safe; outlives its calls.
class TokenizerService final
    : public v1::Tokenizer::WithRawCallbackMethod_Tokenize<
          v1::Tokenizer::WithRawCallbackMethod_Detokenize<
              v1::Tokenizer::Service>> {
 public:
  // All must outlive the service; `texts` runs its tasks before it goes.
  TokenizerService(const RpcParts& parts, const RequestLimits& limits,
                   ActiveCalls* calls, TextThreads* texts)
      : parts_(parts), limits_(limits), calls_(calls), texts_(texts) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  // Answers on a thread for texts, with a place in the admission until the
  // answer has left, unless the request is tiny.
  template <typename RequestMessage, typename ResponseMessage, typename Handler>
  grpc::ServerUnaryReactor* Answer(absl::string_view method,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response, Handler handler);
  absl::Status Encode(const UnaryCall& call, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) const;
  absl::Status Decode(const v1::DetokenizeRequest& request,
                      v1::DetokenizeResponse* response) const;

  const RpcParts parts_;
  const RequestLimits limits_;
  ActiveCalls* const calls_;
  TextThreads* const texts_;
};

}  // namespace ttt
