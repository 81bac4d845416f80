#include "server/rpc/rpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>

#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status_macros.h"
#include "server/rpc/active_calls.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/library_log.h"
#include "server/rpc/sessions_service.h"
#include "server/rpc/text_threads.h"
#include "server/rpc/tokenizer_service.h"

namespace ttt {
namespace {

// Four million token ids of three bytes each, or as much text.
constexpr int kMaxReceiveBytes = 16 << 20;
constexpr int kMaxMetadataBytes = 8 << 10;
// On one connection; Admission bounds the calls of all.
constexpr int kMaxConcurrentStreams = 1024;
// What the library may hold for requests and writes of all connections.
constexpr size_t kLibraryBytes = size_t{1} << 30;
constexpr char kInferenceService[] = "ttt.v1.Inference";
// Within it nobody is left who holds a turn.
constexpr absl::Duration kLastWait = absl::Seconds(5);

RequestLimits MakeLimits(const RpcServer::Options& options,
                         const ServerFacts& facts, bool has_tokenizer) {
  RequestLimits limits;
  limits.vocab_size = facts.config.vocab_size;
  limits.max_input_tokens = facts.max_input_tokens;
  limits.max_queue_wait = facts.max_queue_wait;
  limits.max_top_logprobs = facts.max_top_logprobs;
  limits.has_tokenizer = has_tokenizer;
  limits.max_answer_candidates = options.max_answer_candidates;
  return limits;
}

// The library puts reflection into every server of a program that links it.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*
                         plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return dynamic_cast<grpc::reflection::ProtoServerReflectionPlugin*>(
                 plugin.get()) != nullptr;
    });
  }
};

void Configure(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              kMaxConcurrentStreams);
  // A peer that has vanished is found within 40 s, not after the default of two
  // hours: it may hold a session.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 5 * 60 * 1000);
  grpc::ResourceQuota quota("tttd");
  quota.Resize(kLibraryBytes);
  builder->SetResourceQuota(quota);
}

}  // namespace

class RpcServer::Impl {
 public:
  Impl(const Options& options, const RpcParts& parts, const ServerFacts& facts)
      : parts_(parts),
        inference_(parts,
                   MakeLimits(options, facts, parts.tokenizer != nullptr),
                   options.stream_interval, &active_calls_, &texts_),
        sessions_(parts, facts.model_fingerprint, &active_calls_),
        tokenizer_(parts,
                   MakeLimits(options, facts, parts.tokenizer != nullptr),
                   &active_calls_, &texts_),
        admin_(parts, facts, &active_calls_, [this] { StartDrain(); }) {}

  absl::Status Start(const Options& options,
                     std::unique_ptr<Listener> listener) {
    TakeLibraryLogs();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    Configure(&builder);
    if (!options.reflection) {
      builder.SetOption(std::make_unique<WithoutReflection>());
    }
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        grpc::InsecureServerCredentials());
    builder.RegisterService(&inference_);
    builder.RegisterService(&sessions_);
    builder.RegisterService(&tokenizer_);
    builder.RegisterService(&admin_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::InternalError("gRPC did not start");
    }
    health_ = server_->GetHealthCheckService();
    SetHealth(parts_.admission->state() == Admission::State::kServing);
    listener_ = std::move(listener);
    listener_->Start([this](int listener, int connection) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters
          accepted;
      accepted.listener_fd = listener;
      accepted.fd = connection;
      acceptor_->HandleNewConnection(&accepted);
    });
    return absl::OkStatus();
  }

  int port() const { return listener_->port(); }

  void SetServing() {
    MutexLock lock(state_mutex_);
    if (parts_.admission->state() == Admission::State::kDraining) return;
    parts_.admission->SetState(Admission::State::kServing);
    SetHealth(true);
  }

  void StartDrain() {
    MutexLock lock(state_mutex_);
    parts_.admission->SetState(Admission::State::kDraining);
    SetHealth(false);
  }

  bool WaitUntilIdle(absl::Duration timeout) {
    return active_calls_.WaitUntilNone(timeout);
  }

  void CutUnread(absl::Duration max_unread) {
    const int cut =
        active_calls_.CancelWritingSince(parts_.clock->Now() - max_unread);
    if (cut > 0) {
      Log(LogLevel::kWarning, "calls were cut, their clients do not read",
          {{"calls", absl::StrCat(cut)}});
    }
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    StartDrain();
    active_calls_.CancelAll();
    parts_.engine->Wake();
    active_calls_.WaitUntilNone(grace);
    listener_->Stop();
    server_->Shutdown(std::chrono::system_clock::now() +
                      absl::ToChronoMilliseconds(grace));
    // The calls that were cut still hear the end of their turns.
    active_calls_.WaitUntilNone(kLastWait);
    health_ = nullptr;
    server_.reset();
  }

 private:
  void SetHealth(bool serving) {
    // Null: a call came before Start returned, which then sets it.
    grpc::HealthCheckServiceInterface* const health = health_;
    if (health == nullptr) return;
    health->SetServingStatus(serving);
    health->SetServingStatus(kInferenceService, serving);
  }

  const RpcParts parts_;
  Mutex state_mutex_;  // so that health and the admission's state agree
  ActiveCalls active_calls_;
  TextThreads texts_;
  InferenceService inference_;
  SessionsService sessions_;
  TokenizerService tokenizer_;
  AdminService admin_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listener> listener_;  // feeds server_
  std::atomic<grpc::HealthCheckServiceInterface*> health_ =
      nullptr;  // server_'s
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const Options& options, const RpcParts& parts, const ServerFacts& facts,
    std::unique_ptr<Listener> listener) {
  auto impl = std::make_unique<Impl>(options, parts, facts);
  TTT_RETURN_IF_ERROR(impl->Start(options, std::move(listener)));
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

int RpcServer::port() const { return impl_->port(); }

void RpcServer::SetServing() { impl_->SetServing(); }

void RpcServer::StartDrain() { impl_->StartDrain(); }

bool RpcServer::WaitUntilIdle(absl::Duration timeout) {
  return impl_->WaitUntilIdle(timeout);
}

void RpcServer::CutUnread(absl::Duration max_unread) {
  impl_->CutUnread(max_unread);
}

void RpcServer::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }

}  // namespace ttt
