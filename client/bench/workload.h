// The requests of a run: a function of the seed and of nothing else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/bench/options.h"
#include "client/bench/random.h"
#include "ttt/v1/inference.pb.h"

namespace ttt::bench {

// One turn of one session. Slowness is no matter of the reader's will only: a
// turn that is cancelled is not read slowly.
struct TurnPlan {
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  bool cancelled = false;
  int64_t cancel_after_tokens = 0;  // 0: as soon as it is sent
  absl::Duration cancel_after;      // with --cancel-within
  bool slow_reader = false;
  absl::Duration think;     // before this turn; zero for the first
  double retry_jitter = 0;  // [0, 1)
};

class Workload {
 public:
  // `text` is --text-file's, of `bytes_per_token`; empty: token ids.
  Workload(const Options& options, const v1::ServerInfo::Model& model,
           std::string text = "", double bytes_per_token = 0);

  TurnPlan Plan(int64_t session, int32_t turn) const;
  // The new tokens of a turn; for a model of a vocabulary without end-of-text
  // and begin-of-text. None with text.
  std::vector<int32_t> InputIds(int64_t session, int32_t turn,
                                int64_t count) const;
  std::string InputText(int64_t session, int32_t turn, int64_t count) const;
  bool is_text() const { return !text_.empty(); }
  // All but the input and the session.
  void FillRequest(const TurnPlan& plan, int64_t session, int32_t turn,
                   v1::CompleteRequest* request) const;

 private:
  const Options& options_;
  const int32_t vocab_size_;
  const int32_t bos_token_id_;
  const int32_t eos_token_id_;
  const std::string text_;
  const double bytes_per_token_;
};

// Poisson arrivals: the time of each, since the first could come.
class Arrivals {
 public:
  Arrivals(uint64_t seed, double rate);
  // When the next one comes.
  double next_seconds() const { return next_; }
  void Advance();

 private:
  const double mean_gap_;
  Random random_;
  double next_ = 0;
};

}  // namespace ttt::bench
