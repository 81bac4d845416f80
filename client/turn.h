// One turn, as `complete` and `chat` run it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/args.h"
#include "client/client.h"
#include "client/json.h"

namespace ttt {

// How a turn's tokens are chosen and when it stops; unset is as in the protos,
// but the temperature is 0.8.
struct TurnFlags {
  std::optional<int32_t> max_tokens, top_k, logprobs;
  std::optional<float> temperature, top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<uint64_t> seed;
  std::map<int32_t, float> logit_bias;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_ids;
  std::string on_cancel = "rollback";
  bool greedy = false;
  bool ignore_eos = false;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT: flags that do not go together.
  absl::Status Fill(v1::CompleteRequest* request) const;
};

struct TurnResult {
  v1::CompleteResponse response;
  // Seen from here; unset without a token or a stream.
  std::optional<absl::Duration> time_to_first_token;
  absl::Duration elapsed;
};

// Streams a turn; `on_text` gets the text as it comes. `revision`, unless null,
// gets the session's revision before the turn, if the turn was accepted.
absl::StatusOr<TurnResult> StreamTurn(
    Client& client, const v1::CompleteRequest& request,
    const CallOptions& options,
    absl::FunctionRef<void(const std::string& text)> on_text,
    std::optional<uint64_t>* revision = nullptr);

// The same in one piece.
absl::StatusOr<TurnResult> UnaryTurn(Client& client,
                                     const v1::CompleteRequest& request,
                                     const CallOptions& options);

// What a cancelled turn left, once the server has ended it: `the session is as
// it was, at revision 3`. `revision` is that before the turn, `get` fetches the
// session. Empty: that cannot be known.
std::string CancelledTurnOutcome(
    uint64_t revision, absl::FunctionRef<absl::StatusOr<v1::Session>()> get);

// New tokens a second after the first; nothing if there were too few.
std::optional<double> TokensPerSecond(const v1::CompleteResponse& response);

// `64 tokens, 512 tokens/s, first after 12 ms, stopped at the limit`
std::string TurnFacts(const TurnResult& result);
// `session a: revision 3, 140 tokens, digest 0a1b2c3d4e5f`; empty without one.
std::string SessionFacts(const v1::CompleteResponse& response);
// `  1234  -0.105   1234 -0.105  7 -2.5`: id, log-probability, candidates.
std::string PositionLine(const v1::Position& position);
Json TurnToJson(const TurnResult& result);

}  // namespace ttt
