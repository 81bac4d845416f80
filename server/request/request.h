// One call, as the engine sees it: checked, in token ids, free of gRPC.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/model/sampling_params.h"
#include "server/session/session_store.h"

namespace ttt {

enum class RequestKind { kComplete, kScore };
enum class OnCancel { kRollback, kCommitPartial };
enum class FinishReason { kStop, kLength, kCancelled };

struct StopParams {
  std::vector<std::string> strings;
  std::vector<int32_t> token_ids;
  bool ignore_eos = false;
};

struct Request {
  RequestKind kind = RequestKind::kComplete;
  std::string turn_id;  // made by the server, unique
  std::vector<int32_t> input_ids;
  int64_t max_tokens = 256;  // 0 only reads the input
  SamplingParams sampling;
  StopParams stop;
  // Candidates a token; no value: no log-probabilities wanted.
  std::optional<int32_t> top_logprobs;
  OnCancel on_cancel = OnCancel::kRollback;
  absl::Time deadline = absl::InfiniteFuture();
};

// A token and what was asked of it. `logprob` is unset where there is none: the
// last position of a Score call.
struct TokenPosition {
  int32_t token_id = 0;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top;
};

struct TurnUsage {
  int64_t input_tokens = 0;
  int64_t reused_tokens = 0;
  int64_t output_tokens = 0;
  int64_t session_tokens = 0;
};

struct TurnTiming {
  absl::Duration queue;
  absl::Duration prefill;
  absl::Duration decode;
};

// How a turn ended. With a status other than OK the session is as before.
struct TurnEnd {
  absl::Status status;
  FinishReason finish_reason = FinishReason::kLength;
  std::string matched_stop;
  TurnUsage usage;
  TurnTiming timing;
  // In a session: what was committed.
  std::optional<uint64_t> revision;
  StateDigest digest{};
  // Of a Score call.
  std::vector<TokenPosition> positions;
  std::optional<TokenPosition> first;
};

}  // namespace ttt
