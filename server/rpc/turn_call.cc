#include "server/rpc/turn_call.h"

#include <algorithm>
#include <random>
#include <utility>

#include "server/base/random_id.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// What may wait for a client to read. Beyond it the turn is not run.
constexpr int64_t kStreamBytes = 256 << 10;
// A token has about this many bytes of text.
constexpr int64_t kTextBytesPerToken = 4;
// Of a Score call's answer: as it is gathered, as a message, and as bytes.
constexpr int64_t kBytesPerCandidate = 80;

uint64_t DrawSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

int64_t OutputTokens(const Request& request) {
  return request.kind == RequestKind::kScore
             ? 0
             : std::min(request.max_tokens, kMostCountedOutput);
}

// What the answer to a Score call of as many tokens holds.
int64_t Candidates(int64_t tokens, const Request& request) {
  return tokens * (1 + request.top_logprobs.value_or(0));
}

absl::Status CheckScoreSize(const Request& request, int64_t max_candidates) {
  const int64_t candidates =
      Candidates(static_cast<int64_t>(request.input_ids.size()), request);
  if (candidates <= max_candidates) return absl::OkStatus();
  return InvalidField(
      "top_logprobs",
      absl::StrCat("is ", request.top_logprobs.value_or(0), " for ",
                   request.input_ids.size(),
                   " tokens: one answer has room for ", max_candidates,
                   " tokens and candidates, not ", candidates));
}

}  // namespace

TurnCall::TurnCall(absl::string_view method, const TurnCallContext& shared,
                   grpc::CallbackServerContext* context, Reads reads,
                   std::function<void()> resume)
    : shared_(shared),
      call_(method, shared.parts, context),
      resume_(std::move(resume)),
      stream_(std::make_shared<TokenStream>(
          TokenStream::Options{.capacity_bytes = kStreamBytes,
                               .interval = reads == Reads::kAtOnce
                                               ? shared.stream_interval
                                               : absl::InfiniteDuration()},
          [this] { executor_->Post(resume_); })),
      active_(stream_, [context] { context->TryCancel(); }) {
  shared_.active_calls->Add(&active_);
}

TurnCall::~TurnCall() {
  ticket_ = Ticket();  // Whoever finds the server idle finds it empty.
  shared_.active_calls->Remove(&active_);
}

absl::Status TurnCall::Lease(const v1::CompleteRequest& message,
                             SessionLease* lease) {
  SessionStore::AcquireOptions options;
  options.create_if_absent = message.create_session();
  if (message.has_expected_revision()) {
    options.expected_revision = message.expected_revision();
  }
  absl::StatusOr<SessionLease> acquired =
      shared_.parts.sessions->Acquire(message.session_id(), options);
  if (!acquired.ok()) {
    // What the details say of the session that was refused, if there is one.
    const absl::StatusOr<SessionInfo> session =
        shared_.parts.sessions->GetSession(message.session_id());
    if (session.ok()) base_revision_ = session->revision;
    return acquired.status();
  }
  *lease = *std::move(acquired);
  session_id_ = lease->id();
  base_revision_ = lease->revision();
  return absl::OkStatus();
}

// Takes the call's place before the work of reading its text: what waits for
// that counts too.
absl::Status TurnCall::Admit(absl::string_view text, Turn* turn) {
  const Request& request = turn->request;
  // A text that is longer than allowed is not read to its end.
  const int64_t tokens =
      static_cast<int64_t>(request.input_ids.size()) +
      std::min(static_cast<int64_t>(text.size()) / kTextBytesPerToken,
               shared_.limits.max_input_tokens);
  const int64_t answer_bytes =
      request.kind == RequestKind::kScore
          ? std::min(Candidates(tokens, request),
                     shared_.limits.max_answer_candidates) *
                kBytesPerCandidate
          : 0;
  TTT_ASSIGN_OR_RETURN(
      Admission::Admitted admitted,
      shared_.parts.admission->Admit({.tokens = tokens + OutputTokens(request),
                                      .bytes = request_bytes_ + answer_bytes,
                                      .deadline = call_.Deadline()}));
  ticket_ = std::move(admitted.ticket);
  turn->work = std::move(admitted.work);
  return absl::OkStatus();
}

void TurnCall::StartComplete(const grpc::ByteBuffer& bytes, Started started) {
  Start(shared_.delivery, &TurnCall::PrepareComplete, bytes,
        std::move(started));
}

void TurnCall::StartScore(const grpc::ByteBuffer& bytes, Started started) {
  Start(shared_.scoring, &TurnCall::PrepareScore, bytes, std::move(started));
}

void TurnCall::Start(Executor* executor, Prepare prepare,
                     const grpc::ByteBuffer& bytes, Started started) {
  executor_ = executor;
  auto turn = std::make_unique<Turn>();
  Text text;
  const absl::Status status = (this->*prepare)(bytes, turn.get(), &text);
  if (!status.ok()) return started(status);
  ReadText(std::move(turn), std::move(text), std::move(started));
}

absl::Status TurnCall::PrepareComplete(const grpc::ByteBuffer& bytes,
                                       Turn* turn, Text* text) {
  commits_ = true;
  turn_id_ = RandomId();
  request_bytes_ = static_cast<int64_t>(bytes.Length());
  v1::CompleteRequest message;
  TTT_RETURN_IF_ERROR(Parse(bytes, &message));
  Request& request = turn->request;
  TTT_ASSIGN_OR_RETURN(request, ValidateComplete(message, shared_.limits));
  if (!message.sampling().has_seed()) request.sampling.seed = DrawSeed();
  seed_ = request.sampling.seed;
  wants_logprobs_ = request.top_logprobs.has_value();
  TTT_RETURN_IF_ERROR(Admit(message.text(), turn));
  if (!message.session_id().empty()) {
    TTT_RETURN_IF_ERROR(Lease(message, &turn->lease));
  }
  text->text = std::move(*message.mutable_text());
  text->session_tokens = turn->lease.tokens();
  return absl::OkStatus();
}

absl::Status TurnCall::PrepareScore(const grpc::ByteBuffer& bytes, Turn* turn,
                                    Text* text) {
  turn_id_ = RandomId();
  request_bytes_ = static_cast<int64_t>(bytes.Length());
  v1::ScoreRequest message;
  TTT_RETURN_IF_ERROR(Parse(bytes, &message));
  TTT_ASSIGN_OR_RETURN(turn->request, ValidateScore(message, shared_.limits));
  TTT_RETURN_IF_ERROR(Admit(message.text(), turn));
  if (!message.session_id().empty()) {
    TTT_ASSIGN_OR_RETURN(
        const SessionInfo session,
        shared_.parts.sessions->GetSession(message.session_id()));
    base_revision_ = session.revision;
    text->session_tokens = session.tokens;
    // An empty session is as good as none, whatever becomes of it meanwhile.
    if (session.tokens > 0) turn->view_session = session.id;
  }
  text->text = std::move(*message.mutable_text());
  return absl::OkStatus();
}

void TurnCall::ReadText(std::unique_ptr<Turn> turn, Text text,
                        Started started) {
  // std::function holds only what can be copied.
  struct Task {
    std::unique_ptr<Turn> turn;
    Text text;
    Started started;
  };
  auto task = std::make_shared<Task>(
      Task{std::move(turn), std::move(text), std::move(started)});
  shared_.texts->Run(task->text.text.size(), [this, task] {
    // The reactor, and this with it, may be gone once `started` has run.
    const Started then = std::move(task->started);
    // What the turn held is given back before the client hears of an error.
    const absl::Status status = Submit(std::move(task->turn), task->text);
    then(status);
  });
}

absl::Status TurnCall::Submit(std::unique_ptr<Turn> turn, const Text& text) {
  Request& request = turn->request;
  // A long text may have waited for others, and takes its time itself.
  const auto check_wanted = [this] {
    return call_.CheckWanted(cancelled_, shared_.active_calls->is_ending());
  };
  TTT_RETURN_IF_ERROR(check_wanted());
  if (!text.text.empty()) {
    TTT_RETURN_IF_ERROR(call_.CheckWait(shared_.limits.max_queue_wait));
    TTT_ASSIGN_OR_RETURN(
        request.input_ids,
        EncodeText(text.text, /*at_start=*/text.session_tokens == 0,
                   *shared_.parts.tokenizer, shared_.limits, check_wanted));
  }
  const bool is_score = request.kind == RequestKind::kScore;
  TTT_RETURN_IF_ERROR(CheckInput(request, is_score ? 0 : text.session_tokens));
  if (is_score) {
    TTT_RETURN_IF_ERROR(
        CheckScoreSize(request, shared_.limits.max_answer_candidates));
  }
  input_tokens_ = static_cast<int64_t>(request.input_ids.size());
  request.turn_id = turn_id_;
  request.deadline = call_.Deadline();
  turn->stream = stream_;
  turn->arrival = call_.arrival();
  if (turn->lease.has_value()) turn->lease.TurnBegins();
  shared_.parts.engine->Submit(std::move(turn));
  return absl::OkStatus();
}

std::optional<TokenStream::Chunk> TurnCall::Take() {
  std::optional<TokenStream::Chunk> chunk = stream_->Take();
  if (chunk.has_value() && chunk->bytes >= kStreamBytes) {
    shared_.parts.engine->Wake();  // It was full, and the turn stood still.
  }
  return chunk;
}

void TurnCall::Cancel() {
  cancelled_ = true;
  stream_->Cancel();
  shared_.parts.engine->Wake();
}

grpc::Status TurnCall::End(const absl::Status& status, int64_t answer_bytes,
                           std::optional<uint64_t> committed) {
  active_.WriteBegins(shared_.parts.clock->Now(), answer_bytes);
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
  if (shared_.parts.clock->Now() >= call_.Deadline()) {
    return absl::DeadlineExceededError("the call's deadline has passed");
  }
  return status;
}

}  // namespace ttt
