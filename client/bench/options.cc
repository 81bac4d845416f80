#include "client/bench/options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/command.h"

namespace ttt::bench {
namespace {

constexpr int64_t kMaxTokens = 1 << 30;
// Of one connection to a tttd; what is over it waits unseen in the library.
constexpr int32_t kCallsPerChannel = 1000;
constexpr int32_t kMaxChannels = 256;

absl::Status LengthError() {
  return absl::InvalidArgumentError(
      "a number of tokens, such as 64, 16:256 or lognormal:64:0.8:1024");
}

std::optional<absl::Duration> IfGiven(absl::Duration duration) {
  if (duration == absl::ZeroDuration()) return std::nullopt;
  return duration;
}

absl::Status CheckFraction(absl::string_view name, std::optional<float> given,
                           double* fraction) {
  if (!given.has_value()) return absl::OkStatus();
  if (*given < 0 || *given > 1) {
    return UsageError(
        absl::StrCat("--", name, ": '", *given, "' is not from 0 to 1"));
  }
  *fraction = *given;
  return absl::OkStatus();
}

absl::Status CheckLength(absl::string_view name, const std::string& text,
                         int64_t min, Length* length) {
  const absl::StatusOr<Length> parsed = Length::Parse(text, min);
  if (!parsed.ok()) {
    return UsageError(absl::StrCat("--", name, ": '", text, "' is not ",
                                   parsed.status().message()));
  }
  *length = *parsed;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Length> Length::Parse(absl::string_view text, int64_t min) {
  Length length;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() == 4 && parts[0] == "lognormal") {
    if (!absl::SimpleAtod(parts[1], &length.median_) ||
        !absl::SimpleAtod(parts[2], &length.sigma_) ||
        !absl::SimpleAtoi(parts[3], &length.max_) ||
        !(length.median_ >= 1 && length.median_ <= kMaxTokens) ||
        !(length.sigma_ >= 0 && length.sigma_ <= 10)) {
      return LengthError();
    }
    length.min_ = 1;
  } else if (parts.size() == 2) {
    if (!absl::SimpleAtoi(parts[0], &length.min_) ||
        !absl::SimpleAtoi(parts[1], &length.max_)) {
      return LengthError();
    }
  } else {
    if (parts.size() != 1 || !absl::SimpleAtoi(text, &length.min_)) {
      return LengthError();
    }
    length.max_ = length.min_;
  }
  if (length.min_ < min || length.max_ > kMaxTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("from ", min, " to ", kMaxTokens));
  }
  if (length.max_ < length.min_) {
    return absl::InvalidArgumentError("a range: its end is before its begin");
  }
  return length;
}

int64_t Length::Draw(Random* random) const {
  if (median_ == 0) return random->Between(min_, max_);
  const double drawn = median_ * std::exp(sigma_ * random->Normal());
  return std::clamp(std::llround(std::min(drawn, 2.0 * kMaxTokens)),
                    static_cast<long long>(min_), static_cast<long long>(max_));
}

void Flags::AddTo(FlagSet* flags) {
  flags->Int32("concurrency", &concurrency_, "N",
               "closed loop: N users, each sends when its last turn has ended\n"
               "(default 8)",
               1, 100000);
  flags->Float("rate", &rate_, "R",
               "open loop instead: R sessions a second arrive (Poisson), and\n"
               "never wait for others; with --turns=1 a session is a request");
  flags->Int32("max-outstanding", &max_outstanding_, "N",
               "open loop: an arrival beyond N unfinished sessions is dropped\n"
               "and counted (default 1024)",
               1, 100000);
  flags->Duration("duration", &duration_, "TIME",
                  "measure for TIME (default 20s, or no limit with --requests\n"
                  "or --sessions)");
  flags->Int32("requests", &requests_, "N", "measure N requests", 1);
  flags->Int32("sessions", &sessions_, "N", "measure N sessions", 1);
  flags->Duration("warmup", &warmup_, "TIME",
                  "run TIME before measuring (default: not)");
  flags->Int32("warmup-requests", &warmup_requests_, "N",
               "and until N requests have ended (default 0)");
  flags->Duration("drain", &drain_, "TIME",
                  "what still runs TIME after the end is cancelled\n"
                  "(default 30s)");
  flags->Choice("mode", &mode_, {"stateful", "history", "stateless"},
                "turns in a session; or all earlier tokens sent again; or "
                "each\nturn alone (default stateful; with --turns=1 "
                "stateless)");
  flags->Int32("turns", &turns_, "N", "turns of a session (default 1)", 1,
               1000000);
  flags->Duration("think", &think_, "TIME",
                  "between the turns of a session (default: none)");
  flags->Choice("think-distribution", &think_distribution_,
                {"constant", "exponential"}, "of --think (default constant)");
  flags->String("input-tokens", &input_tokens_, "LENGTH",
                "new tokens of a turn, drawn from the vocabulary: 64, uniform\n"
                "16:256, or lognormal:MEDIAN:SIGMA:MAX (default 64)");
  flags->String("output-tokens", &output_tokens_, "LENGTH",
                "tokens to generate in a turn (default 64)");
  flags->String("text-file", &text_file_, "FILE",
                "send pieces of this text, of about that many tokens");
  flags->Switch("ignore-eos", &ignore_eos_,
                "generate all tokens asked for (default; --no-ignore-eos)");
  flags->Float("temperature", &temperature_, "T", "(default 0: greedy)");
  flags->Switch("unary", &unary_, "Complete instead of StreamComplete");
  flags->Float("cancel-fraction", &cancel_fraction_, "F",
               "cancel this share of the requests, after a random number of\n"
               "the tokens");
  flags->Duration("cancel-within", &cancel_within_, "TIME",
                  "and those at a random moment within TIME instead");
  flags->Float("slow-reader-fraction", &slow_reader_fraction_, "F",
               "read this share of the streams slowly; their times are not\n"
               "in the percentiles");
  flags->Duration("slow-reader-delay", &slow_reader_delay_, "TIME",
                  "wait TIME before each event (default 100ms)");
  flags->Int32("retry", &retry_, "N",
               "after a refusal try up to N times more, as late as the server\n"
               "says and up to a tenth later (default 0)",
               0, 1000);
  flags->Duration("backoff", &backoff_, "TIME",
                  "what a user waits after a turn that failed, and a retry\n"
                  "without the server's word (default 100ms)");
  flags->Int32("background-prompt-tokens", &background_prompt_tokens_, "N",
               "beside the users, read prompts of N tokens one after another;\n"
               "reported apart",
               1);
  flags->Int32("background-prompts", &background_prompts_, "N",
               "that many (default: until the end)", 1);
  flags->Duration("slo-ttft", &slo_ttft_, "TIME",
                  "goodput: first token within TIME");
  flags->Duration("slo-tpot", &slo_tpot_, "TIME",
                  "goodput: a request's mean time a token");
  flags->Duration("slo-itl", &slo_itl_, "TIME",
                  "goodput: p99 of the gaps within a request");
  flags->Duration("slo-e2e", &slo_e2e_, "TIME", "goodput: all within TIME");
  flags->Int32("channels", &channels_, "N",
               "connections (default: 1 a 1,000 calls)", 1, kMaxChannels);
  flags->Uint64("seed", &seed_, "N",
                "the same seed is the same workload (default 1)");
  flags->Switch("keep-sessions", &keep_sessions_,
                "do not delete the sessions that were made");
  flags->Switch("progress", &progress_,
                "a line a second on standard error, no terminal needed");
}

absl::Status Flags::CheckLoad(Options* options) const {
  if (rate_.has_value()) {
    if (concurrency_.has_value()) {
      return UsageError(absl::StrCat("--concurrency=", *concurrency_,
                                     " and --rate=", *rate_,
                                     " do not go together"));
    }
    if (*rate_ <= 0 || *rate_ > 1e6f) {
      return UsageError(absl::StrCat("--rate: '", *rate_,
                                     "' is not more than 0 and at most 1e6"));
    }
    options->rate = *rate_;
  } else if (max_outstanding_.has_value()) {
    return UsageError(
        absl::StrCat("--max-outstanding=", *max_outstanding_, " needs --rate"));
  }
  options->concurrency = concurrency_.value_or(options->concurrency);
  options->max_outstanding =
      max_outstanding_.value_or(options->max_outstanding);
  options->duration = IfGiven(duration_);
  options->requests = requests_;
  options->sessions = sessions_;
  if (!options->duration && !options->requests && !options->sessions) {
    options->duration = absl::Seconds(20);
  }
  options->warmup = warmup_;
  options->warmup_requests = warmup_requests_.value_or(0);
  options->drain = IfGiven(drain_).value_or(options->drain);
  const int32_t calls =
      rate_.has_value() ? options->max_outstanding : options->concurrency;
  options->channels = channels_.value_or(std::clamp(
      (calls + kCallsPerChannel - 1) / kCallsPerChannel, 1, kMaxChannels));
  return absl::OkStatus();
}

absl::Status Flags::CheckTurns(Options* options) const {
  options->turns = turns_.value_or(1);
  if (mode_ == "stateful" || (mode_.empty() && options->turns > 1)) {
    options->mode = Mode::kStateful;
  } else if (mode_ == "history") {
    options->mode = Mode::kHistory;
  }
  options->think = think_;
  options->think_exponential = think_distribution_ == "exponential";
  options->keep_sessions = keep_sessions_;
  if (keep_sessions_ && options->mode != Mode::kStateful) {
    return UsageError("--keep-sessions needs --mode=stateful");
  }
  options->input_tokens_text = input_tokens_;
  options->output_tokens_text = output_tokens_;
  absl::Status status =
      CheckLength("input-tokens", input_tokens_, 1, &options->input_tokens);
  if (status.ok()) {
    status = CheckLength("output-tokens", output_tokens_, 0,
                         &options->output_tokens);
  }
  if (!status.ok()) return status;
  options->text_file = text_file_;
  if (!text_file_.empty() && options->mode == Mode::kHistory) {
    return UsageError(absl::StrCat("--text-file=", text_file_,
                                   " and --mode=history do not go together"));
  }
  options->ignore_eos = ignore_eos_;
  options->temperature = temperature_.value_or(0);
  if (options->temperature < 0) {
    return UsageError(
        absl::StrCat("--temperature: '", *temperature_, "' is below 0"));
  }
  options->unary = unary_;
  return absl::OkStatus();
}

absl::Status Flags::CheckTrouble(Options* options) const {
  absl::Status status = CheckFraction("cancel-fraction", cancel_fraction_,
                                      &options->cancel_fraction);
  if (status.ok()) {
    status = CheckFraction("slow-reader-fraction", slow_reader_fraction_,
                           &options->slow_reader_fraction);
  }
  if (!status.ok()) return status;
  options->cancel_within = IfGiven(cancel_within_);
  if (unary_ && options->cancel_fraction > 0 && !options->cancel_within) {
    return UsageError(absl::StrCat(
        "--cancel-fraction=", *cancel_fraction_,
        " with --unary needs --cancel-within: no tokens are seen"));
  }
  if (unary_ && options->slow_reader_fraction > 0) {
    return UsageError(
        absl::StrCat("--slow-reader-fraction=", *slow_reader_fraction_,
                     " and --unary do not go together"));
  }
  options->slow_reader_delay =
      IfGiven(slow_reader_delay_).value_or(options->slow_reader_delay);
  options->retry = retry_.value_or(0);
  options->backoff = IfGiven(backoff_).value_or(options->backoff);
  options->background_prompt_tokens = background_prompt_tokens_.value_or(0);
  options->background_prompts = background_prompts_;
  if (background_prompts_ && !background_prompt_tokens_) {
    return UsageError(
        absl::StrCat("--background-prompts=", *background_prompts_,
                     " needs --background-prompt-tokens"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Options> Flags::Check(const std::string& server,
                                     absl::Duration timeout) const {
  Options options;
  options.server = server;
  options.timeout = timeout;
  options.seed = seed_.value_or(1);
  options.progress = progress_;
  absl::Status status = CheckLoad(&options);
  if (status.ok()) status = CheckTurns(&options);
  if (status.ok()) status = CheckTrouble(&options);
  if (!status.ok()) return status;
  options.slo = {.ttft = IfGiven(slo_ttft_),
                 .tpot = IfGiven(slo_tpot_),
                 .itl = IfGiven(slo_itl_),
                 .e2e = IfGiven(slo_e2e_)};
  if (unary_ && (options.slo.ttft || options.slo.tpot || options.slo.itl)) {
    return UsageError("with --unary only --slo-e2e can be judged");
  }
  return options;
}

absl::Status CheckAgainst(const v1::ServerInfo& info, const Options& options) {
  const int64_t limit = info.limits().max_input_tokens();
  if (options.input_tokens.max() > limit) {
    return UsageError(
        absl::StrCat("--input-tokens: ", options.input_tokens.max(),
                     " is over the server's limit of ", limit));
  }
  if (options.background_prompt_tokens > limit) {
    return UsageError(absl::StrCat(
        "--background-prompt-tokens: ", options.background_prompt_tokens,
        " is over the server's limit of ", limit));
  }
  if (!options.text_file.empty() && !info.model().has_tokenizer()) {
    return UsageError(absl::StrCat("--text-file=", options.text_file,
                                   ": the model has no tokenizer"));
  }
  return absl::OkStatus();
}

std::string ModeName(Mode mode) {
  switch (mode) {
    case Mode::kStateful:
      return "stateful";
    case Mode::kHistory:
      return "history";
    case Mode::kStateless:
      break;
  }
  return "stateless";
}

Json OptionsToJson(const Options& options) {
  const auto seconds = [](const std::optional<absl::Duration>& time) -> Json {
    if (!time.has_value() || *time == absl::InfiniteDuration()) return nullptr;
    return absl::ToDoubleSeconds(*time);
  };
  const auto number = [](const auto& given) -> Json {
    if (!given.has_value()) return nullptr;
    return *given;
  };
  return {{"server", options.server},
          {"seed", options.seed},
          {"loop", options.rate.has_value() ? "open" : "closed"},
          {"concurrency", options.rate.has_value() ? Json(nullptr)
                                                   : Json(options.concurrency)},
          {"rate", number(options.rate)},
          {"max_outstanding", options.rate.has_value()
                                  ? Json(options.max_outstanding)
                                  : Json(nullptr)},
          {"duration_seconds", seconds(options.duration)},
          {"requests", number(options.requests)},
          {"sessions", number(options.sessions)},
          {"warmup_seconds", seconds(options.warmup)},
          {"warmup_requests", options.warmup_requests},
          {"drain_seconds", seconds(options.drain)},
          {"mode", ModeName(options.mode)},
          {"turns", options.turns},
          {"think_seconds", seconds(options.think)},
          {"think_distribution",
           options.think_exponential ? "exponential" : "constant"},
          {"input_tokens", options.input_tokens_text},
          {"output_tokens", options.output_tokens_text},
          {"text_file", options.text_file},
          {"ignore_eos", options.ignore_eos},
          {"temperature", options.temperature},
          {"unary", options.unary},
          {"cancel_fraction", options.cancel_fraction},
          {"cancel_within_seconds", seconds(options.cancel_within)},
          {"slow_reader_fraction", options.slow_reader_fraction},
          {"slow_reader_delay_seconds", seconds(options.slow_reader_delay)},
          {"timeout_seconds", seconds(options.timeout)},
          {"retry", options.retry},
          {"backoff_seconds", seconds(options.backoff)},
          {"background_prompt_tokens", options.background_prompt_tokens},
          {"background_prompts", number(options.background_prompts)},
          {"channels", options.channels},
          {"keep_sessions", options.keep_sessions}};
}

}  // namespace ttt::bench
