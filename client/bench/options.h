// What a run of ttt bench does, as its flags say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/args.h"
#include "client/bench/random.h"
#include "client/json.h"
#include "ttt/v1/admin.pb.h"

namespace ttt::bench {

// How many tokens: always the same, or drawn.
class Length {
 public:
  // `64`; `16:256`, uniform with both ends; `lognormal:MEDIAN:SIGMA:MAX`, cut
  // off at MAX. INVALID_ARGUMENT: none of these, or it can be below `min`.
  static absl::StatusOr<Length> Parse(absl::string_view text, int64_t min);

  int64_t Draw(Random* random) const;
  int64_t max() const { return max_; }

 private:
  int64_t min_ = 0;
  int64_t max_ = 0;
  double median_ = 0;  // > 0: lognormal
  double sigma_ = 0;
};

// How turns of one session follow each other.
enum class Mode {
  kStateful,   // in a session: only new tokens are sent
  kHistory,    // stateless: all earlier tokens are sent again
  kStateless,  // each turn alone
};

// The times that a request must keep to be good; unset: any.
struct Slo {
  std::optional<absl::Duration> ttft;
  std::optional<absl::Duration> tpot;  // mean time a token of the request
  std::optional<absl::Duration> itl;   // p99 of the request's own gaps
  std::optional<absl::Duration> e2e;

  bool any() const {
    return ttft.has_value() || tpot.has_value() || itl.has_value() ||
           e2e.has_value();
  }
};

// Options that were checked.
struct Options {
  std::string server;
  uint64_t seed = 1;

  // Who comes: users that never leave, or arrivals.
  int32_t concurrency = 8;
  std::optional<double> rate;  // sessions a second; set: open loop
  int32_t max_outstanding = 1024;

  // When it ends, whatever comes first; and what does not count before.
  std::optional<absl::Duration> duration;
  std::optional<int64_t> requests;
  std::optional<int64_t> sessions;
  absl::Duration warmup = absl::ZeroDuration();
  int64_t warmup_requests = 0;
  absl::Duration drain = absl::Seconds(30);

  // What a session is.
  Mode mode = Mode::kStateless;
  int32_t turns = 1;
  absl::Duration think = absl::ZeroDuration();
  bool think_exponential = false;
  bool keep_sessions = false;

  // What a turn is.
  std::string input_tokens_text = "64";
  std::string output_tokens_text = "64";
  Length input_tokens;
  Length output_tokens;
  std::string text_file;
  bool ignore_eos = true;
  double temperature = 0;
  bool unary = false;

  // What goes wrong.
  double cancel_fraction = 0;
  std::optional<absl::Duration> cancel_within;
  double slow_reader_fraction = 0;
  absl::Duration slow_reader_delay = absl::Milliseconds(100);
  absl::Duration timeout = absl::InfiniteDuration();
  int32_t retry = 0;
  absl::Duration backoff = absl::Milliseconds(100);

  // Long prompts beside the users.
  int32_t background_prompt_tokens = 0;
  std::optional<int32_t> background_prompts;  // unset: until the end

  Slo slo;
  int32_t channels = 1;
  bool progress = false;
};

// The flags, and the check of what they say together.
class Flags {
 public:
  void AddTo(FlagSet* flags);
  // The errors are UsageErrors that name the value.
  absl::StatusOr<Options> Check(const std::string& server,
                                absl::Duration timeout) const;
  bool progress() const { return progress_; }

 private:
  absl::Status CheckLoad(Options* options) const;
  absl::Status CheckTurns(Options* options) const;
  absl::Status CheckTrouble(Options* options) const;

  std::optional<int32_t> concurrency_, max_outstanding_, turns_, retry_;
  std::optional<int32_t> requests_, sessions_, warmup_requests_, channels_;
  std::optional<int32_t> background_prompt_tokens_, background_prompts_;
  std::optional<float> rate_, temperature_;
  std::optional<float> cancel_fraction_, slow_reader_fraction_;
  std::optional<uint64_t> seed_;
  // Zero: not given, as no duration given is zero.
  absl::Duration duration_, warmup_, drain_, think_, cancel_within_;
  absl::Duration slow_reader_delay_, backoff_;
  absl::Duration slo_ttft_, slo_tpot_, slo_itl_, slo_e2e_;
  std::string mode_, think_distribution_ = "constant";
  std::string input_tokens_ = "64", output_tokens_ = "64", text_file_;
  bool ignore_eos_ = true, unary_ = false, keep_sessions_ = false;
  bool progress_ = false;
};

// What the server's limits leave no room for, as a UsageError.
absl::Status CheckAgainst(const v1::ServerInfo& info, const Options& options);

std::string ModeName(Mode mode);
Json OptionsToJson(const Options& options);

}  // namespace ttt::bench
