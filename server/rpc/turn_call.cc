#include "server/rpc/turn_call.h"

#include <chrono>
#include <random>
#include <utility>

#include "server/base/random_id.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// Tokens that wait for a client to read. Beyond it the turn is not run.
constexpr int64_t kStreamCapacity = 256;
// Candidates that one Score answer may hold, so that it stays below 2 GiB.
constexpr int64_t kMaxScoreCandidates = int64_t{64} << 20;

uint64_t DrawSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

absl::Status CheckScoreSize(const Request& request) {
  const int64_t candidates = static_cast<int64_t>(request.input_ids.size()) *
                             (1 + request.top_logprobs.value_or(0));
  if (candidates <= kMaxScoreCandidates) return absl::OkStatus();
  return InvalidField(
      "top_logprobs",
      absl::StrCat("is ", *request.top_logprobs, " for ",
                   request.input_ids.size(),
                   " tokens, which is too much for one answer"));
}

}  // namespace

TurnCall::TurnCall(absl::string_view method, const TurnCallContext& shared,
                   grpc::CallbackServerContext* context,
                   std::function<void()> resume)
    : shared_(shared),
      call_(method, shared.parts, context),
      resume_(std::move(resume)) {}

TurnCall::~TurnCall() {
  if (stream_ != nullptr) shared_.active_calls->Remove(stream_);
}

absl::Time TurnCall::Deadline() const {
  const auto deadline = call_.context()->deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  return absl::FromChrono(deadline);
}

absl::Status TurnCall::Lease(const v1::CompleteRequest& message,
                             SessionLease* lease) {
  SessionStore::AcquireOptions options;
  options.create_if_absent = message.create_session();
  if (message.has_expected_revision()) {
    options.expected_revision = message.expected_revision();
  }
  TTT_ASSIGN_OR_RETURN(
      *lease, shared_.parts.sessions->Acquire(message.session_id(), options));
  session_id_ = lease->id();
  base_revision_ = lease->revision();
  return absl::OkStatus();
}

absl::Status TurnCall::StartComplete(const grpc::ByteBuffer& bytes) {
  commits_ = true;
  turn_id_ = RandomId();
  v1::CompleteRequest message;
  TTT_RETURN_IF_ERROR(Parse(bytes, &message));
  auto turn = std::make_unique<Turn>();
  Request& request = turn->request;
  TTT_ASSIGN_OR_RETURN(request, ValidateComplete(message, shared_.limits));
  if (!message.sampling().has_seed()) request.sampling.seed = DrawSeed();
  seed_ = request.sampling.seed;
  wants_logprobs_ = request.top_logprobs.has_value();
  TTT_RETURN_IF_ERROR(shared_.parts.admission->Check());
  if (!message.session_id().empty()) {
    TTT_RETURN_IF_ERROR(Lease(message, &turn->lease));
  }
  const int64_t session_tokens = turn->lease.tokens();
  if (message.has_text()) {
    TTT_RETURN_IF_ERROR(AppendText(message.text(), session_tokens,
                                   *shared_.parts.tokenizer, shared_.limits,
                                   &request));
  }
  TTT_RETURN_IF_ERROR(CheckInput(request, session_tokens));
  return Submit(std::move(turn), shared_.delivery);
}

absl::Status TurnCall::StartScore(const grpc::ByteBuffer& bytes) {
  turn_id_ = RandomId();
  v1::ScoreRequest message;
  TTT_RETURN_IF_ERROR(Parse(bytes, &message));
  auto turn = std::make_unique<Turn>();
  TTT_ASSIGN_OR_RETURN(turn->request, ValidateScore(message, shared_.limits));
  TTT_RETURN_IF_ERROR(shared_.parts.admission->Check());
  int64_t session_tokens = 0;
  if (!message.session_id().empty()) {
    TTT_ASSIGN_OR_RETURN(
        const SessionInfo session,
        shared_.parts.sessions->GetSession(message.session_id()));
    base_revision_ = session.revision;
    session_tokens = session.tokens;
    // An empty session is as good as none, whatever becomes of it meanwhile.
    if (session_tokens > 0) turn->view_session = session.id;
  }
  if (message.has_text()) {
    TTT_RETURN_IF_ERROR(AppendText(message.text(), session_tokens,
                                   *shared_.parts.tokenizer, shared_.limits,
                                   &turn->request));
  }
  TTT_RETURN_IF_ERROR(CheckInput(turn->request, /*session_tokens=*/0));
  TTT_RETURN_IF_ERROR(CheckScoreSize(turn->request));
  return Submit(std::move(turn), shared_.scoring);
}

absl::Status TurnCall::Submit(std::unique_ptr<Turn> turn, Executor* executor) {
  input_tokens_ = static_cast<int64_t>(turn->request.input_ids.size());
  TTT_ASSIGN_OR_RETURN(turn->ticket,
                       shared_.parts.admission->Admit(input_tokens_));
  turn->request.turn_id = turn_id_;
  turn->request.deadline = Deadline();
  stream_ = std::make_shared<TokenStream>(
      kStreamCapacity, [this, executor] { executor->Post(resume_); });
  turn->stream = stream_;
  shared_.active_calls->Add(stream_);
  shared_.parts.engine->Submit(std::move(turn));
  return absl::OkStatus();
}

std::optional<TokenStream::Chunk> TurnCall::Take() {
  std::optional<TokenStream::Chunk> chunk = stream_->Take();
  if (chunk.has_value() &&
      static_cast<int64_t>(chunk->tokens.size()) >= kStreamCapacity) {
    shared_.parts.engine->Wake();  // It was full, and the turn stood still.
  }
  return chunk;
}

void TurnCall::Cancel() {
  if (stream_ == nullptr) return;  // It was refused.
  cancelled_ = true;
  stream_->Cancel();
  shared_.parts.engine->Wake();
}

grpc::Status TurnCall::End(const absl::Status& status,
                           std::optional<uint64_t> committed) {
  ErrorMetadata metadata{turn_id_, base_revision_, std::nullopt};
  if (commits_) metadata.committed = committed.has_value();
  if (committed.has_value()) metadata.revision = committed;
  return call_.End(status.code() == absl::StatusCode::kCancelled
                       ? CancelCause(status)
                       : status,
                   metadata);
}

absl::Status TurnCall::CancelCause(const absl::Status& status) const {
  if (!cancelled_ && shared_.active_calls->is_ending()) {
    return Error(absl::StatusCode::kUnavailable, "DRAINING",
                 "the server is shutting down");
  }
  // gRPC cancels a call that is late, maybe before the engine's clock sees it.
  if (shared_.parts.clock->Now() >= Deadline()) {
    return absl::DeadlineExceededError("the call's deadline has passed");
  }
  return status;
}

}  // namespace ttt
