#include "tests/client/fake_server.h"

#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"

namespace ttt {

grpc::Status DetailedStatus(
    grpc::StatusCode code, const std::string& message,
    const std::string& reason, int retry_after_ms,
    const std::map<std::string, std::string>& metadata) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("tttd");
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  status.add_details()->PackFrom(info);
  if (retry_after_ms > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_after_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(retry_after_ms % 1000 * 1'000'000);
    status.add_details()->PackFrom(retry);
  }
  return grpc::Status(code, message, status.SerializeAsString());
}

struct FakeServer::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, v1::Session> sessions;
  v1::CompleteRequest complete_request;
  std::vector<v1::ScoreRequest> score_requests;
  std::function<void()> on_hold;
  int refuse_scores = 0;
  int retry_after_ms = 0;  // of a refused score
  int cancelled = 0;
};

namespace {

using State = FakeServer::State;

std::vector<std::string> Words(const std::string& text) {
  return absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
}

grpc::Status NoSession(const std::string& name) {
  return DetailedStatus(grpc::StatusCode::NOT_FOUND,
                        absl::StrCat("there is no session \"", name, "\""),
                        "SESSION_NOT_FOUND", 0, {});
}

// What a turn comes to: its events, or the status that refuses it.
struct Story {
  std::vector<v1::CompleteEvent> events;
  grpc::Status status;
  bool holds = false;
  v1::CompleteResponse response;  // the events in one
};

Story Tell(State& state, const v1::CompleteRequest& request) {
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.complete_request = request;
  Story story;
  const std::string& name = request.session_id();
  if (name == "busy") {
    story.status = DetailedStatus(grpc::StatusCode::ABORTED,
                                  "session \"busy\" is in use by another call",
                                  "SESSION_BUSY", 50, {{"committed", "false"}});
    return story;
  }
  if (!name.empty() && !request.create_session() &&
      state.sessions.count(name) == 0) {
    story.status = NoSession(name);
    return story;
  }
  const int64_t input =
      request.has_token_ids()
          ? request.token_ids().ids_size()
          : static_cast<int64_t>(Words(request.text()).size());
  story.holds = absl::EndsWith(request.text(), "wait");
  const int32_t count =
      request.sampling().has_max_tokens() ? request.sampling().max_tokens() : 4;
  v1::CompleteResponse& response = story.response;
  response.set_turn_id("turn-1");
  response.set_session_id(name);
  response.set_seed(request.sampling().has_seed() ? request.sampling().seed()
                                                  : 99);
  auto& accepted = *story.events.emplace_back().mutable_accepted();
  accepted.set_turn_id(response.turn_id());
  accepted.set_session_id(name);
  if (const auto it = state.sessions.find(name); it != state.sessions.end()) {
    accepted.set_revision(it->second.revision());
  }
  accepted.set_seed(response.seed());
  accepted.set_input_tokens(input);
  for (int i = 0; i < count; ++i) {
    auto& tokens = *story.events.emplace_back().mutable_tokens();
    tokens.set_index(i);
    tokens.add_ids(100 + i);
    tokens.set_text(absl::StrCat(" word", i));
    if (request.has_top_logprobs()) {
      v1::Position& position = *tokens.add_logprobs();
      position.set_token_id(100 + i);
      position.set_logprob(-0.1f);
      *response.add_logprobs() = position;
    }
    response.add_token_ids(100 + i);
    response.mutable_text()->append(tokens.text());
  }
  if (story.holds) return story;
  if (name == "lost") {
    story.events.resize(2);
    story.status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed");
    return story;
  }
  if (name == "drained") {
    story.events.resize(2);
    story.status = DetailedStatus(
        grpc::StatusCode::UNAVAILABLE, "the server is shutting down",
        "DRAINING", 1000, {{"committed", "false"}, {"revision", "3"}});
    return story;
  }
  response.set_finish_reason(v1::FINISH_REASON_LENGTH);
  response.mutable_usage()->set_input_tokens(input);
  response.mutable_usage()->set_output_tokens(count);
  response.mutable_timing()->set_decode_seconds(0.5);
  if (!name.empty()) {
    v1::Session& session = state.sessions[name];
    session.set_session_id(name);
    session.set_revision(session.revision() + 1);
    session.set_tokens(session.tokens() + input + count);
    session.set_state_bytes(2'620'000);
    session.set_state_digest(std::string(32, '\xab'));
    response.set_revision(session.revision());
    response.set_state_digest(session.state_digest());
    response.mutable_usage()->set_session_tokens(session.tokens());
  }
  auto& finished = *story.events.emplace_back().mutable_finished();
  finished.set_finish_reason(response.finish_reason());
  *finished.mutable_usage() = response.usage();
  *finished.mutable_timing() = response.timing();
  if (!name.empty()) {
    auto& committed = *story.events.emplace_back().mutable_committed();
    committed.set_revision(response.revision());
    committed.set_state_digest(response.state_digest());
  }
  return story;
}

// Writes a story; deletes itself.
class TurnReactor : public grpc::ServerWriteReactor<v1::CompleteEvent> {
 public:
  TurnReactor(State& state, Story story)
      : state_(state), story_(std::move(story)) {
    Next();
  }

  void OnWriteDone(bool ok) override {
    if (ok)
      Next();
    else
      End(grpc::Status::CANCELLED);
  }
  void OnCancel() override {
    End(DetailedStatus(grpc::StatusCode::CANCELLED, "the call was cancelled",
                       "", 0, {{"committed", "false"}}));
    const std::lock_guard<std::mutex> lock(state_.mutex);
    ++state_.cancelled;
    state_.changed.notify_all();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (story_.holds && next_ == 2) {
      std::function<void()> on_hold;
      {
        const std::lock_guard<std::mutex> lock(state_.mutex);
        on_hold = state_.on_hold;
      }
      if (on_hold) on_hold();
      return;  // OnCancel goes on from here.
    }
    if (next_ == story_.events.size()) return End(story_.status);
    StartWrite(&story_.events[next_++]);
  }

  void End(const grpc::Status& status) {
    if (!ended_.exchange(true)) Finish(status);
  }

  State& state_;
  Story story_;
  size_t next_ = 0;
  std::atomic<bool> ended_ = false;
};

using InferenceBase =
    v1::Inference::WithCallbackMethod_StreamComplete<v1::Inference::Service>;

class FakeInference : public InferenceBase {
 public:
  explicit FakeInference(State& state) : state_(state) {}

  grpc::ServerWriteReactor<v1::CompleteEvent>* StreamComplete(
      grpc::CallbackServerContext*,
      const v1::CompleteRequest* request) override {
    return new TurnReactor(state_, Tell(state_, *request));
  }

  grpc::Status Complete(grpc::ServerContext*,
                        const v1::CompleteRequest* request,
                        v1::CompleteResponse* response) override {
    const Story story = Tell(state_, *request);
    *response = story.response;
    return story.status;
  }

  // Every token after the first costs 2 nats.
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    if (state_.refuse_scores > 0) {
      --state_.refuse_scores;
      if (state_.on_hold) state_.on_hold();
      return DetailedStatus(grpc::StatusCode::RESOURCE_EXHAUSTED,
                            "the queue is full", "QUEUE_FULL",
                            state_.retry_after_ms, {});
    }
    state_.score_requests.push_back(*request);
    std::vector<int32_t> ids(request->token_ids().ids().begin(),
                             request->token_ids().ids().end());
    if (request->has_text()) {
      ids = {1};
      for (const std::string& word : Words(request->text())) {
        ids.push_back(static_cast<int32_t>(word.size()));
      }
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      v1::Position& position = *response->add_positions();
      position.set_token_id(ids[i]);
      if (i + 1 < ids.size()) position.set_logprob(-2);
    }
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeSessions : public v1::Sessions::Service {
 public:
  explicit FakeSessions(State& state) : state_(state) {}

  grpc::Status CreateSession(grpc::ServerContext*,
                             const v1::CreateSessionRequest* request,
                             v1::Session* response) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    const std::string name =
        request->session_id().empty() ? "made-up" : request->session_id();
    if (state_.sessions.count(name) > 0) {
      return DetailedStatus(grpc::StatusCode::ALREADY_EXISTS,
                            absl::StrCat("session \"", name, "\" exists"),
                            "SESSION_EXISTS", 0, {});
    }
    state_.sessions[name].set_session_id(name);
    *response = state_.sessions[name];
    return grpc::Status::OK;
  }

  grpc::Status GetSession(grpc::ServerContext*,
                          const v1::GetSessionRequest* request,
                          v1::Session* response) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    const auto found = state_.sessions.find(request->session_id());
    if (found == state_.sessions.end()) return NoSession(request->session_id());
    *response = found->second;
    return grpc::Status::OK;
  }

  // Pages of one.
  grpc::Status ListSessions(grpc::ServerContext*,
                            const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    auto next = state_.sessions.upper_bound(request->page_token());
    if (next == state_.sessions.end()) return grpc::Status::OK;
    *response->add_sessions() = next->second;
    const std::string name = next->first;
    if (++next != state_.sessions.end()) response->set_next_page_token(name);
    return grpc::Status::OK;
  }

  grpc::Status DeleteSession(grpc::ServerContext*,
                             const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse*) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    return state_.sessions.erase(request->session_id()) > 0
               ? grpc::Status::OK
               : NoSession(request->session_id());
  }

  grpc::Status ForkSession(grpc::ServerContext*,
                           const v1::ForkSessionRequest* request,
                           v1::Session* response) override {
    const std::lock_guard<std::mutex> lock(state_.mutex);
    const auto parent = state_.sessions.find(request->session_id());
    if (parent == state_.sessions.end())
      return NoSession(request->session_id());
    const std::string name =
        request->new_session_id().empty() ? "lost" : request->new_session_id();
    *response = parent->second;
    response->set_session_id(name);
    response->set_parent_session_id(request->session_id());
    state_.sessions[name] = *response;
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeTokenizer : public v1::Tokenizer::Service {
 public:
  grpc::Status Tokenize(grpc::ServerContext*,
                        const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    if (request->at_start()) {
      response->add_ids(1);
      response->add_pieces("<s>");
    }
    for (const std::string& word : Words(request->text())) {
      response->add_ids(static_cast<int32_t>(word.size()));
      response->add_pieces(word);
    }
    return grpc::Status::OK;
  }

  grpc::Status Detokenize(grpc::ServerContext*,
                          const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    response->set_text(
        absl::StrCat("<", absl::StrJoin(request->ids(), "|"), ">"));
    return grpc::Status::OK;
  }
};

class FakeAdmin : public v1::Admin::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext*,
                             const v1::GetServerInfoRequest*,
                             v1::ServerInfo* response) override {
    response->set_version("0.0.0");
    response->set_state("serving");
    response->mutable_uptime()->set_seconds(75);
    response->mutable_model()->set_name("fake");
    response->mutable_model()->set_has_tokenizer(true);
    response->mutable_model()->set_bos_token_id(1);
    response->mutable_model()->set_parameters(14'000'000);
    return grpc::Status::OK;
  }
};

}  // namespace

FakeServer::FakeServer(const std::string& address)
    : state_(std::make_unique<State>()) {
  grpc::EnableDefaultHealthCheckService(true);
  services_.push_back(std::make_unique<FakeInference>(*state_));
  services_.push_back(std::make_unique<FakeSessions>(*state_));
  services_.push_back(std::make_unique<FakeTokenizer>());
  services_.push_back(std::make_unique<FakeAdmin>());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  for (const auto& service : services_) builder.RegisterService(service.get());
  server_ = builder.BuildAndStart();
  address_ = absl::StartsWith(address, "unix:")
                 ? address
                 : absl::StrCat("127.0.0.1:", port);
}

FakeServer::~FakeServer() {
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeServer::SetServing(bool is_serving) {
  server_->GetHealthCheckService()->SetServingStatus(is_serving);
}

void FakeServer::OnHold(std::function<void()> callback) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->on_hold = std::move(callback);
}

void FakeServer::AwaitCancel() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->changed.wait(lock, [this] { return state_->cancelled > 0; });
}

v1::CompleteRequest FakeServer::complete_request() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->complete_request;
}

std::vector<v1::ScoreRequest> FakeServer::score_requests() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->score_requests;
}

void FakeServer::RefuseScores(int count, int retry_after_ms) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->refuse_scores = count;
  state_->retry_after_ms = retry_after_ms;
}

std::map<std::string, v1::Session> FakeServer::sessions() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->sessions;
}

}  // namespace ttt
