// Requests from outside, checked field by field. The only place that does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  absl::Duration max_queue_wait = absl::InfiniteDuration();
  int32_t max_top_logprobs = 0;
  bool has_tokenizer = false;
  // Tokens and candidates that one answer may hold, which take up to some 80
  // bytes each until it has left.
  int64_t max_answer_candidates = int64_t{4} << 20;
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

// INVALID_ARGUMENT (TOO_MANY_INPUT_TOKENS). `unit` is the message's word.
absl::Status CheckInputTokens(int64_t num_tokens, const RequestLimits& limits,
                              absl::string_view unit = "tokens");
// The ids of `text`, see Tokenizer::Encode. INVALID_ARGUMENT: not UTF-8, or
// TOO_MANY_INPUT_TOKENS, which is told before all is read. Asks `go_on` now and
// then, and ends with its error.
absl::StatusOr<std::vector<int32_t>> EncodeText(
    absl::string_view text, bool at_start, const Tokenizer& tokenizer,
    const RequestLimits& limits, absl::FunctionRef<absl::Status()> go_on);
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
