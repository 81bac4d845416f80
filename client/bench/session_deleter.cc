#include "client/bench/session_deleter.h"

#include <utility>

#include "ttt/v1/sessions.pb.h"

namespace ttt::bench {
namespace {

constexpr int64_t kPatienceNanos = int64_t{10} * 1000000000;
constexpr int64_t kRetryNanos = 20 * 1000000;

}  // namespace

void SessionDeleter::Delete(const std::string& session_id) {
  ++pending_;
  Start({nullptr, session_id, NowNanos() + kPatienceNanos});
}

void SessionDeleter::Start(Deletion deletion) {
  v1::DeleteSessionRequest request;
  request.set_session_id(deletion.session_id);
  const int64_t left = deletion.give_up_at - NowNanos();
  deletion.call = std::make_unique<PlainCall>(
      stub_, queue_, "/ttt.v1.Sessions/DeleteSession", Serialize(request),
      absl::Nanoseconds(left), this);
  PlainCall* const call = deletion.call.get();
  running_[call] = std::move(deletion);
}

void SessionDeleter::OnEnd(PlainCall* call, const grpc::Status& status) {
  const auto found = running_.find(call);
  Deletion deletion = std::move(found->second);
  running_.erase(found);
  const int64_t again_at = NowNanos() + kRetryNanos;
  const bool is_busy = status.error_code() == grpc::StatusCode::ABORTED;
  if (is_busy && again_at < deletion.give_up_at) {
    timers_->At(again_at, [this, session_id = deletion.session_id,
                           give_up_at = deletion.give_up_at] {
      Start({nullptr, session_id, give_up_at});
    });
    return;
  }
  --pending_;
  if (status.ok()) {
    ++deleted_;
  } else if (status.error_code() != grpc::StatusCode::NOT_FOUND) {
    ++left_;  // What was refused may never have been made.
  }
}

}  // namespace ttt::bench
