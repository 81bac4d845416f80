#include "server/admission/admission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/base/check.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

constexpr absl::Duration kRetryPerCall = absl::Milliseconds(5);
constexpr absl::Duration kShortestRetry = absl::Milliseconds(50);
constexpr absl::Duration kLongestRetry = absl::Seconds(2);
constexpr absl::Duration kNotServingRetry = absl::Seconds(1);

absl::Status QueueFull(absl::string_view what, int32_t calls) {
  return RetryableError(
      absl::StatusCode::kResourceExhausted, "QUEUE_FULL", what,
      std::clamp(calls * kRetryPerCall, kShortestRetry, kLongestRetry));
}

}  // namespace

Ticket::~Ticket() {
  if (admission_ != nullptr) admission_->Return(input_tokens_);
}

Ticket::Ticket(Ticket&& other) noexcept
    : admission_(std::exchange(other.admission_, nullptr)),
      input_tokens_(std::exchange(other.input_tokens_, 0)) {}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  Ticket taken(std::move(other));
  std::swap(admission_, taken.admission_);
  std::swap(input_tokens_, taken.input_tokens_);
  return *this;  // What was here goes with `taken`.
}

absl::StatusOr<std::unique_ptr<Admission>> Admission::Create(
    const Options& options) {
  if (options.max_calls < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Admission: max_calls is ", options.max_calls, ", not >= 1"));
  }
  if (options.max_queued_input_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("Admission: max_queued_input_tokens is ",
                     options.max_queued_input_tokens, ", not >= 1"));
  }
  return std::unique_ptr<Admission>(new Admission(options));
}

Admission::~Admission() {
  MutexLock lock(mutex_);
  TTT_CHECK(calls_ == 0 && input_tokens_ == 0);
}

absl::Status Admission::CheckCalls() const {
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
  if (calls_ < options_.max_calls) return absl::OkStatus();
  return QueueFull(absl::StrCat(calls_, " calls are queued or running"),
                   calls_);
}

absl::Status Admission::Check() const {
  MutexLock lock(mutex_);
  return CheckCalls();
}

absl::StatusOr<Ticket> Admission::Admit(int64_t input_tokens) {
  TTT_CHECK(input_tokens >= 0);
  MutexLock lock(mutex_);
  TTT_RETURN_IF_ERROR(CheckCalls());
  // A difference, as the sum may not fit.
  if (calls_ > 0 &&
      input_tokens > options_.max_queued_input_tokens - input_tokens_) {
    return QueueFull(
        absl::StrCat(input_tokens, " input tokens, with ", input_tokens_,
                     " of other calls, are more than ",
                     options_.max_queued_input_tokens),
        calls_);
  }
  ++calls_;
  input_tokens_ += input_tokens;
  return Ticket(this, input_tokens);
}

void Admission::SetState(State state) {
  MutexLock lock(mutex_);
  if (state_ != State::kDraining) state_ = state;
}

Admission::State Admission::state() const {
  MutexLock lock(mutex_);
  return state_;
}

int32_t Admission::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

void Admission::Return(int64_t input_tokens) {
  MutexLock lock(mutex_);
  TTT_CHECK(calls_ > 0 && input_tokens_ >= input_tokens);
  --calls_;
  input_tokens_ -= input_tokens;
}

}  // namespace ttt
