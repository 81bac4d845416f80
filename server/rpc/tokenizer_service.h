#pragma once

#include "server/rpc/rpc_call.h"
#include "server/rpc/validate_request.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {

// ttt.v1.Tokenizer. Thread-safe; outlives its calls.
class TokenizerService final
    : public v1::Tokenizer::WithRawCallbackMethod_Tokenize<
          v1::Tokenizer::WithRawCallbackMethod_Detokenize<
              v1::Tokenizer::Service>> {
 public:
  TokenizerService(const RpcParts& parts, const RequestLimits& limits)
      : parts_(parts), limits_(limits) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  absl::Status Encode(const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) const;
  absl::Status Decode(const v1::DetokenizeRequest& request,
                      v1::DetokenizeResponse* response) const;

  const RpcParts parts_;
  const RequestLimits limits_;
};

}  // namespace ttt
