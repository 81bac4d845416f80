#include "client/bench/report.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/text.h"

namespace ttt::bench {
namespace {

double PerSecond(double count, const Results& results) {
  return results.window_seconds > 0 ? count / results.window_seconds : 0;
}

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

// The measured times in the order of both reports.
std::vector<std::pair<std::string, const Samples*>> Times(
    const Options& options, const Results& results) {
  const Distributions& times = results.times;
  std::vector<std::pair<std::string, const Samples*>> named = {
      {"ttft", &times.ttft},     {"itl", &times.itl},
      {"tpot", &times.tpot},     {"e2e", &times.e2e},
      {"queue", &times.queue},   {"prefill", &times.prefill},
      {"decode", &times.decode}, {"send_lag", &times.send_lag}};
  if (options.background_prompt_tokens > 0) {
    named.emplace_back("itl_beside_background", &times.itl_beside_background);
    named.emplace_back("itl_without_background", &times.itl_without_background);
  }
  return named;
}

Json SummaryToJson(const Samples& samples) {
  const Summary summary = samples.Summarize();
  const auto value = [](double seconds) {
    return FloatToJson(static_cast<float>(seconds));
  };
  return {{"count", summary.count},    {"mean", value(summary.mean)},
          {"p50", value(summary.p50)}, {"p90", value(summary.p90)},
          {"p95", value(summary.p95)}, {"p99", value(summary.p99)},
          {"max", value(summary.max)}, {"exact", summary.exact}};
}

Json RequestsToJson(const Results& results) {
  return {{"sent", results.sent()},
          {"ok", results.count(Outcome::kOk)},
          {"refused", results.count(Outcome::kRefused)},
          {"cancelled", results.count(Outcome::kCancelled)},
          {"deadline_exceeded", results.count(Outcome::kDeadlineExceeded)},
          {"failed", results.count(Outcome::kFailed)},
          {"unfinished", results.count(Outcome::kUnfinished)},
          {"slow_readers", results.slow_readers()},
          {"retries", results.retries},
          {"dropped_by_client", results.dropped}};
}

Json GoodputToJson(const Results& results) {
  const auto seconds = [](const std::optional<absl::Duration>& time) -> Json {
    if (!time.has_value()) return nullptr;
    return absl::ToDoubleSeconds(*time);
  };
  const Slo& slo = results.slo();
  return {{"slo_ttft_seconds", seconds(slo.ttft)},
          {"slo_tpot_seconds", seconds(slo.tpot)},
          {"slo_itl_p99_seconds", seconds(slo.itl)},
          {"slo_e2e_seconds", seconds(slo.e2e)},
          {"judged", results.judged()},
          {"good", results.good()},
          {"share", Share(results.good(), results.judged())},
          {"requests_per_second", PerSecond(results.good_in_window(), results)},
          {"output_tokens_per_second",
           PerSecond(results.good_tokens_in_window(), results)}};
}

Json BackgroundToJson(const Results& results) {
  const BackgroundResults& background = results.background;
  return {{"sent", background.sent},
          {"ok", background.ok},
          {"failed", background.failed},
          {"unfinished", background.unfinished},
          {"input_tokens", background.input_tokens},
          {"e2e_seconds", SummaryToJson(background.e2e)},
          {"prefill_seconds", SummaryToJson(background.prefill)}};
}

Json ClientToJson(const Results& results) {
  const ClientCost& cost = results.client;
  return {{"cpu_seconds", cost.cpu_seconds},
          {"cpu_share_of_one_core",
           Share(cost.cpu_seconds, results.window_seconds)},
          {"cpu_microseconds_per_output_token",
           Share(cost.cpu_seconds * 1e6, results.output_tokens)},
          {"context_switches", cost.context_switches},
          {"max_resident_bytes", cost.max_resident_bytes}};
}

std::string Milliseconds(double seconds) {
  const double ms = seconds * 1e3;
  const int decimals = ms < 10 ? 3 : ms < 1000 ? 2 : 0;
  return absl::StrFormat("%.*f", decimals, ms);
}

void AppendRow(const std::string& name, const Samples& samples,
               std::string* text) {
  if (samples.count() == 0) return;
  const Summary s = samples.Summarize();
  absl::StrAppendFormat(
      text, "%-24s%10s%10s%10s%10s%10s%10s%11s\n", name, Milliseconds(s.mean),
      Milliseconds(s.p50), Milliseconds(s.p90), Milliseconds(s.p95),
      Milliseconds(s.p99), Milliseconds(s.max), HumanCount(s.count));
}

std::string LoadLine(const Options& options) {
  std::string load =
      options.rate.has_value()
          ? absl::StrCat(*options.rate, " sessions/s arrive (Poisson, at most ",
                         options.max_outstanding, " unfinished)")
          : absl::StrCat(options.concurrency, " users (closed loop)");
  absl::StrAppend(&load, "; ", options.turns,
                  options.turns == 1 ? " turn, " : " turns, ",
                  ModeName(options.mode), options.unary ? ", unary" : "",
                  "; input ", options.input_tokens_text, ", output ",
                  options.output_tokens_text, " tokens; seed ", options.seed);
  return load;
}

void AppendErrors(const Results& results, std::string* text) {
  for (const auto& [error, count] : results.errors()) {
    absl::StrAppend(text, "  ", error.first, error.second.empty() ? "" : " ",
                    error.second, ": ", HumanCount(count), "\n");
  }
}

void AppendGoodput(const Results& results, std::string* text) {
  if (!results.slo().any()) return;
  absl::StrAppendFormat(
      text,
      "goodput    %s requests/s, %s output tokens/s; %s of %s good (%.1f %%)\n",
      HumanRate(PerSecond(results.good_in_window(), results)),
      HumanRate(PerSecond(results.good_tokens_in_window(), results)),
      HumanCount(results.good()), HumanCount(results.judged()),
      100 * Share(results.good(), results.judged()));
}

void AppendBackground(const Options& options, const Results& results,
                      std::string* text) {
  const BackgroundResults& background = results.background;
  if (options.background_prompt_tokens == 0) return;
  const Summary e2e = background.e2e.Summarize();
  absl::StrAppend(
      text, "background ", background.ok, " of ", background.sent,
      " prompts of ", HumanCount(options.background_prompt_tokens),
      " tokens read",
      e2e.count > 0
          ? absl::StrCat(", mean ", HumanDuration(absl::Seconds(e2e.mean)))
          : "",
      "; ", background.failed, " failed, ", background.unfinished,
      " cut off at the end\n");
}

}  // namespace

const char kJsonHelp[] =
    "What is measured: counts and times are of the requests sent in the "
    "window\n(after the warm-up, up to the end), followed to their end; rates "
    "are of what\narrived or ended in the window. Times count from when a "
    "request was due: sent\nin a closed loop, its arrival in an open one. "
    "Percentiles are by nearest rank\nover all samples (beyond 4,194,304 over "
    "a uniform choice of that many).\n"
    "  ttft      to the first event with tokens\n"
    "  itl       between two events with tokens; several tokens in one event "
    "are one\n            gap (tokens.per_event tells how many there are)\n"
    "  tpot      of a request: from its first event with tokens to the last, "
    "divided\n            by the tokens after the first event\n"
    "  e2e       to the end of the call\n"
    "  queue, prefill, decode  what the server says of an ok request\n"
    "  send_lag  open loop: how late the client itself was\n"
    "ttft, itl, tpot and e2e are of requests that were ok and not read slowly. "
    "Refused:\nRESOURCE_EXHAUSTED or UNAVAILABLE with the server's reason, "
    "before any token;\nits latency is that of one attempt, from sending it; "
    "'late' were accepted first.\nGood: ok and within every --slo; judged are "
    "all but cancelled ones and slow\nreaders. tokens_digest is the same for "
    "the same tokens of the same turns.\n\n"
    "Names in --json (seconds unless they say otherwise):\n"
    "  options.*, server.{version,device,precision,model_fingerprint,\n"
    "    numerics_fingerprint,model.*,limits.*}, window_seconds, interrupted\n"
    "  requests.{sent,ok,refused,cancelled,deadline_exceeded,failed,"
    "unfinished,\n    slow_readers,retries,dropped_by_client}\n"
    "    sent = ok + refused + cancelled + deadline_exceeded + failed + "
    "unfinished\n"
    "  errors[].{code,reason,count}\n"
    "  rates.{requests_per_second,output_tokens_per_second,"
    "input_tokens_per_second}\n"
    "  tokens.{output,input,events,per_event,tokens_digest}\n"
    "  times.{ttft,itl,tpot,e2e,queue,prefill,decode,send_lag,\n"
    "    itl_beside_background,itl_without_background}."
    "{count,mean,p50,p90,p95,p99,\n    max,exact}\n"
    "  refusals.{attempts,with_retry_hint,late,latency.*,late_latency.*}\n"
    "  goodput.{slo_*,judged,good,share,requests_per_second,\n"
    "    output_tokens_per_second}\n"
    "  background.{sent,ok,failed,unfinished,input_tokens,e2e_seconds.*,\n"
    "    prefill_seconds.*}; null without --background-prompt-tokens\n"
    "  sessions.{started,deleted,left}\n"
    "  client.{cpu_seconds,cpu_share_of_one_core,"
    "cpu_microseconds_per_output_token,\n    context_switches,"
    "max_resident_bytes}";

Json ReportToJson(const Options& options, const v1::ServerInfo& info,
                  const Results& results) {
  Json server = ServerInfoToJson(info);
  for (const char* const passing : {"state", "uptime_seconds", "load"}) {
    server.erase(passing);
  }
  Json errors = Json::array();
  for (const auto& [error, count] : results.errors()) {
    errors.push_back(
        {{"code", error.first}, {"reason", error.second}, {"count", count}});
  }
  Json times;
  for (const auto& [name, samples] : Times(options, results)) {
    times[name] = SummaryToJson(*samples);
  }
  return {
      {"options", OptionsToJson(options)},
      {"server", std::move(server)},
      {"window_seconds", results.window_seconds},
      {"interrupted", results.interrupted},
      {"requests", RequestsToJson(results)},
      {"errors", std::move(errors)},
      {"rates",
       {{"requests_per_second", PerSecond(results.ended_in_window(), results)},
        {"output_tokens_per_second", PerSecond(results.output_tokens, results)},
        {"input_tokens_per_second", PerSecond(results.input_tokens, results)}}},
      {"tokens",
       {{"output", results.output_tokens},
        {"input", results.input_tokens},
        {"events", results.token_events},
        {"per_event", Share(results.output_tokens, results.token_events)},
        {"tokens_digest", absl::StrFormat("%016x", results.tokens_digest())}}},
      {"times", std::move(times)},
      {"refusals",
       {{"attempts", results.refusals()},
        {"with_retry_hint", results.refusals_with_hint()},
        {"late", results.late_refusals()},
        {"latency", SummaryToJson(results.refusal_times())},
        {"late_latency", SummaryToJson(results.late_refusal_times())}}},
      {"goodput", GoodputToJson(results)},
      {"background", options.background_prompt_tokens > 0
                         ? BackgroundToJson(results)
                         : Json(nullptr)},
      {"sessions",
       {{"started", results.sessions_started},
        {"deleted", results.sessions_deleted},
        {"left", results.sessions_left}}},
      {"client", ClientToJson(results)}};
}

std::string ReportText(const Options& options, const v1::ServerInfo& info,
                       const Results& results) {
  std::string text =
      absl::StrCat("server     tttd ", info.version(), ", ",
                   info.model().name(), ", ", info.device(), ", ",
                   info.precision(), "\nload       ", LoadLine(options), "\n");
  absl::StrAppendFormat(&text, "window     %.2f s%s\n", results.window_seconds,
                        results.interrupted ? ", interrupted" : "");
  absl::StrAppend(&text, "requests   ", HumanCount(results.sent()),
                  " sent: ", HumanCount(results.count(Outcome::kOk)), " ok, ",
                  HumanCount(results.count(Outcome::kRefused)), " refused, ",
                  HumanCount(results.count(Outcome::kCancelled)),
                  " cancelled, ",
                  HumanCount(results.count(Outcome::kDeadlineExceeded)),
                  " out of time, ", HumanCount(results.count(Outcome::kFailed)),
                  " failed, ", HumanCount(results.count(Outcome::kUnfinished)),
                  " unfinished; ", HumanCount(results.retries), " retries, ",
                  HumanCount(results.dropped), " dropped by the client\n");
  AppendErrors(results, &text);
  absl::StrAppend(&text, "rates      ",
                  HumanRate(PerSecond(results.output_tokens, results)),
                  " output tokens/s, ",
                  HumanRate(PerSecond(results.input_tokens, results)),
                  " input tokens/s, ",
                  HumanRate(PerSecond(results.ended_in_window(), results)),
                  " requests/s\n");
  AppendGoodput(results, &text);
  AppendBackground(options, results, &text);
  absl::StrAppendFormat(
      &text,
      "client     %.2f s of CPU, %.0f %% of a core, %.1f us a token; %.2f "
      "tokens an event\n",
      results.client.cpu_seconds,
      100 * Share(results.client.cpu_seconds, results.window_seconds),
      Share(results.client.cpu_seconds * 1e6, results.output_tokens),
      Share(results.output_tokens, results.token_events));
  absl::StrAppendFormat(&text, "\n%-24s%10s%10s%10s%10s%10s%10s%11s\n", "ms",
                        "mean", "p50", "p90", "p95", "p99", "max", "samples");
  for (const auto& [name, samples] : Times(options, results)) {
    AppendRow(name, *samples, &text);
  }
  AppendRow("refusal", results.refusal_times(), &text);
  AppendRow("late refusal", results.late_refusal_times(), &text);
  if (results.refusals() > 0) {
    absl::StrAppend(&text, HumanCount(results.refusals_with_hint()), " of ",
                    HumanCount(results.refusals()),
                    " refusals said when to try again\n");
  }
  if (results.sessions_left > 0) {
    absl::StrAppend(&text, HumanCount(results.sessions_left),
                    " sessions could not be deleted\n");
  }
  return text;
}

}  // namespace ttt::bench
