#include "server/rpc/tokenizer_service.h"

#include <utility>
#include <vector>

#include "server/base/status_macros.h"

namespace ttt {

absl::Status TokenizerService::Encode(const UnaryCall& call,
                                      const v1::TokenizeRequest& request,
                                      v1::TokenizeResponse* response) const {
  if (parts_.tokenizer == nullptr) return NoTokenizer("text");
  TTT_ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      EncodeText(request.text(), request.at_start(), *parts_.tokenizer, limits_,
                 [&call] { return call.CheckWanted(); }));
  response->mutable_ids()->Add(ids.begin(), ids.end());
  for (const int32_t id : ids)
    response->add_pieces(parts_.tokenizer->Piece(id));
  return absl::OkStatus();
}

absl::Status TokenizerService::Decode(const v1::DetokenizeRequest& request,
                                      v1::DetokenizeResponse* response) const {
  if (parts_.tokenizer == nullptr) return NoTokenizer("ids");
  TTT_RETURN_IF_ERROR(CheckInputTokens(request.ids_size(), limits_));
  TTT_RETURN_IF_ERROR(ValidateTokenIds("ids", request.ids(), limits_));
  TTT_ASSIGN_OR_RETURN(*response->mutable_text(),
                       parts_.tokenizer->Decode(request.ids()));
  return absl::OkStatus();
}

template <typename RequestMessage, typename ResponseMessage, typename Handler>
grpc::ServerUnaryReactor* TokenizerService::Answer(
    absl::string_view method, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
    Handler handler) {
  auto* const call = new UnaryCall(method, parts_, calls_, context);
  const size_t bytes = request->Length();
  if (!TextThreads::IsTiny(bytes)) {
    absl::StatusOr<Admission::Admitted> admitted =
        parts_.admission->Admit({.bytes = static_cast<int64_t>(bytes)});
    if (!admitted.ok()) {
      call->End(admitted.status());
      return call;
    }
    call->Keep(std::move(admitted->ticket));
  }
  texts_->Run(bytes, [=, this] {
    absl::Status status = call->CheckWanted();
    if (status.ok()) status = call->CheckWait(limits_.max_queue_wait);
    if (status.ok()) {
      status = AnswerMessage<RequestMessage, ResponseMessage>(
          *request, response,
          [=](const auto& in, auto* out) { return handler(*call, in, out); });
    }
    call->End(status, static_cast<int64_t>(response->Length()));
  });
  return call;
}

grpc::ServerUnaryReactor* TokenizerService::Tokenize(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return Answer<v1::TokenizeRequest, v1::TokenizeResponse>(
      "Tokenize", context, request, response,
      [this](const UnaryCall& call, const auto& in, auto* out) {
        return Encode(call, in, out);
      });
}

grpc::ServerUnaryReactor* TokenizerService::Detokenize(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return Answer<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      "Detokenize", context, request, response,
      [this](const UnaryCall&, const auto& in, auto* out) {
        return Decode(in, out);
      });
}

}  // namespace ttt
