// A call that runs a turn: from the checked request to the engine and back.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "server/base/executor.h"
#include "server/engine/turn.h"
#include "server/rpc/active_calls.h"
#include "server/rpc/rpc_call.h"
#include "server/rpc/text_threads.h"
#include "server/rpc/validate_request.h"
#include "ttt/v1/inference.pb.h"

namespace ttt {

// What the calls of one server share. All must outlive them.
struct TurnCallContext {
  const RpcParts& parts;
  const RequestLimits& limits;
  absl::Duration stream_interval;  // see TokenStream::Options
  ActiveCalls* active_calls;
  TextThreads* texts;
  Executor* delivery;  // where turns go on when they have something to deliver
  Executor* scoring;   // the same for Score, whose answers can be large
};

// One turn of Complete, StreamComplete or Score, as its reactor sees it. Take
// and End belong to one thread at a time; Cancel may come from any. Holds its
// place in the admission until it is destroyed, when its answer has left.
class TurnCall {
 public:
  enum class Reads { kAtOnce, kAtTheEnd };  // how its output is wanted

  // `resume` is run on an executor when there is something to Take, after Start
  // and after each Take that gave nothing; it must outlive the turn.
  TurnCall(absl::string_view method, const TurnCallContext& shared,
           grpc::CallbackServerContext* context, Reads reads,
           std::function<void()> resume);
  ~TurnCall();
  TurnCall(const TurnCall&) = delete;
  TurnCall& operator=(const TurnCall&) = delete;

  // Checks, leases, admits and submits, then calls `started` once, on this
  // thread or on that of the texts; `resume` may run before it. After an error
  // nothing is held, and `resume` never runs.
  using Started = std::function<void(const absl::Status&)>;
  void StartComplete(const grpc::ByteBuffer& bytes, Started started);
  void StartScore(const grpc::ByteBuffer& bytes, Started started);

  // What has gathered. No value: `resume` will run.
  std::optional<TokenStream::Chunk> Take();
  // The client wants no more: the turn ends, `resume` still runs.
  void Cancel();
  bool is_cancelled() const { return cancelled_; }
  // Around each write, so that a client that does not read is noticed.
  void WriteBegins() { active_.WriteBegins(shared_.parts.clock->Now()); }
  void WriteEnds() { active_.WriteEnds(); }

  // Records the call and says how it ended. Once, before the last write, of
  // the status and of an answer of `answer_bytes`. `committed`: the revision
  // that the turn made although the call fails.
  grpc::Status End(const absl::Status& status, int64_t answer_bytes = 0,
                   std::optional<uint64_t> committed = std::nullopt);

  // Of a turn that was started.
  const std::string& turn_id() const { return turn_id_; }
  const std::string& session_id() const { return session_id_; }
  uint64_t base_revision() const { return base_revision_.value_or(0); }
  uint64_t seed() const { return seed_; }
  int64_t input_tokens() const { return input_tokens_; }
  bool wants_logprobs() const { return wants_logprobs_; }

 private:
  // The request's text, which goes on from `session_tokens` tokens, and all
  // that comes after it.
  struct Text {
    std::string text;
    int64_t session_tokens = 0;
  };
  using Prepare = absl::Status (TurnCall::*)(const grpc::ByteBuffer&, Turn*,
                                             Text*);
  void Start(Executor* executor, Prepare prepare, const grpc::ByteBuffer& bytes,
             Started started);
  absl::Status PrepareComplete(const grpc::ByteBuffer& bytes, Turn* turn,
                               Text* text);
  absl::Status PrepareScore(const grpc::ByteBuffer& bytes, Turn* turn,
                            Text* text);
  absl::Status Lease(const v1::CompleteRequest& message, SessionLease* lease);
  absl::Status Admit(absl::string_view text, Turn* turn);
  void ReadText(std::unique_ptr<Turn> turn, Text text, Started started);
  absl::Status Submit(std::unique_ptr<Turn> turn, const Text& text);
  // Why a turn ended CANCELLED: the client, the server's end, or the deadline.
  absl::Status CancelCause(const absl::Status& status) const;

  const TurnCallContext& shared_;
  RpcCall call_;
  const std::function<void()> resume_;
  Executor* executor_ = nullptr;  // where `resume_` runs
  const std::shared_ptr<TokenStream> stream_;
  ActiveCall active_;
  Ticket ticket_;
  int64_t request_bytes_ = 0;
  std::atomic<bool> cancelled_ = false;
  std::string turn_id_;
  std::string session_id_;
  std::optional<uint64_t> base_revision_;  // in a session
  bool commits_ = false;                   // not a Score call
  uint64_t seed_ = 0;
  int64_t input_tokens_ = 0;
  bool wants_logprobs_ = false;
};

}  // namespace ttt
