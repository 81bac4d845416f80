#include "client/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <future>
#include <utility>

#include "client/call_error.h"
#include "google/protobuf/wrappers.pb.h"
#include "ttt/v1/admin.grpc.pb.h"
#include "ttt/v1/inference.grpc.pb.h"
#include "ttt/v1/sessions.grpc.pb.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {
namespace {

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& server) {
  grpc::ChannelArguments arguments;
  // A score of a million tokens is tens of megabytes.
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(),
                                   arguments);
}

// grpc.health.v1 in the messages of the same wire format: a string and an enum,
// both in field 1.
using HealthStub = grpc::TemplatedGenericStub<google::protobuf::StringValue,
                                              google::protobuf::Int32Value>;
constexpr int kHealthServing = 1;

}  // namespace

void Canceller::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  // Under the lock, or the call could end and take the context with it.
  if (context_ != nullptr) context_->TryCancel();
}

bool Canceller::cancelled() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

void Canceller::Attach(grpc::ClientContext* context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = context;
  if (cancelled_ && context_ != nullptr) context_->TryCancel();
}

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : inference(channel),
        sessions(channel),
        tokenizer(channel),
        admin(channel),
        health(channel) {}

  v1::Inference::Stub inference;
  v1::Sessions::Stub sessions;
  v1::Tokenizer::Stub tokenizer;
  v1::Admin::Stub admin;
  HealthStub health;
};

// One call's context, with its deadline, known to the canceller while it lives.
class Client::Call {
 public:
  explicit Call(const CallOptions& options) : canceller_(options.canceller) {
    if (options.timeout != absl::InfiniteDuration()) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            absl::ToChronoMicroseconds(options.timeout));
    }
    if (canceller_ != nullptr) canceller_->Attach(&context_);
  }
  ~Call() {
    if (canceller_ != nullptr) canceller_->Attach(nullptr);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }

  // Runs a unary call: `method` of `stub`.
  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Run(
      Stub& stub,
      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                   Response*),
      const Request& request) {
    Response response;
    absl::Status status =
        FromGrpcStatus((stub.*method)(&context_, request, &response));
    if (!status.ok()) return status;
    return response;
  }

 private:
  Canceller* const canceller_;
  grpc::ClientContext context_;
};

Client::Client(const Options& options)
    : stubs_(std::make_unique<Stubs>(MakeChannel(options.server))) {}

Client::~Client() = default;

absl::StatusOr<v1::CompleteResponse> Client::Complete(
    const v1::CompleteRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->inference, &v1::Inference::Stub::Complete,
                           request);
}

absl::Status Client::StreamComplete(
    const v1::CompleteRequest& request, const CallOptions& options,
    absl::FunctionRef<void(const v1::CompleteEvent&)> on_event) {
  Call call(options);
  const auto reader = stubs_->inference.StreamComplete(call.context(), request);
  v1::CompleteEvent event;
  while (reader->Read(&event)) on_event(event);
  return FromGrpcStatus(reader->Finish());
}

absl::StatusOr<v1::ScoreResponse> Client::Score(const v1::ScoreRequest& request,
                                                const CallOptions& options) {
  return Call(options).Run(stubs_->inference, &v1::Inference::Stub::Score,
                           request);
}

absl::StatusOr<v1::Session> Client::CreateSession(
    const v1::CreateSessionRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::CreateSession,
                           request);
}

absl::StatusOr<v1::Session> Client::GetSession(
    const v1::GetSessionRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::GetSession,
                           request);
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(
    const v1::ListSessionsRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::ListSessions,
                           request);
}

absl::Status Client::DeleteSession(const v1::DeleteSessionRequest& request,
                                   const CallOptions& options) {
  return Call(options)
      .Run(stubs_->sessions, &v1::Sessions::Stub::DeleteSession, request)
      .status();
}

absl::StatusOr<v1::Session> Client::ForkSession(
    const v1::ForkSessionRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::ForkSession,
                           request);
}

absl::StatusOr<v1::Session> Client::RewindSession(
    const v1::RewindSessionRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::RewindSession,
                           request);
}

absl::StatusOr<v1::ListTurnsResponse> Client::ListTurns(
    const v1::ListTurnsRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->sessions, &v1::Sessions::Stub::ListTurns,
                           request);
}

absl::Status Client::ExportSession(
    const v1::ExportSessionRequest& request, const CallOptions& options,
    absl::FunctionRef<absl::Status(absl::string_view data)> on_data) {
  Call call(options);
  const auto reader = stubs_->sessions.ExportSession(call.context(), request);
  v1::SessionChunk chunk;
  absl::Status taken;
  while (taken.ok() && reader->Read(&chunk)) {
    taken = on_data(chunk.data());
    if (!taken.ok()) call.context()->TryCancel();
  }
  const grpc::Status status = reader->Finish();
  return taken.ok() ? FromGrpcStatus(status) : taken;
}

absl::StatusOr<v1::Session> Client::ImportSession(
    const CallOptions& options,
    absl::FunctionRef<absl::StatusOr<std::string>()> next) {
  Call call(options);
  v1::Session session;
  const auto writer = stubs_->sessions.ImportSession(call.context(), &session);
  v1::SessionChunk chunk;
  absl::Status given;
  while (true) {
    absl::StatusOr<std::string> data = next();
    given = data.status();
    if (!given.ok()) call.context()->TryCancel();
    if (!given.ok() || data->empty()) break;
    chunk.set_data(*std::move(data));
    if (!writer->Write(chunk)) break;  // Finish says why.
  }
  writer->WritesDone();
  const absl::Status status = FromGrpcStatus(writer->Finish());
  if (!given.ok()) return given;
  if (!status.ok()) return status;
  return session;
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(
    const v1::TokenizeRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->tokenizer, &v1::Tokenizer::Stub::Tokenize,
                           request);
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(
    const v1::DetokenizeRequest& request, const CallOptions& options) {
  return Call(options).Run(stubs_->tokenizer, &v1::Tokenizer::Stub::Detokenize,
                           request);
}

absl::StatusOr<v1::ServerInfo> Client::GetServerInfo(
    const CallOptions& options) {
  return Call(options).Run(stubs_->admin, &v1::Admin::Stub::GetServerInfo,
                           v1::GetServerInfoRequest());
}

absl::Status Client::Drain(const CallOptions& options) {
  return Call(options)
      .Run(stubs_->admin, &v1::Admin::Stub::Drain, v1::DrainRequest())
      .status();
}

absl::StatusOr<bool> Client::IsServing(absl::string_view service,
                                       const CallOptions& options) {
  Call call(options);
  google::protobuf::StringValue request;
  google::protobuf::Int32Value response;
  request.set_value(std::string(service));
  std::promise<grpc::Status> done;
  stubs_->health.UnaryCall(
      call.context(), "/grpc.health.v1.Health/Check", grpc::StubOptions(),
      &request, &response,
      [&done](grpc::Status status) { done.set_value(std::move(status)); });
  absl::Status status = FromGrpcStatus(done.get_future().get());
  if (!status.ok()) return status;
  return response.value() == kHealthServing;
}

}  // namespace ttt
