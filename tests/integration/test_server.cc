#include "tests/integration/test_server.h"

#include <arpa/inet.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/generic/generic_stub.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/base/check.h"

namespace ttt {

TinyModel::TinyModel(bool with_tokenizer) {
  path_ = std::filesystem::temp_directory_path() / "ttt_tiny_XXXXXX";
  TTT_CHECK(mkdtemp(path_.data()) != nullptr);
  std::ofstream(path_ + "/config.json") << absl::StrCat(
      R"({"model_type": "ttt", "vocab_size": )", kTinyVocabSize,
      R"(, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
          "tie_word_embeddings": true, "rope_theta": 10000.0, "use_gate": true,
          "share_qk": true, "ttt_layer_type": "linear", "ttt_base_lr": 1.0,
          "mini_batch_size": 16, "pre_conv": true, "conv_kernel": 4,
          "bos_token_id": 1, "eos_token_id": 2})");
  if (with_tokenizer) {
    std::filesystem::copy_file(TTT_GOLDEN_DIR "/tokenizer/bpe.model",
                               path_ + "/tokenizer.model");
  }
}

TinyModel::~TinyModel() { std::filesystem::remove_all(path_); }

TestServer::TestServer(const TestServerOptions& options)
    : model_(options.with_tokenizer) {
  options_.model_dir = model_.path();
  options_.dummy_weights = true;
  options_.listen = "127.0.0.1:0";
  options_.http_listen = "";
  options_.device = "cpu";
  options_.precision = "fp32";
  options_.num_threads = 1;
  options_.max_batch_rows = 4;
  options_.max_batch_tokens = 64;
  options_.device_state_bytes = 4 << 20;
  options.adjust(&options_);
  auto server = Server::Create(options_);
  if (!server.ok())
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
  TTT_CHECK(server.ok());
  server_ = *std::move(server);
  port_ = server_->port();
  if (options.set_serving) server_->SetServing();
  channel_ = NewChannel();
  inference_ = v1::Inference::NewStub(channel_);
  sessions_ = v1::Sessions::NewStub(channel_);
  tokenizer_ = v1::Tokenizer::NewStub(channel_);
  admin_ = v1::Admin::NewStub(channel_);
}

std::string TestServer::address() const {
  return absl::StrCat("127.0.0.1:", port_);
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(
      address(), grpc::InsecureChannelCredentials(), arguments);
}

grpc::Status TestServer::Complete(const v1::CompleteRequest& request,
                                  v1::CompleteResponse* response) {
  grpc::ClientContext context;
  return inference_->Complete(&context, request, response);
}

v1::CompleteResponse TestServer::Complete(const std::string& request) {
  v1::CompleteResponse response;
  const grpc::Status status =
      Complete(FromText<v1::CompleteRequest>(request), &response);
  if (!status.ok())
    std::fprintf(stderr, "%s\n", status.error_message().c_str());
  TTT_CHECK(status.ok());
  return response;
}

grpc::Status TestServer::Score(const v1::ScoreRequest& request,
                               v1::ScoreResponse* response) {
  grpc::ClientContext context;
  return inference_->Score(&context, request, response);
}

v1::Session TestServer::GetSession(const std::string& id) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::Session session;
  TTT_CHECK(sessions_->GetSession(&context, request, &session).ok());
  return session;
}

v1::Session TestServer::SessionAtRest(const std::string& id) {
  v1::Session session;
  Eventually(absl::Seconds(30), [&] {
    session = GetSession(id);
    return session.tier() != v1::TIER_RUNNING;
  });
  return session;
}

grpc::Status TestServer::CallRaw(
    const std::string& method, const std::string& request,
    std::string* response, std::optional<std::chrono::milliseconds> deadline) {
  grpc::ClientContext context;
  if (deadline.has_value()) {
    context.set_deadline(std::chrono::system_clock::now() + *deadline);
  }
  grpc::GenericStub stub(channel_);
  const grpc::Slice slice(request);
  const grpc::ByteBuffer request_bytes(&slice, 1);
  grpc::ByteBuffer response_bytes;
  std::promise<grpc::Status> done;
  stub.UnaryCall(
      &context, method, grpc::StubOptions(), &request_bytes, &response_bytes,
      [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  std::vector<grpc::Slice> slices;
  if (status.ok() && response_bytes.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()),
                       part.size());
    }
  }
  return status;
}

StreamCall::StreamCall(TestServer* server, const std::string& request,
                       std::optional<std::chrono::milliseconds> deadline) {
  if (deadline.has_value()) {
    context_.set_deadline(std::chrono::system_clock::now() + *deadline);
  }
  reader_ = server->inference().StreamComplete(
      &context_, FromText<v1::CompleteRequest>(request));
}

StreamCall::~StreamCall() {
  if (is_finished_) return;
  Cancel();
  Finish();
}

bool StreamCall::Read(v1::CompleteEvent* event) {
  if (!reader_->Read(event)) return false;
  if (order_.empty() || order_.back() != event->event_case() ||
      event->event_case() != v1::CompleteEvent::kTokens) {
    order_.push_back(event->event_case());
  }
  switch (event->event_case()) {
    case v1::CompleteEvent::kAccepted:
      accepted_ = event->accepted();
      break;
    case v1::CompleteEvent::kTokens:
      TTT_CHECK(event->tokens().index() == static_cast<int64_t>(ids_.size()));
      ids_.insert(ids_.end(), event->tokens().ids().begin(),
                  event->tokens().ids().end());
      text_ += event->tokens().text();
      break;
    case v1::CompleteEvent::kFinished:
      finished_ = event->finished();
      break;
    case v1::CompleteEvent::kCommitted:
      committed_ = event->committed();
      break;
    default:
      break;
  }
  return true;
}

void StreamCall::ReadTokens(int count) {
  v1::CompleteEvent event;
  while (static_cast<int>(ids_.size()) < count && Read(&event)) {
  }
}

grpc::Status StreamCall::Finish() {
  v1::CompleteEvent event;
  while (Read(&event)) {
  }
  is_finished_ = true;
  return reader_->Finish();
}

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  TTT_CHECK(google::protobuf::TextFormat::ParseFromString(text, &message));
  return message;
}
template v1::CompleteRequest FromText(const std::string&);
template v1::ScoreRequest FromText(const std::string&);

template <typename Detail>
bool Find(const grpc::Status& status, Detail* found) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return false;
  for (const auto& any : details.details()) {
    if (any.UnpackTo(found)) return true;
  }
  return false;
}

google::rpc::ErrorInfo ErrorInfoOf(const grpc::Status& status) {
  google::rpc::ErrorInfo info;
  Find(status, &info);
  return info;
}

template <typename Detail>
bool HasDetail(const grpc::Status& status) {
  Detail detail;
  return Find(status, &detail);
}
template bool HasDetail<google::rpc::RetryInfo>(const grpc::Status&);
template bool HasDetail<google::rpc::BadRequest>(const grpc::Status&);

std::string EndlessRequest(const std::string& session,
                           const std::string& more) {
  std::string request = absl::StrCat(
      "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 2000000000 } "
      "stop { ignore_eos: true } ",
      more);
  if (!session.empty()) {
    absl::StrAppend(&request, " session_id: '", session,
                    "' create_session: true");
  }
  return request;
}

bool Eventually(absl::Duration bound, const std::function<bool()>& holds) {
  const absl::Time end = absl::Now() + bound;
  while (!holds()) {
    if (absl::Now() >= end) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const timeval patience = {.tv_sec = 30, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string reply;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
      0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\n\r\n");
    (void)!write(fd, request.data(), request.size());
    char bytes[4096];
    for (ssize_t n = 0; (n = read(fd, bytes, sizeof(bytes))) > 0;) {
      reply.append(bytes, static_cast<size_t>(n));
    }
  }
  close(fd);
  return reply;
}

}  // namespace ttt
