#include "server/admission/admission.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

constexpr absl::Duration kRetryPerCall = absl::Milliseconds(5);
constexpr absl::Duration kShortestRetry = absl::Milliseconds(50);
constexpr absl::Duration kLongestRetry = absl::Seconds(10);
constexpr absl::Duration kNotServingRetry = absl::Seconds(1);
constexpr absl::Duration kQueueTimeoutRetry = absl::Seconds(1);
// The expected wait is a mean: past this part of max_wait some calls would wait
// longer than that.
constexpr double kPartOfMaxWait = 0.75;
// Over how long the rate of a busy server is measured, and what a new
// measurement weighs.
constexpr absl::Duration kWindow = absl::Milliseconds(500);
constexpr absl::Duration kLongestWindow = absl::Seconds(10);
constexpr double kNewWeight = 0.5;

absl::Status CheckOption(absl::string_view name, int64_t value) {
  if (value >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("Admission: ", name, " is ", value, ", not >= 1"));
}

}  // namespace

absl::Status QueueTimeout(absl::Duration wait) {
  return RetryableError(absl::StatusCode::kResourceExhausted, "QUEUE_TIMEOUT",
                        absl::StrCat("the call waited for ",
                                     absl::FormatDuration(absl::Trunc(
                                         wait, absl::Milliseconds(1))),
                                     " and was not begun"),
                        kQueueTimeoutRetry);
}

Ticket::~Ticket() {
  if (admission_ != nullptr) admission_->Leave(bytes_);
}

Ticket::Ticket(Ticket&& other) noexcept
    : admission_(std::exchange(other.admission_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  Ticket taken(std::move(other));
  std::swap(admission_, taken.admission_);
  std::swap(bytes_, taken.bytes_);
  return *this;  // What was here goes with `taken`.
}

CallWork::~CallWork() {
  if (admission_ == nullptr) return;
  if (started_) {
    // What it may still have generated, not what it has not read.
    admission_->End(std::min(tokens_, kMostCountedOutput));
  } else {
    admission_->Drop(tokens_);
  }
}

CallWork::CallWork(CallWork&& other) noexcept
    : admission_(std::exchange(other.admission_, nullptr)),
      tokens_(std::exchange(other.tokens_, 0)),
      started_(other.started_) {}

CallWork& CallWork::operator=(CallWork&& other) noexcept {
  CallWork taken(std::move(other));
  std::swap(admission_, taken.admission_);
  std::swap(tokens_, taken.tokens_);
  std::swap(started_, taken.started_);
  return *this;
}

void CallWork::Start() {
  if (admission_ == nullptr) return;
  TTT_CHECK(!started_);
  started_ = true;
  admission_->Start(tokens_);
}

void CallWork::Done(int64_t tokens) {
  if (admission_ == nullptr) return;
  TTT_CHECK(started_ && tokens >= 0);
  tokens = std::min(tokens, tokens_);
  tokens_ -= tokens;
  if (tokens > 0) admission_->Done(tokens);
}

absl::StatusOr<std::unique_ptr<Admission>> Admission::Create(
    const Options& options, const Clock* clock) {
  TTT_RETURN_IF_ERROR(CheckOption("max_calls", options.max_calls));
  TTT_RETURN_IF_ERROR(
      CheckOption("max_queued_tokens", options.max_queued_tokens));
  TTT_RETURN_IF_ERROR(CheckOption("max_bytes", options.max_bytes));
  if (options.max_wait <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Admission: max_wait is ",
                     absl::FormatDuration(options.max_wait), ", not > 0"));
  }
  return std::unique_ptr<Admission>(new Admission(options, clock));
}

Admission::~Admission() {
  MutexLock lock(mutex_);
  TTT_CHECK(calls_ == 0 && bytes_ == 0);
  TTT_CHECK(queued_calls_ == 0 && queued_tokens_ == 0);
}

bool Admission::IsBusy() const {
  return queued_calls_ > 0 &&
         running_calls_ + queued_calls_ >= options_.num_rows;
}

absl::Duration Admission::ExpectedWait() const {
  if (!IsBusy() || tokens_per_second_ <= 0) return absl::ZeroDuration();
  return absl::Seconds(queued_tokens_ / tokens_per_second_);
}

absl::Status Admission::Full(absl::string_view what) const {
  return RetryableError(
      absl::StatusCode::kResourceExhausted, "QUEUE_FULL", what,
      std::clamp(std::max(calls_ * kRetryPerCall, ExpectedWait() / 4),
                 kShortestRetry, kLongestRetry));
}

absl::Status Admission::CheckState() const {
  switch (state_) {
    case State::kStarting:
      return RetryableError(absl::StatusCode::kUnavailable, "STARTING",
                            "the server is starting", kNotServingRetry);
    case State::kDraining:
      return RetryableError(absl::StatusCode::kUnavailable, "DRAINING",
                            "the server is draining", kNotServingRetry);
    case State::kServing:
      break;
  }
  return absl::OkStatus();
}

absl::Status Admission::CheckServing() const {
  MutexLock lock(mutex_);
  return CheckState();
}

absl::Status Admission::CheckLocked(const CallCost& cost) const {
  TTT_RETURN_IF_ERROR(CheckState());
  if (calls_ >= options_.max_calls) {
    return Full(absl::StrCat(calls_, calls_ == 1 ? " call is" : " calls are",
                             " queued or running, of at most ",
                             options_.max_calls));
  }
  // Differences, as sums may not fit.
  if (calls_ > 0 && cost.bytes > options_.max_bytes - bytes_) {
    return Full(absl::StrCat("a request of ", cost.bytes, " bytes, with ",
                             bytes_, " of other calls, is more than ",
                             options_.max_bytes));
  }
  const int64_t max_queued_tokens = IsBusy()
                                        ? options_.max_queued_tokens
                                        : std::numeric_limits<int64_t>::max();
  if (queued_calls_ > 0 && cost.tokens > max_queued_tokens - queued_tokens_) {
    return Full(absl::StrCat(cost.tokens, " tokens, with ", queued_tokens_,
                             " of calls that wait, are more than ",
                             max_queued_tokens));
  }
  const absl::Duration wait = ExpectedWait();
  if (wait > kPartOfMaxWait * options_.max_wait) {
    return Full(absl::StrCat(
        queued_calls_ == 1
            ? "1 call waits, for about "
            : absl::StrCat(queued_calls_,
                           " calls wait, the last of them for about "),
        absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1)))));
  }
  if (wait > absl::ZeroDuration() && clock_->Now() + wait > cost.deadline) {
    return RetryableError(
        absl::StatusCode::kResourceExhausted, "DEADLINE_INFEASIBLE",
        absl::StrCat(
            "the call would wait for about ",
            absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1))),
            ", and its deadline is before that"),
        std::clamp(wait, kShortestRetry, kLongestRetry));
  }
  return absl::OkStatus();
}

absl::StatusOr<Admission::Admitted> Admission::Admit(const CallCost& cost) {
  TTT_CHECK(cost.tokens >= 0 && cost.bytes >= 0);
  MutexLock lock(mutex_);
  TTT_RETURN_IF_ERROR(CheckLocked(cost));
  if (!IsBusy()) RestartWindow();
  ++calls_;
  bytes_ += cost.bytes;
  ++queued_calls_;
  queued_tokens_ += cost.tokens;
  return Admitted{Ticket(this, cost.bytes), CallWork(this, cost.tokens)};
}

void Admission::SetState(State state) {
  MutexLock lock(mutex_);
  if (state_ != State::kDraining) state_ = state;
}

Admission::State Admission::state() const {
  MutexLock lock(mutex_);
  return state_;
}

Admission::Load Admission::load() const {
  MutexLock lock(mutex_);
  return {.calls = calls_, .queued = queued_calls_, .running = running_calls_};
}

void Admission::Leave(int64_t bytes) {
  MutexLock lock(mutex_);
  TTT_CHECK(calls_ > 0 && bytes_ >= bytes);
  --calls_;
  bytes_ -= bytes;
}

void Admission::TakeFromQueue(int64_t tokens) {
  TTT_CHECK(queued_calls_ > 0 && queued_tokens_ >= tokens);
  --queued_calls_;
  queued_tokens_ -= tokens;
}

void Admission::Start(int64_t tokens) {
  MutexLock lock(mutex_);
  TakeFromQueue(tokens);
  ++running_calls_;
}

void Admission::End(int64_t tokens) {
  MutexLock lock(mutex_);
  TTT_CHECK(running_calls_ > 0);
  --running_calls_;
  Count(tokens);
}

void Admission::Drop(int64_t tokens) {
  MutexLock lock(mutex_);
  TakeFromQueue(tokens);
}

void Admission::Done(int64_t tokens) {
  MutexLock lock(mutex_);
  Count(tokens);
}

void Admission::Count(int64_t tokens) {
  if (!IsBusy()) return RestartWindow();  // The rate would be too low.
  window_tokens_ += tokens;
  const absl::Duration elapsed = clock_->Now() - window_begin_;
  if (elapsed < kWindow) return;
  // It stood still, and that says nothing.
  if (elapsed > kLongestWindow) return RestartWindow();
  const double rate = window_tokens_ / absl::ToDoubleSeconds(elapsed);
  tokens_per_second_ =
      tokens_per_second_ > 0
          ? (1 - kNewWeight) * tokens_per_second_ + kNewWeight * rate
          : rate;
  RestartWindow();
}

void Admission::RestartWindow() {
  window_begin_ = clock_->Now();
  window_tokens_ = 0;
}

}  // namespace ttt
