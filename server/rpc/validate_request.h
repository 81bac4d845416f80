// Requests from outside, checked field by field. The only place that does.
#pragma once

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/model/tokenizer.h"
#include "server/request/request.h"
#include "ttt/v1/inference.pb.h"
#include "ttt/v1/sessions.pb.h"

namespace ttt {

struct RequestLimits {
  int32_t vocab_size = 0;
  int64_t max_input_tokens = 0;
  int32_t max_top_logprobs = 0;
  bool has_tokenizer = false;
  // Tokens and candidates that one answer may hold, so that it stays below the
  // 2 GiB of a message.
  int64_t max_answer_candidates = int64_t{64} << 20;
};

inline constexpr int32_t kDefaultPageSize = 100;
inline constexpr int32_t kMaxPageSize = 1000;

// All that can be told without the session. Token ids are in the result; text
// is not, see AppendText. The id of the turn, its seed if unset, and the
// deadline are the caller's affair. That strings are UTF-8 is seen to by the
// parser. INVALID_ARGUMENT and UNIMPLEMENTED name the field and its value;
// FAILED_PRECONDITION (NO_TOKENIZER).
absl::StatusOr<Request> ValidateComplete(const v1::CompleteRequest& message,
                                         const RequestLimits& limits);
absl::StatusOr<Request> ValidateScore(const v1::ScoreRequest& message,
                                      const RequestLimits& limits);

// Adds the ids of `text`, which follows `session_tokens` tokens of a session.
// INVALID_ARGUMENT: not UTF-8, or TOO_MANY_INPUT_TOKENS. Ends with an error of
// `go_on`, see Tokenizer::EncodeWhile.
absl::Status AppendText(absl::string_view text, int64_t session_tokens,
                        const Tokenizer& tokenizer, const RequestLimits& limits,
                        absl::FunctionRef<absl::Status()> go_on,
                        Request* request);
// INVALID_ARGUMENT (EMPTY_INPUT): there is nothing to go on from.
absl::Status CheckInput(const Request& request, int64_t session_tokens);

// `field` names the id in messages. An empty id is refused.
absl::Status ValidateSessionId(absl::string_view field, absl::string_view id);
// Infinite if unset. INVALID_ARGUMENT.
absl::StatusOr<absl::Duration> ValidateTtl(
    bool has_ttl, const google::protobuf::Duration& ttl);
absl::StatusOr<int32_t> ValidatePageSize(int32_t page_size);

// FAILED_PRECONDITION (NO_TOKENIZER).
absl::Status NoTokenizer(absl::string_view field);
// INVALID_ARGUMENT naming the first id that is out of range.
absl::Status ValidateTokenIds(
    absl::string_view field,
    const google::protobuf::RepeatedField<int32_t>& ids,
    const RequestLimits& limits);

}  // namespace ttt
