#include "server/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "server/telemetry/families.h"

namespace ttt {
namespace {

using prometheus::Counter;
using prometheus::Histogram;

// The values that a label can take, in the order of their enums. The last
// method and code stand for what is not listed, so that no label grows without
// end.
constexpr auto kMethods = std::to_array<const char*>(
    {"Complete",      "StreamComplete", "Score",         "AttachTurn",
     "CancelTurn",    "CreateSession",  "GetSession",    "ListSessions",
     "DeleteSession", "ForkSession",    "RewindSession", "ListTurns",
     "GetTurn",       "ExportSession",  "ImportSession", "Tokenize",
     "Detokenize",    "GetServerInfo",  "Drain",         "other"});
constexpr size_t kNumInferenceMethods = 3;  // the first ones
constexpr auto kCodes = std::to_array<const char*>(
    {"OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
     "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
     "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
     "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "UNKNOWN"});
constexpr auto kTokenKinds = std::to_array<const char*>(
    {"input", "reused", "generated", "replayed", "discarded"});
constexpr auto kTurnOutcomes = std::to_array<const char*>(
    {"committed", "rolled_back", "repeated", "failed"});
constexpr auto kStepKinds =
    std::to_array<const char*>({"decode", "prefill", "mixed"});

// Steps and tokens: fine, since targets lie close together.
Histogram::BucketBoundaries StepSeconds() {
  return {50e-6, 75e-6,  100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6,
          1e-3,  1.5e-3, 2e-3,   3e-3,   5e-3,   7.5e-3, 10e-3,  15e-3,
          20e-3, 30e-3,  50e-3,  75e-3,  0.1,    0.15,   0.2,    0.3,
          0.5,   1,      2,      5,      10,     30};
}

// Waits and whole calls.
Histogram::BucketBoundaries CallSeconds() {
  return {50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3,
          20e-3, 50e-3,  0.1,    0.2,    0.5,  1,    2,    5,
          10,    20,     60,     120,    300,  600};
}

// 1, `factor`, .. up to `last`.
Histogram::BucketBoundaries Powers(double factor, double last) {
  Histogram::BucketBoundaries bounds;
  for (double bound = 1; bound <= last; bound *= factor)
    bounds.push_back(bound);
  return bounds;
}

template <size_t n>
size_t IndexOrLast(const std::array<const char*, n>& names,
                   absl::string_view name) {
  const auto found = std::find(names.begin(), names.end() - 1, name);
  return static_cast<size_t>(found - names.begin());
}

// The clock may have been set back in between.
double Seconds(absl::Duration duration) {
  return std::max(0.0, absl::ToDoubleSeconds(duration));
}

Counter* AddCounter(prometheus::Registry* registry, const std::string& name,
                    const std::string& help) {
  return &prometheus::BuildCounter()
              .Name(name)
              .Help(help)
              .Register(*registry)
              .Add({});
}

// One counter for each value of a label.
template <size_t n>
std::array<Counter*, n> AddCounters(prometheus::Registry* registry,
                                    const std::string& name,
                                    const std::string& help,
                                    const std::string& label,
                                    const std::array<const char*, n>& values) {
  auto& family =
      prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
  std::array<Counter*, n> counters;
  for (size_t i = 0; i < n; ++i)
    counters[i] = &family.Add({{label, values[i]}});
  return counters;
}

prometheus::Family<Histogram>& AddHistograms(prometheus::Registry* registry,
                                             const std::string& name,
                                             const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
}

Histogram* AddHistogram(prometheus::Registry* registry, const std::string& name,
                        const std::string& help,
                        const Histogram::BucketBoundaries& bounds) {
  return &AddHistograms(registry, name, help).Add({}, bounds);
}

// Pages are read by people too.
void Sort(Families* families) {
  const auto by_name = [](const auto& a, const auto& b) {
    return a.name < b.name;
  };
  const auto by_label = [](const auto& a, const auto& b) {
    return a.label < b.label;
  };
  std::sort(families->begin(), families->end(), by_name);
  for (prometheus::MetricFamily& family : *families) {
    std::sort(family.metric.begin(), family.metric.end(), by_label);
  }
}

void Append(Families* to, Families from) {
  std::move(from.begin(), from.end(), std::back_inserter(*to));
}

}  // namespace

// Counters and histograms are made once; what is recorded goes through these
// pointers and never looks a label up in the registry.
struct Metrics::Impl {
  Impl();

  prometheus::Registry registry;
  std::array<std::array<Counter*, kCodes.size()>, kMethods.size()> requests;
  std::array<Counter*, kTokenKinds.size()> tokens;
  std::array<Counter*, kTurnOutcomes.size()> turns;
  Counter* numeric_faults;
  std::array<Histogram*, kStepKinds.size()> step_seconds;
  Histogram* queue_seconds;
  Histogram* time_to_first_token_seconds;
  Histogram* inter_token_seconds;
  Histogram* request_seconds;
  Histogram* input_tokens;
  Histogram* output_tokens;
  Histogram* batch_rows;
  Histogram* batch_tokens;
  Histogram* commit_seconds;
  const ProcessMetrics process;

  mutable Mutex mutex;
  std::function<Gauges()> gauge_source ABSL_GUARDED_BY(mutex);
  Families info ABSL_GUARDED_BY(mutex);
};

Metrics::Impl::Impl() {
  auto& family = prometheus::BuildCounter()
                     .Name("ttt_requests_total")
                     .Help("Calls that ended, by method and status.")
                     .Register(registry);
  for (size_t method = 0; method < kMethods.size(); ++method) {
    for (size_t code = 0; code < kCodes.size(); ++code) {
      requests[method][code] =
          &family.Add({{"method", kMethods[method]}, {"code", kCodes[code]}});
    }
  }
  tokens = AddCounters(&registry, "ttt_tokens_total",
                       "Tokens by what they were.", "kind", kTokenKinds);
  turns = AddCounters(&registry, "ttt_turns_total", "Turns by how they ended.",
                      "outcome", kTurnOutcomes);
  numeric_faults =
      AddCounter(&registry, "ttt_numeric_faults_total",
                 "Turns that met a logit or a state that is not finite.");
  auto& steps =
      AddHistograms(&registry, "ttt_step_seconds",
                    "Time of one step of the batch, by what was in it.");
  for (size_t kind = 0; kind < kStepKinds.size(); ++kind) {
    step_seconds[kind] =
        &steps.Add({{"kind", kStepKinds[kind]}}, StepSeconds());
  }
  queue_seconds =
      AddHistogram(&registry, "ttt_queue_seconds",
                   "Time from arrival to the first step.", CallSeconds());
  time_to_first_token_seconds = AddHistogram(
      &registry, "ttt_time_to_first_token_seconds",
      "Time from arrival to the first generated token.", CallSeconds());
  inter_token_seconds =
      AddHistogram(&registry, "ttt_inter_token_seconds",
                   "Time between generated tokens of a turn.", StepSeconds());
  request_seconds = AddHistogram(
      &registry, "ttt_request_seconds",
      "Time of whole Complete, StreamComplete and Score calls.", CallSeconds());
  input_tokens =
      AddHistogram(&registry, "ttt_input_tokens", "Tokens that a call brought.",
                   Powers(4, 1 << 20));
  output_tokens =
      AddHistogram(&registry, "ttt_output_tokens",
                   "Tokens that a call generated.", Powers(4, 1 << 20));
  batch_rows = AddHistogram(&registry, "ttt_batch_rows", "Turns in a step.",
                            Powers(2, 1 << 10));
  batch_tokens = AddHistogram(&registry, "ttt_batch_tokens",
                              "Tokens that a step read.", Powers(2, 1 << 16));
  commit_seconds = AddHistogram(&registry, "ttt_commit_seconds",
                                "Time of the commit of a turn.", StepSeconds());
}

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}

Metrics::~Metrics() = default;

void Metrics::SetGaugeSource(std::function<Gauges()> source) {
  MutexLock lock(impl_->mutex);
  impl_->gauge_source.swap(source);
}

void Metrics::SetInfo(absl::string_view version, absl::string_view device,
                      absl::string_view model_fingerprint) {
  Families info = {
      Info(
          "ttt_build_info", "Always 1; the labels tell of the build.",
          {{"device", std::string(device)}, {"version", std::string(version)}}),
      Info("ttt_model_info", "Always 1; the labels tell of the model.",
           {{"fingerprint", std::string(model_fingerprint)}})};
  MutexLock lock(impl_->mutex);
  impl_->info.swap(info);
}

void Metrics::RecordRequest(absl::string_view method, absl::string_view code,
                            absl::Duration total) {
  const size_t index = IndexOrLast(kMethods, method);
  impl_->requests[index][IndexOrLast(kCodes, code)]->Increment();
  if (index < kNumInferenceMethods)
    impl_->request_seconds->Observe(Seconds(total));
}

void Metrics::RecordLengths(int64_t input_tokens, int64_t output_tokens) {
  impl_->input_tokens->Observe(static_cast<double>(input_tokens));
  impl_->output_tokens->Observe(static_cast<double>(output_tokens));
}

void Metrics::RecordQueue(absl::Duration queued) {
  impl_->queue_seconds->Observe(Seconds(queued));
}

void Metrics::RecordFirstToken(absl::Duration since_arrival) {
  impl_->time_to_first_token_seconds->Observe(Seconds(since_arrival));
}

void Metrics::RecordInterToken(absl::Duration since_last_token) {
  impl_->inter_token_seconds->Observe(Seconds(since_last_token));
}

void Metrics::RecordStep(StepKind kind, absl::Duration took, int64_t rows,
                         int64_t tokens) {
  impl_->step_seconds[static_cast<size_t>(kind)]->Observe(Seconds(took));
  impl_->batch_rows->Observe(static_cast<double>(rows));
  impl_->batch_tokens->Observe(static_cast<double>(tokens));
}

void Metrics::RecordTokens(TokenKind kind, int64_t count) {
  impl_->tokens[static_cast<size_t>(kind)]->Increment(
      static_cast<double>(count));
}

void Metrics::RecordTurn(TurnOutcome outcome) {
  impl_->turns[static_cast<size_t>(outcome)]->Increment();
}

void Metrics::RecordCommit(absl::Duration took) {
  impl_->commit_seconds->Observe(Seconds(took));
}

void Metrics::RecordNumericFault() { impl_->numeric_faults->Increment(); }

std::string Metrics::Scrape() const {
  std::function<Gauges()> source;
  Families families = impl_->registry.Collect();
  {
    MutexLock lock(impl_->mutex);
    source = impl_->gauge_source;
    families.insert(families.end(), impl_->info.begin(), impl_->info.end());
  }
  Gauges starting;
  starting.state = "starting";
  Append(&families, GaugeFamilies(source ? source() : starting));
  Append(&families, impl_->process.Collect());
  Sort(&families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace ttt
