// What a run measured. What counts for what:
//   - The window begins when the warm-up ends, and ends when nothing new is
//     sent (--duration) or the last asked for has ended (--requests,
//     --sessions).
//   - Counts and distributions are of the requests sent in the window, each
//     followed to its end, be that after the window.
//   - Rates are of what came in the window: tokens that arrived, requests that
//     ended.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/bench/options.h"
#include "client/bench/samples.h"

namespace ttt::bench {

enum class Outcome {
  kOk,
  kRefused,           // the server said why, and had made no token
  kCancelled,         // by us, as planned
  kDeadlineExceeded,  // --timeout
  kFailed,            // anything else
  kUnfinished,        // cut off at the end of the run
};

// Seconds between two events with tokens of one request.
struct Gap {
  float seconds = 0;
  bool beside_background = false;  // a background prompt was running
};

// One request, retries included. Times are seconds since it was due: sent in a
// closed loop, its arrival in an open one.
struct RequestRecord {
  Outcome outcome = Outcome::kFailed;
  bool in_window = false;  // sent there
  bool ended_in_window = false;
  bool slow_reader = false;
  std::optional<double> ttft;  // no tokens or unary: none
  double last_token = 0;
  double e2e = 0;
  int64_t output_tokens = 0;
  int64_t first_event_tokens = 0;
  int64_t events = 0;                // with tokens
  std::vector<Gap>* gaps = nullptr;  // sorted by Add; may be null
  double queue_seconds = 0;          // the server's word, if ok
  double prefill_seconds = 0;
  double decode_seconds = 0;
  uint64_t tokens_digest = 0;
  std::string code;    // unless ok: `RESOURCE_EXHAUSTED`
  std::string reason;  // `QUEUE_FULL`, or empty
};

// Seconds of a token of the request after its first event; none if there was
// but one event.
std::optional<double> TimePerOutputToken(const RequestRecord& record);
// Whether an ok request kept all that `slo` asks. `gaps` are sorted.
bool Meets(const Slo& slo, const RequestRecord& record);

struct Distributions {
  Samples ttft, itl, tpot, e2e, queue, prefill, decode, send_lag;
  // `itl`, divided by whether a background prompt was running.
  Samples itl_beside_background, itl_without_background;
};

struct BackgroundResults {
  int64_t sent = 0, ok = 0, failed = 0, unfinished = 0;
  int64_t input_tokens = 0;  // of those ok
  Samples e2e, prefill;
};

// Of the process, within the window.
struct ClientCost {
  double cpu_seconds = 0;
  int64_t context_switches = 0;
  int64_t max_resident_bytes = 0;
};

// Not thread-safe.
class Results {
 public:
  explicit Results(const Slo& slo) : slo_(slo) {}

  void AddRequest(const RequestRecord& record);
  // One answer of the server to one attempt. `late`: it had been accepted.
  void AddRefusal(double seconds, bool has_retry_hint, bool late);

  const Slo& slo() const { return slo_; }
  int64_t count(Outcome outcome) const;
  int64_t sent() const;

  // Filled in by the one who runs the load.
  double window_seconds = 0;
  bool interrupted = false;
  int64_t dropped = 0;  // arrivals beyond --max-outstanding
  int64_t retries = 0;
  int64_t output_tokens = 0;  // that arrived in the window
  int64_t token_events = 0;
  int64_t input_tokens = 0;  // of requests whose first token or end did
  int64_t sessions_started = 0, sessions_deleted = 0, sessions_left = 0;
  Distributions times;
  BackgroundResults background;
  ClientCost client;

  int64_t slow_readers() const { return slow_readers_; }
  int64_t ended_in_window() const { return ended_in_window_; }
  int64_t refusals() const { return refusals_; }
  int64_t late_refusals() const { return late_refusals_; }
  int64_t refusals_with_hint() const { return refusals_with_hint_; }
  const Samples& refusal_times() const { return refusal_times_; }
  const Samples& late_refusal_times() const { return late_refusal_times_; }
  // Of requests sent in the window: ok, read at full speed, judged good.
  int64_t good() const { return good_; }
  // Of requests that ended in the window.
  int64_t good_in_window() const { return good_in_window_; }
  int64_t good_tokens_in_window() const { return good_tokens_in_window_; }
  // Requests that can be good: neither cancelled by us nor read slowly.
  int64_t judged() const { return judged_; }
  uint64_t tokens_digest() const { return tokens_digest_; }
  // {code, reason} -> count, of requests that were not ok.
  const std::map<std::pair<std::string, std::string>, int64_t>& errors() const {
    return errors_;
  }

 private:
  void AddTimes(const RequestRecord& record);

  const Slo slo_;
  std::map<Outcome, int64_t> counts_;
  std::map<std::pair<std::string, std::string>, int64_t> errors_;
  int64_t slow_readers_ = 0, ended_in_window_ = 0;
  int64_t refusals_ = 0, late_refusals_ = 0, refusals_with_hint_ = 0;
  Samples refusal_times_, late_refusal_times_;
  int64_t good_ = 0, good_in_window_ = 0, good_tokens_in_window_ = 0;
  int64_t judged_ = 0;
  uint64_t tokens_digest_ = 0;
};

// Takes one more token into the digest of a request's tokens.
uint64_t DigestToken(uint64_t digest, int32_t token);

}  // namespace ttt::bench
