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
#include "server/rpc/validate_request.h"
#include "ttt/v1/inference.pb.h"

namespace ttt {

// What the calls of one server share. All must outlive them.
struct TurnCallContext {
  const RpcParts& parts;
  const RequestLimits& limits;
  ActiveCalls* active_calls;
  Executor* delivery;  // where turns go on when they have something to deliver
  Executor* scoring;   // the same for Score, whose answers can be large
};

// One turn of Complete, StreamComplete or Score, as its reactor sees it. Start,
// Take and End belong to one thread at a time; Cancel may come from any.
class TurnCall {
 public:
  // `resume` is run on an executor when there is something to Take, after Start
  // and after each Take that gave nothing; it must outlive the turn.
  TurnCall(absl::string_view method, const TurnCallContext& shared,
           grpc::CallbackServerContext* context, std::function<void()> resume);
  ~TurnCall();
  TurnCall(const TurnCall&) = delete;
  TurnCall& operator=(const TurnCall&) = delete;

  // Checks, leases, admits and submits. After an error nothing is held, and
  // `resume` is never run.
  absl::Status StartComplete(const grpc::ByteBuffer& bytes);
  absl::Status StartScore(const grpc::ByteBuffer& bytes);

  // What has gathered. No value: `resume` will run.
  std::optional<TokenStream::Chunk> Take();
  // The client wants no more: the turn ends, `resume` still runs.
  void Cancel();
  bool is_cancelled() const { return cancelled_; }

  // Records the call and says how it ended. Once. `committed`: the revision
  // that the turn made although the call fails.
  grpc::Status End(const absl::Status& status,
                   std::optional<uint64_t> committed = std::nullopt);

  // Of a turn that was started.
  const std::string& turn_id() const { return turn_id_; }
  const std::string& session_id() const { return session_id_; }
  uint64_t base_revision() const { return base_revision_.value_or(0); }
  uint64_t seed() const { return seed_; }
  int64_t input_tokens() const { return input_tokens_; }
  bool wants_logprobs() const { return wants_logprobs_; }

 private:
  absl::Status Lease(const v1::CompleteRequest& message, SessionLease* lease);
  absl::Status Submit(std::unique_ptr<Turn> turn, Executor* executor);
  absl::Time Deadline() const;
  // Why a turn ended CANCELLED: the client, the server's end, or the deadline.
  absl::Status CancelCause(const absl::Status& status) const;

  const TurnCallContext& shared_;
  RpcCall call_;
  const std::function<void()> resume_;
  std::shared_ptr<TokenStream> stream_;
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
