#include "client/bench/background_prompts.h"

#include <vector>

namespace ttt::bench {
namespace {

// Numbers of sessions that no user has.
constexpr int64_t kFirstSession = int64_t{1} << 48;

}  // namespace

void BackgroundPrompts::Start() {
  if (options_.background_prompt_tokens > 0) Send();
}

void BackgroundPrompts::Stop() {
  is_stopped_ = true;
  if (call_ != nullptr) call_->Cancel();
}

void BackgroundPrompts::Send() {
  if (is_stopped_ || (options_.background_prompts.has_value() &&
                      results_->sent >= *options_.background_prompts)) {
    return;
  }
  v1::CompleteRequest request;
  const std::vector<int32_t> ids = workload_.InputIds(
      kFirstSession + results_->sent, 0, options_.background_prompt_tokens);
  request.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  request.mutable_sampling()->set_max_tokens(1);
  ++results_->sent;
  call_ = std::make_unique<TurnCall>(
      TurnCall::Args{.stub = stub_,
                     .queue = queue_,
                     .request = Serialize(request),
                     .unary = false,
                     .timeout = absl::InfiniteDuration(),
                     .read_delay = absl::ZeroDuration(),
                     .owner = this});
  sent_at_ = NowNanos();
  call_->Start();
}

void BackgroundPrompts::OnEnd(TurnCall*, const CallEnd& end) {
  call_.reset();
  const int64_t now = NowNanos();
  if (end.status.ok()) {
    ++results_->ok;
    results_->input_tokens += end.usage.input_tokens();
    results_->e2e.Add(static_cast<double>(now - sent_at_) * 1e-9);
    results_->prefill.Add(end.timing.prefill_seconds());
    Send();
  } else if (is_stopped_) {
    ++results_->unfinished;
  } else {
    ++results_->failed;
    timers_->At(now + absl::ToInt64Nanoseconds(options_.backoff),
                [this] { Send(); });
  }
}

}  // namespace ttt::bench
