#include "client/bench/load.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/bench/background_prompts.h"
#include "client/bench/call.h"
#include "client/bench/session_deleter.h"
#include "client/bench/timers.h"
#include "client/call_error.h"

namespace ttt::bench {
namespace {

constexpr int64_t kSecond = 1000000000;
constexpr int64_t kTick = kSecond / 20;

double Seconds(int64_t nanos) { return static_cast<double>(nanos) * 1e-9; }
int64_t Nanos(absl::Duration duration) {
  return absl::ToInt64Nanoseconds(duration);
}

// What the process has used so far.
ClientCost ReadCost() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) +
           static_cast<double>(time.tv_usec) * 1e-6;
  };
  return {.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime),
          .context_switches = usage.ru_nvcsw + usage.ru_nivcsw,
          .max_resident_bytes = usage.ru_maxrss * int64_t{1024}};
}

// Of this run, so that it meets no session of another.
std::string MakeSessionPrefix() {
  return absl::StrFormat("bench-%x-%x-", getpid(),
                         absl::ToUnixMicros(absl::Now()));
}

std::vector<std::unique_ptr<grpc::GenericStub>> MakeStubs(
    const std::string& server, int count) {
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (int i = 0; i < count; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetMaxSendMessageSize(-1);
    // Each has a connection of its own.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // Refusals are to be seen, and no call is to be kept for another try.
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    // No pings that measure the bandwidth.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    stubs.push_back(
        std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(
            server, grpc::InsecureChannelCredentials(), arguments)));
  }
  return stubs;
}

// The attempt of a turn that runs.
struct Attempt {
  std::unique_ptr<TurnCall> call;
  int64_t id = 0;
  int64_t sent_at = 0;
  int64_t first_token_at = 0;
  int64_t last_token_at = 0;
  int64_t output_tokens = 0;
  int64_t first_event_tokens = 0;
  int64_t events = 0;
  std::vector<int32_t> output;  // with history
  std::vector<Gap> gaps;
  uint64_t digest = 0;
  bool cancel_sent = false;
  bool cut_off = false;
};

class Load;

// A session on its way: of a user who stays, or of one who came by.
struct Visit final : public TurnCall::Owner {
  explicit Visit(Load* load) : load(load) {}
  void OnTokens(TurnCall*, const int32_t* ids, int count, int64_t now) override;
  void OnEnd(TurnCall*, const CallEnd& end) override;
  void ReadLater(TurnCall*, absl::Duration delay) override;

  Load* const load;
  int64_t session = 0;
  bool in_window = false;  // began there
  std::string session_id;  // empty: stateless
  bool has_turns = false;  // that were committed
  std::vector<int32_t> history;

  // The turn that runs or comes next.
  int32_t turn = 0;
  TurnPlan plan;
  std::vector<int32_t> input;  // with history
  grpc::ByteBuffer request;
  bool turn_in_window = false;
  int64_t due_at = 0;
  int num_retries = 0;
  bool waits_to_retry = false;
  Attempt attempt;
};

enum class Phase { kWarmup, kMeasure, kDrain };

// All on one thread, which is that of the queue.
class Load {
 public:
  Load(const Options& options, const Workload& workload, const LoadHooks& hooks)
      : options_(options),
        workload_(workload),
        hooks_(hooks),
        stubs_(MakeStubs(options.server, options.channels)),
        session_prefix_(MakeSessionPrefix()),
        results_(options.slo),
        deleter_(stubs_[0].get(), &queue_, &timers_),
        background_(options, workload, stubs_[0].get(), &queue_, &timers_,
                    &results_.background) {}

  Results Run();

  void OnTokens(Visit* visit, const int32_t* ids, int count, int64_t now);
  void OnEnd(Visit* visit, const CallEnd& end);
  void ReadLater(Visit* visit, absl::Duration delay);

 private:
  void Begin();
  void Loop();
  void Tick();
  void BeginWindowIfWarm();
  void EndWindow();
  void EndWindowIfComplete();
  void CutOff();
  void Report();

  // Another request, or another session.
  bool MaySend() const;
  bool MayBegin() const;
  void Arrive();
  void StartVisit(int64_t due_at);
  void BeginTurn(Visit* visit, int64_t due_at);
  void MakeRequest(Visit* visit);
  void SendAttempt(Visit* visit);
  // The visit whose attempt `id` is running, or null.
  Visit* Find(int64_t session, int64_t id);
  void Cancel(Visit* visit);

  Outcome Judge(const Visit& visit, const CallEnd& end,
                const CallError& error) const;
  bool Retry(Visit* visit, const CallError& error, int64_t now);
  void Record(Visit* visit, const CallEnd& end, Outcome outcome,
              const CallError& error, int64_t now);
  void GoOn(Visit* visit, bool ok, int64_t now);
  void EndVisit(Visit* visit);

  const Options& options_;
  const Workload& workload_;
  const LoadHooks& hooks_;
  const std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  const std::string session_prefix_;
  grpc::CompletionQueue queue_;
  Timers timers_;
  Results results_;
  SessionDeleter deleter_;
  BackgroundPrompts background_;
  std::optional<Arrivals> arrivals_;
  std::unordered_map<int64_t, std::unique_ptr<Visit>> visits_;  // by session

  Phase phase_ = Phase::kWarmup;
  int64_t start_ = 0;
  int64_t window_begin_ = 0;
  ClientCost cost_at_begin_;
  int64_t last_report_ = 0;
  int64_t tokens_at_report_ = 0;
  int64_t all_tokens_ = 0;
  int64_t next_session_ = 0;
  int64_t next_attempt_ = 0;
  int64_t warmup_ended_ = 0;
  // Of the window.
  int64_t requests_sent_ = 0, requests_ended_ = 0;
  int64_t sessions_begun_ = 0, sessions_ended_ = 0;
};

void Visit::OnTokens(TurnCall*, const int32_t* ids, int count, int64_t now) {
  load->OnTokens(this, ids, count, now);
}
void Visit::OnEnd(TurnCall*, const CallEnd& end) { load->OnEnd(this, end); }
void Visit::ReadLater(TurnCall*, absl::Duration delay) {
  load->ReadLater(this, delay);
}

Results Load::Run() {
  Begin();
  Loop();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
  results_.sessions_deleted = deleter_.deleted();
  results_.sessions_left = deleter_.left();
  return std::move(results_);
}

void Load::Begin() {
  start_ = last_report_ = NowNanos();
  timers_.At(start_ + kTick, [this] { Tick(); });
  timers_.At(start_ + Nanos(options_.warmup), [this] { BeginWindowIfWarm(); });
  BeginWindowIfWarm();
  if (options_.rate.has_value()) {
    arrivals_.emplace(options_.seed, *options_.rate);
    timers_.At(start_ + static_cast<int64_t>(arrivals_->next_seconds() * 1e9),
               [this] { Arrive(); });
    return;
  }
  for (int i = 0; i < options_.concurrency; ++i) StartVisit(NowNanos());
}

void Load::Loop() {
  while (phase_ != Phase::kDrain || !visits_.empty() ||
         background_.is_running() || deleter_.pending() > 0) {
    const int64_t next = timers_.next();
    gpr_timespec deadline = {};
    deadline.tv_sec = next / kSecond;
    deadline.tv_nsec = static_cast<int32_t>(next % kSecond);
    deadline.clock_type = GPR_CLOCK_MONOTONIC;
    void* tag = nullptr;
    bool ok = false;
    const auto got = queue_.AsyncNext(&tag, &ok, deadline);
    if (got == grpc::CompletionQueue::GOT_EVENT) {
      static_cast<Completion*>(tag)->OnCompletion(ok);
    }
    timers_.Run(NowNanos());
    EndWindowIfComplete();
  }
}

void Load::Tick() {
  const int64_t now = NowNanos();
  timers_.At(now + kTick, [this] { Tick(); });
  if (!results_.interrupted && hooks_.is_interrupted()) {
    results_.interrupted = true;
    EndWindow();
    CutOff();
  }
  if (now - last_report_ >= kSecond) Report();
}

void Load::Report() {
  const int64_t now = NowNanos();
  Progress progress;
  progress.seconds = Seconds(now - start_);
  progress.phase = phase_ == Phase::kWarmup    ? "warming up"
                   : phase_ == Phase::kMeasure ? "measuring"
                                               : "ending";
  const int64_t since =
      phase_ == Phase::kWarmup ? int64_t{0} : now - window_begin_;
  if (options_.duration.has_value()) {
    progress.fraction =
        Seconds(since) / absl::ToDoubleSeconds(*options_.duration);
  }
  const auto reach = [&](const std::optional<int64_t>& wanted, int64_t have) {
    if (!wanted.has_value()) return;
    progress.fraction =
        std::max(progress.fraction,
                 static_cast<double>(have) / static_cast<double>(*wanted));
  };
  reach(options_.requests, requests_ended_);
  reach(options_.sessions, sessions_ended_);
  progress.running = static_cast<int64_t>(visits_.size());
  progress.ended = requests_ended_;
  progress.refused = results_.refusals();
  progress.tokens_per_second =
      static_cast<double>(all_tokens_ - tokens_at_report_) /
      Seconds(now - last_report_);
  last_report_ = now;
  tokens_at_report_ = all_tokens_;
  hooks_.on_progress(progress);
}

void Load::BeginWindowIfWarm() {
  const int64_t now = NowNanos();
  if (phase_ != Phase::kWarmup || now < start_ + Nanos(options_.warmup) ||
      warmup_ended_ < options_.warmup_requests) {
    return;
  }
  phase_ = Phase::kMeasure;
  window_begin_ = now;
  cost_at_begin_ = ReadCost();
  if (options_.duration.has_value()) {
    timers_.At(now + Nanos(*options_.duration), [this] { EndWindow(); });
  }
  background_.Start();
}

void Load::EndWindow() {
  if (phase_ == Phase::kDrain) return;
  const int64_t now = NowNanos();
  if (phase_ == Phase::kMeasure) {
    results_.window_seconds = Seconds(now - window_begin_);
    const ClientCost cost = ReadCost();
    results_.client = {
        .cpu_seconds = cost.cpu_seconds - cost_at_begin_.cpu_seconds,
        .context_switches =
            cost.context_switches - cost_at_begin_.context_switches,
        .max_resident_bytes = cost.max_resident_bytes};
  }
  phase_ = Phase::kDrain;
  background_.Stop();
  std::vector<Visit*> idle;
  for (const auto& [session, visit] : visits_) {
    if (visit->attempt.call == nullptr) idle.push_back(visit.get());
  }
  for (Visit* const visit : idle) {
    // A request that waited to be tried again ends here.
    if (visit->waits_to_retry) {
      Record(visit, {}, Outcome::kUnfinished, {}, now);
    }
    EndVisit(visit);
  }
  timers_.At(now + Nanos(options_.drain), [this] { CutOff(); });
}

void Load::EndWindowIfComplete() {
  if (phase_ != Phase::kMeasure) return;
  if ((options_.requests.has_value() &&
       requests_ended_ >= *options_.requests) ||
      (options_.sessions.has_value() &&
       sessions_ended_ >= *options_.sessions)) {
    EndWindow();
  }
}

void Load::CutOff() {
  for (const auto& [session, visit] : visits_) {
    if (visit->attempt.call == nullptr) continue;
    visit->attempt.cut_off = true;
    visit->attempt.call->Cancel();
  }
}

bool Load::MaySend() const {
  if (phase_ != Phase::kMeasure) return phase_ == Phase::kWarmup;
  return requests_sent_ < options_.requests.value_or(requests_sent_ + 1);
}

bool Load::MayBegin() const {
  return MaySend() &&
         (phase_ == Phase::kWarmup ||
          sessions_begun_ < options_.sessions.value_or(sessions_begun_ + 1));
}

void Load::Arrive() {
  if (!MayBegin()) return;
  const int64_t due_at =
      start_ + static_cast<int64_t>(arrivals_->next_seconds() * 1e9);
  arrivals_->Advance();
  if (visits_.size() < static_cast<size_t>(options_.max_outstanding)) {
    StartVisit(due_at);
  } else {
    ++next_session_;  // The workload is the same, whatever is dropped.
    if (phase_ == Phase::kMeasure) ++results_.dropped;
  }
  timers_.At(start_ + static_cast<int64_t>(arrivals_->next_seconds() * 1e9),
             [this] { Arrive(); });
}

void Load::StartVisit(int64_t due_at) {
  if (!MayBegin()) return;
  auto visit = std::make_unique<Visit>(this);
  visit->session = next_session_++;
  visit->in_window = phase_ == Phase::kMeasure;
  if (visit->in_window) ++sessions_begun_;
  ++results_.sessions_started;
  if (options_.mode == Mode::kStateful) {
    visit->session_id = absl::StrCat(session_prefix_, visit->session);
  }
  Visit* const started = visit.get();
  visits_[started->session] = std::move(visit);
  BeginTurn(started, due_at);
}

void Load::BeginTurn(Visit* visit, int64_t due_at) {
  visit->plan = workload_.Plan(visit->session, visit->turn);
  visit->due_at = due_at;
  visit->num_retries = 0;
  visit->turn_in_window = phase_ == Phase::kMeasure;
  if (visit->turn_in_window) ++requests_sent_;
  MakeRequest(visit);
  SendAttempt(visit);
}

void Load::MakeRequest(Visit* visit) {
  v1::CompleteRequest request;
  workload_.FillRequest(visit->plan, visit->session, visit->turn, &request);
  if (!visit->session_id.empty()) {
    request.set_session_id(visit->session_id);
    request.set_create_session(!visit->has_turns);
  }
  const int64_t count = visit->plan.input_tokens;
  if (workload_.is_text()) {
    request.set_text(workload_.InputText(visit->session, visit->turn, count));
  } else {
    visit->input = workload_.InputIds(visit->session, visit->turn, count);
    auto* const ids = request.mutable_token_ids()->mutable_ids();
    ids->Add(visit->history.begin(), visit->history.end());
    ids->Add(visit->input.begin(), visit->input.end());
  }
  visit->request = Serialize(request);
}

void Load::SendAttempt(Visit* visit) {
  Attempt& attempt = visit->attempt;
  attempt = Attempt();
  visit->waits_to_retry = false;
  attempt.id = next_attempt_++;
  attempt.call = std::make_unique<TurnCall>(TurnCall::Args{
      .stub = stubs_[attempt.id % stubs_.size()].get(),
      .queue = &queue_,
      .request = visit->request,
      .unary = options_.unary,
      .timeout = options_.timeout,
      .read_delay = visit->plan.slow_reader ? options_.slow_reader_delay
                                            : absl::ZeroDuration(),
      .owner = visit});
  attempt.sent_at = NowNanos();
  // In an open loop the time that it is late is part of what a user waits.
  if (!options_.rate.has_value()) {
    if (visit->num_retries == 0) visit->due_at = attempt.sent_at;
  } else if (visit->turn_in_window && visit->num_retries == 0) {
    results_.times.send_lag.Add(Seconds(attempt.sent_at - visit->due_at));
  }
  attempt.call->Start();
  if (!visit->plan.cancelled) return;
  if (options_.cancel_within.has_value()) {
    timers_.At(attempt.sent_at + Nanos(visit->plan.cancel_after),
               [this, session = visit->session, id = attempt.id] {
                 if (Visit* const visit = Find(session, id)) Cancel(visit);
               });
  } else if (visit->plan.cancel_after_tokens == 0) {
    Cancel(visit);
  }
}

Visit* Load::Find(int64_t session, int64_t id) {
  const auto found = visits_.find(session);
  if (found == visits_.end()) return nullptr;
  const Attempt& attempt = found->second->attempt;
  return attempt.call != nullptr && attempt.id == id ? found->second.get()
                                                     : nullptr;
}

void Load::Cancel(Visit* visit) {
  visit->attempt.cancel_sent = true;
  visit->attempt.call->Cancel();
}

void Load::ReadLater(Visit* visit, absl::Duration delay) {
  if (visit->attempt.cut_off) return visit->attempt.call->ReadNow();
  timers_.At(NowNanos() + Nanos(delay),
             [this, session = visit->session, id = visit->attempt.id] {
               if (Visit* const visit = Find(session, id)) {
                 visit->attempt.call->ReadNow();
               }
             });
}

void Load::OnTokens(Visit* visit, const int32_t* ids, int count, int64_t now) {
  if (count == 0) return;
  Attempt& attempt = visit->attempt;
  if (attempt.events == 0) {
    attempt.first_token_at = now;
    attempt.first_event_tokens = count;
    if (phase_ == Phase::kMeasure) {
      results_.input_tokens +=
          workload_.is_text()
              ? attempt.call->accepted_input_tokens()
              : visit->plan.input_tokens + visit->history.size();
    }
  } else {
    attempt.gaps.push_back(
        {static_cast<float>(Seconds(now - attempt.last_token_at)),
         background_.is_running()});
  }
  attempt.last_token_at = now;
  attempt.output_tokens += count;
  ++attempt.events;
  for (int i = 0; i < count; ++i) {
    attempt.digest = DigestToken(attempt.digest, ids[i]);
  }
  if (options_.mode == Mode::kHistory) {
    attempt.output.insert(attempt.output.end(), ids, ids + count);
  }
  all_tokens_ += count;
  if (phase_ == Phase::kMeasure) {
    results_.output_tokens += count;
    ++results_.token_events;
  }
  if (visit->plan.cancelled && !options_.cancel_within.has_value() &&
      !attempt.cancel_sent &&
      attempt.output_tokens >= visit->plan.cancel_after_tokens) {
    Cancel(visit);
  }
}

Outcome Load::Judge(const Visit& visit, const CallEnd& end,
                    const CallError& error) const {
  if (end.status.ok()) return Outcome::kOk;
  switch (error.code) {
    case absl::StatusCode::kCancelled:
      if (visit.attempt.cancel_sent) return Outcome::kCancelled;
      return visit.attempt.cut_off ? Outcome::kUnfinished : Outcome::kFailed;
    case absl::StatusCode::kDeadlineExceeded:
      return Outcome::kDeadlineExceeded;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return error.reason.empty() || visit.attempt.events > 0 ||
                     error.reason == "SLOW_CONSUMER" ||
                     error.reason == "ANSWER_TOO_LARGE"
                 ? Outcome::kFailed
                 : Outcome::kRefused;
    default:
      return Outcome::kFailed;
  }
}

void Load::OnEnd(Visit* visit, const CallEnd& end) {
  const int64_t now = NowNanos();
  const CallError error =
      end.status.ok() ? CallError() : DecodeError(FromGrpcStatus(end.status));
  const Outcome outcome = Judge(*visit, end, error);
  if (outcome == Outcome::kRefused) {
    if (visit->turn_in_window) {
      results_.AddRefusal(Seconds(now - visit->attempt.sent_at),
                          error.retry_after.has_value(),
                          visit->attempt.call->accepted());
    }
    if (Retry(visit, error, now)) return;
  }
  visit->attempt.call.reset();
  Record(visit, end, outcome, error, now);
  GoOn(visit, outcome == Outcome::kOk, now);
}

bool Load::Retry(Visit* visit, const CallError& error, int64_t now) {
  if (visit->num_retries >= options_.retry || phase_ == Phase::kDrain) {
    return false;
  }
  ++visit->num_retries;
  visit->waits_to_retry = true;
  if (visit->turn_in_window) ++results_.retries;
  visit->attempt.call.reset();
  const absl::Duration wait = error.retry_after.value_or(options_.backoff) *
                              (1.0 + 0.1 * visit->plan.retry_jitter);
  // Only the end of the window comes between, and that ends the visit.
  timers_.At(now + Nanos(wait), [this, session = visit->session] {
    const auto found = visits_.find(session);
    if (found != visits_.end()) SendAttempt(found->second.get());
  });
  return true;
}

void Load::Record(Visit* visit, const CallEnd& end, Outcome outcome,
                  const CallError& error, int64_t now) {
  Attempt& attempt = visit->attempt;
  RequestRecord record;
  record.outcome = outcome;
  record.in_window = visit->turn_in_window;
  record.ended_in_window = phase_ == Phase::kMeasure;
  record.slow_reader = visit->plan.slow_reader;
  if (attempt.events > 0 && !options_.unary) {
    record.ttft = Seconds(attempt.first_token_at - visit->due_at);
  }
  record.last_token = Seconds(attempt.last_token_at - visit->due_at);
  record.e2e = Seconds(now - visit->due_at);
  record.output_tokens = attempt.output_tokens;
  record.first_event_tokens = attempt.first_event_tokens;
  record.gaps = &attempt.gaps;
  record.queue_seconds = end.timing.queue_seconds();
  record.prefill_seconds = end.timing.prefill_seconds();
  record.decode_seconds = end.timing.decode_seconds();
  record.tokens_digest = Random::For(attempt.digest, visit->session,
                                     visit->turn, attempt.output_tokens)
                             .Next();
  if (outcome == Outcome::kUnfinished) {
    record.code = "UNFINISHED";
  } else if (outcome != Outcome::kOk) {
    record.code = absl::StatusCodeToString(error.code);
    record.reason = error.reason;
  }
  results_.AddRequest(record);
  if (visit->turn_in_window) ++requests_ended_;
  if (phase_ == Phase::kWarmup) ++warmup_ended_;
}

void Load::GoOn(Visit* visit, bool ok, int64_t now) {
  if (ok) visit->has_turns = true;
  if (ok && options_.mode == Mode::kHistory) {
    visit->history.insert(visit->history.end(), visit->input.begin(),
                          visit->input.end());
    visit->history.insert(visit->history.end(), visit->attempt.output.begin(),
                          visit->attempt.output.end());
  }
  BeginWindowIfWarm();
  ++visit->turn;
  // A user who got an error does not hammer.
  int64_t next_at = ok ? now : now + Nanos(options_.backoff);
  const bool is_last = visit->turn >= options_.turns;
  if (!is_last) {
    next_at = std::max(
        next_at,
        now + Nanos(workload_.Plan(visit->session, visit->turn).think));
  }
  if (phase_ == Phase::kDrain) return EndVisit(visit);
  if (is_last) {
    EndVisit(visit);
    if (options_.rate.has_value()) return;
    if (next_at <= now) return StartVisit(now);
    timers_.At(next_at, [this] { StartVisit(NowNanos()); });
    return;
  }
  timers_.At(next_at, [this, session = visit->session, next_at] {
    const auto found = visits_.find(session);
    if (found == visits_.end()) return;
    if (!MaySend()) return EndVisit(found->second.get());
    BeginTurn(found->second.get(), next_at);
  });
}

void Load::EndVisit(Visit* visit) {
  if (visit->in_window) ++sessions_ended_;
  if (!visit->session_id.empty() && !options_.keep_sessions) {
    deleter_.Delete(visit->session_id);
  }
  visits_.erase(visit->session);
}

}  // namespace

Results RunLoad(const Options& options, const Workload& workload,
                const LoadHooks& hooks) {
  return Load(options, workload, hooks).Run();
}

}  // namespace ttt::bench
