// A conversation through the C++ client library: a session, a streamed turn, a
// fork, and what to do when the server has no room.
//
//   ttt_example_conversation [HOST:PORT [TEXT]]
#include <iostream>
#include <random>
#include <string>

#include "absl/time/clock.h"
#include "client/call_error.h"
#include "client/client.h"
#include "client/server_address.h"

namespace {

using ttt::CallOptions;
using ttt::Client;

constexpr int kMaxAttempts = 5;

// Runs `call` again while the server refuses it at the door. A call that had
// begun is not made again: it may have been committed.
template <typename Call>
auto WithRetries(Call call) {
  std::random_device random;
  std::uniform_real_distribution<double> jitter;
  for (int attempt = 1;; ++attempt) {
    auto result = call();
    if (result.ok() || attempt == kMaxAttempts) return result;
    const ttt::CallError error = ttt::DecodeError(result.status());
    if (!ttt::WasRefused(error)) return result;
    absl::SleepFor(ttt::RetryWait(
        attempt, error.retry_after.value_or(absl::ZeroDuration()),
        jitter(random)));
  }
}

ttt::v1::CompleteRequest Turn(const std::string& session_id,
                              const std::string& text, uint64_t seed) {
  ttt::v1::CompleteRequest request;
  request.set_session_id(session_id);
  if (!text.empty()) request.set_text(text);  // Otherwise it goes on.
  request.mutable_sampling()->set_max_tokens(24);
  request.mutable_sampling()->set_temperature(0.8f);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

absl::Status Stream(Client& client, const ttt::v1::CompleteRequest& request) {
  absl::Status status = client.StreamComplete(
      request, CallOptions{.timeout = absl::Minutes(1)},
      [](const ttt::v1::CompleteEvent& event) {
        if (event.has_tokens()) std::cout << event.tokens().text();
        if (event.has_committed()) {
          std::cout << "\n[revision " << event.committed().revision() << "]\n";
        }
      });
  std::cout.flush();
  return status;
}

// Both go on from the same state, and neither knows of the other.
absl::Status GoOn(Client& client, const std::string& parent_id,
                  const std::string& fork_id) {
  for (const std::string& id : {parent_id, fork_id}) {
    const auto turn = WithRetries(
        [&] { return client.Complete(Turn(id, "", 2), CallOptions()); });
    if (!turn.ok()) return turn.status();
    std::cout << (id == parent_id ? "parent" : "fork") << ":" << turn->text()
              << "\n";
  }
  return absl::OkStatus();
}

absl::Status Delete(Client& client, const std::string& session_id) {
  ttt::v1::DeleteSessionRequest request;
  request.set_session_id(session_id);
  return client.DeleteSession(request, CallOptions());
}

absl::Status Converse(Client& client, const std::string& session_id,
                      const std::string& text) {
  absl::Status status = Stream(client, Turn(session_id, text, 1));
  if (!status.ok()) return status;

  ttt::v1::ForkSessionRequest request;
  request.set_session_id(session_id);
  const absl::StatusOr<ttt::v1::Session> fork =
      WithRetries([&] { return client.ForkSession(request, CallOptions()); });
  if (!fork.ok()) return fork.status();
  status = GoOn(client, session_id, fork->session_id());
  // However the turns ended: otherwise the fork would stay on the server.
  status.Update(Delete(client, fork->session_id()));
  return status;
}

absl::Status Run(Client& client, const std::string& text) {
  const absl::StatusOr<ttt::v1::Session> session = WithRetries([&] {
    return client.CreateSession(ttt::v1::CreateSessionRequest(), CallOptions());
  });
  if (!session.ok()) return session.status();
  absl::Status status = Converse(client, session->session_id(), text);
  status.Update(Delete(client, session->session_id()));
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string server = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const bool wants_help = server == "--help";
  if (wants_help || argc > 3 || !ttt::CheckServerAddress(server).ok()) {
    (wants_help ? std::cout : std::cerr)
        << "usage: ttt_example_conversation [HOST:PORT [TEXT]]\n";
    return wants_help ? 0 : 64;
  }
  Client client({.server = server});
  const absl::Status status =
      Run(client, argc > 2 ? argv[2] : "The morning was cold, and");
  if (status.ok()) return 0;
  std::cerr << ttt::DescribeError(ttt::DecodeError(status)) << "\n";
  return 1;
}
