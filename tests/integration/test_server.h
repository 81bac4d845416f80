// A whole server in this process, on a tiny random model, and its clients.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "server/server.h"
#include "ttt/v1/admin.grpc.pb.h"
#include "ttt/v1/inference.grpc.pb.h"
#include "ttt/v1/sessions.grpc.pb.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {

// A model directory for --load_format=dummy, removed with the object.
class TinyModel {
 public:
  explicit TinyModel(bool with_tokenizer = true);
  ~TinyModel();
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline constexpr int32_t kTinyVocabSize = 4096;

// Of a TestServer; the model is the TestServer's own.
struct TestServerOptions {
  std::function<void(ServerOptions*)> adjust = [](ServerOptions*) {};
  bool with_tokenizer = true;
  bool set_serving = true;
};

// Listens on free ports of the loopback, without HTTP unless asked for.
class TestServer {
 public:
  explicit TestServer(const TestServerOptions& options = {});

  Server& server() { return *server_; }
  // Ends the server; the clients stay.
  void Stop() { server_.reset(); }
  std::string address() const;
  // What Server::Create took.
  const ServerOptions& options() const { return options_; }
  // A connection of its own.
  std::shared_ptr<grpc::Channel> NewChannel() const;

  v1::Inference::Stub& inference() { return *inference_; }
  v1::Sessions::Stub& sessions() { return *sessions_; }
  v1::Tokenizer::Stub& tokenizer() { return *tokenizer_; }
  v1::Admin::Stub& admin() { return *admin_; }

  // One call each, without a deadline.
  grpc::Status Complete(const v1::CompleteRequest& request,
                        v1::CompleteResponse* response);
  v1::CompleteResponse Complete(const std::string& request);  // must succeed
  grpc::Status Score(const v1::ScoreRequest& request,
                     v1::ScoreResponse* response);
  v1::Session GetSession(const std::string& id);  // must succeed
  // The session once no turn runs on it; as it is after 30 s if one still does.
  v1::Session SessionAtRest(const std::string& id);  // must succeed
  // The method's answer to these bytes.
  grpc::Status CallRaw(
      const std::string& method, const std::string& request,
      std::string* response,
      std::optional<std::chrono::milliseconds> deadline = std::nullopt);

 private:
  const TinyModel model_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  int port_ = 0;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Tokenizer::Stub> tokenizer_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

// One call of StreamComplete.
class StreamCall {
 public:
  StreamCall(TestServer* server, const std::string& request,
             std::optional<std::chrono::milliseconds> deadline = std::nullopt);
  ~StreamCall();  // Cancels a call that is not finished.

  // The next event; false at the end of the stream.
  bool Read(v1::CompleteEvent* event);
  // Reads until `count` tokens have come, or to the end.
  void ReadTokens(int count);
  // Reads to the end.
  grpc::Status Finish();
  void Cancel() { context_.TryCancel(); }

  // Of the events read so far.
  const v1::CompleteEvent::Accepted& accepted() const { return accepted_; }
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::string& text() const { return text_; }
  const std::vector<v1::CompleteEvent::EventCase>& order() const {
    return order_;
  }
  const std::optional<v1::CompleteEvent::Finished>& finished() const {
    return finished_;
  }
  const std::optional<v1::CompleteEvent::Committed>& committed() const {
    return committed_;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::CompleteEvent>> reader_;
  bool is_finished_ = false;
  v1::CompleteEvent::Accepted accepted_;
  std::vector<int32_t> ids_;
  std::string text_;
  std::vector<v1::CompleteEvent::EventCase> order_;  // a run of tokens once
  std::optional<v1::CompleteEvent::Finished> finished_;
  std::optional<v1::CompleteEvent::Committed> committed_;
};

// A message from protobuf's text format.
template <typename Message>
Message FromText(const std::string& text);

// ErrorInfo of a status, or an empty one.
google::rpc::ErrorInfo ErrorInfoOf(const grpc::Status& status);
// Whether the status has such a detail.
template <typename Detail>
bool HasDetail(const grpc::Status& status);

// A request that runs until it is stopped, in `session` if it has a name.
std::string EndlessRequest(const std::string& session,
                           const std::string& more = "");

// Asks until `holds` or `bound` has passed, and says which. What another
// thread or process does can only be asked for, so it asks every few
// milliseconds.
bool Eventually(absl::Duration bound, const std::function<bool()>& holds);

// One GET of HTTP on the loopback: the whole reply, head and body, or what of
// it came before 30 s passed without a byte.
std::string HttpGet(int port, const std::string& path);

}  // namespace ttt
