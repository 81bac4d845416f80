#include "server/rpc/validate_request.h"

#include <google/protobuf/duration.pb.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"
#include "server/rpc/status.h"

namespace ttt {
namespace {

constexpr size_t kMaxIdBytes = 128;
constexpr int kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr int kMaxLogitBias = 1024;
constexpr float kMaxPenalty = 100.0f;
// A thousand years; the time of expiry must be a google.protobuf.Timestamp.
constexpr int64_t kMaxTtlSeconds = 31557600000;

absl::Status CheckRequestId(absl::string_view id) {
  if (id.size() <= kMaxIdBytes) return absl::OkStatus();
  return InvalidField("request_id",
                      absl::StrCat("is ", id.size(), " bytes, at most ",
                                   kMaxIdBytes, " are allowed"));
}

absl::Status CheckFloat(absl::string_view field, float value, bool in_range,
                        absl::string_view rule) {
  if (std::isfinite(value) && in_range) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", value, ", must be ", rule));
}

absl::Status CheckTokenId(absl::string_view field, int64_t id,
                          const RequestLimits& limits) {
  if (id >= 0 && id < limits.vocab_size) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", id, ", must be in [0, ",
                                          limits.vocab_size, ")"));
}

absl::Status TakeLogitBias(const v1::Sampling& message,
                           const RequestLimits& limits,
                           SamplingParams* params) {
  if (message.logit_bias_size() > kMaxLogitBias) {
    return InvalidField(
        "sampling.logit_bias",
        absl::StrCat("has ", message.logit_bias_size(), " entries, at most ",
                     kMaxLogitBias, " are allowed"));
  }
  params->logit_bias.assign(message.logit_bias().begin(),
                            message.logit_bias().end());
  std::sort(params->logit_bias.begin(), params->logit_bias.end());
  for (const auto& [id, bias] : params->logit_bias) {
    if (id < 0 || id >= limits.vocab_size) {
      return InvalidField(
          "sampling.logit_bias",
          absl::StrCat("has token id ", id, ", ids must be in [0, ",
                       limits.vocab_size, ")"));
    }
    TTT_RETURN_IF_ERROR(
        CheckFloat(absl::StrCat("sampling.logit_bias[", id, "]"), bias,
                   std::abs(bias) <= kMaxPenalty, "in [-100, 100]"));
  }
  return absl::OkStatus();
}

absl::Status TakePenalties(const v1::Sampling& message,
                           SamplingParams* params) {
  if (message.has_repetition_penalty()) {
    params->repetition_penalty = message.repetition_penalty();
    TTT_RETURN_IF_ERROR(
        CheckFloat("sampling.repetition_penalty", params->repetition_penalty,
                   params->repetition_penalty > 0.0f, "finite and above 0"));
  }
  params->presence_penalty = message.presence_penalty();
  TTT_RETURN_IF_ERROR(CheckFloat(
      "sampling.presence_penalty", params->presence_penalty,
      std::abs(params->presence_penalty) <= kMaxPenalty, "in [-100, 100]"));
  params->frequency_penalty = message.frequency_penalty();
  return CheckFloat("sampling.frequency_penalty", params->frequency_penalty,
                    std::abs(params->frequency_penalty) <= kMaxPenalty,
                    "in [-100, 100]");
}

absl::Status TakeSampling(const v1::Sampling& message,
                          const RequestLimits& limits, Request* request) {
  SamplingParams& params = request->sampling;
  if (message.has_max_tokens()) request->max_tokens = message.max_tokens();
  if (request->max_tokens < 0) {
    return InvalidField(
        "sampling.max_tokens",
        absl::StrCat("is ", request->max_tokens, ", must be at least 0"));
  }
  params.temperature = message.temperature();
  TTT_RETURN_IF_ERROR(CheckFloat("sampling.temperature", params.temperature,
                                 params.temperature >= 0.0f,
                                 "finite and at least 0"));
  params.top_k = message.top_k();
  if (params.top_k < 0) {
    return InvalidField("sampling.top_k", absl::StrCat("is ", params.top_k,
                                                       ", must be at least 0"));
  }
  if (message.has_top_p()) params.top_p = message.top_p();
  TTT_RETURN_IF_ERROR(CheckFloat("sampling.top_p", params.top_p,
                                 params.top_p > 0.0f && params.top_p <= 1.0f,
                                 "in (0, 1]"));
  params.min_p = message.min_p();
  TTT_RETURN_IF_ERROR(CheckFloat("sampling.min_p", params.min_p,
                                 params.min_p >= 0.0f && params.min_p <= 1.0f,
                                 "in [0, 1]"));
  TTT_RETURN_IF_ERROR(TakePenalties(message, &params));
  params.seed = message.seed();
  return TakeLogitBias(message, limits, &params);
}

absl::Status TakeStop(const v1::Stop& message, const RequestLimits& limits,
                      StopParams* stop) {
  if (message.strings_size() > kMaxStopStrings) {
    return InvalidField(
        "stop.strings",
        absl::StrCat("has ", message.strings_size(), " entries, at most ",
                     kMaxStopStrings, " are allowed"));
  }
  for (int i = 0; i < message.strings_size(); ++i) {
    const std::string& text = message.strings(i);
    const std::string field = absl::StrCat("stop.strings[", i, "]");
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return InvalidField(
          field, absl::StrCat("is ", text.size(), " bytes, must be 1 to ",
                              kMaxStopStringBytes));
    }
  }
  if (message.strings_size() > 0 && !limits.has_tokenizer) {
    return NoTokenizer("stop.strings");
  }
  if (message.token_ids_size() > kMaxStopTokens) {
    return InvalidField(
        "stop.token_ids",
        absl::StrCat("has ", message.token_ids_size(), " entries, at most ",
                     kMaxStopTokens, " are allowed"));
  }
  TTT_RETURN_IF_ERROR(
      ValidateTokenIds("stop.token_ids", message.token_ids(), limits));
  stop->strings.assign(message.strings().begin(), message.strings().end());
  stop->token_ids.assign(message.token_ids().begin(),
                         message.token_ids().end());
  stop->ignore_eos = message.ignore_eos();
  return absl::OkStatus();
}

template <typename Message>
absl::Status TakeInput(const Message& message, const RequestLimits& limits,
                       Request* request) {
  if (message.has_text()) {
    return limits.has_tokenizer ? absl::OkStatus() : NoTokenizer("text");
  }
  if (!message.has_token_ids()) return absl::OkStatus();
  const auto& ids = message.token_ids().ids();
  TTT_RETURN_IF_ERROR(CheckInputTokens(ids.size(), limits));
  TTT_RETURN_IF_ERROR(ValidateTokenIds("token_ids.ids", ids, limits));
  request->input_ids.assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status CheckTopLogprobs(int32_t top_logprobs,
                              const RequestLimits& limits) {
  if (top_logprobs >= 0 && top_logprobs <= limits.max_top_logprobs) {
    return absl::OkStatus();
  }
  return InvalidField("top_logprobs",
                      absl::StrCat("is ", top_logprobs, ", must be in [0, ",
                                   limits.max_top_logprobs, "]"));
}

absl::Status CheckSessionFields(const v1::CompleteRequest& message) {
  if (!message.session_id().empty()) {
    return ValidateSessionId("session_id", message.session_id());
  }
  if (message.create_session()) {
    return InvalidField("create_session", "is true, and session_id is empty");
  }
  if (message.has_expected_revision()) {
    return InvalidField("expected_revision",
                        absl::StrCat("is ", message.expected_revision(),
                                     ", and session_id is empty"));
  }
  return absl::OkStatus();
}

absl::Status TakePolicies(const v1::CompleteRequest& message,
                          Request* request) {
  if (!message.idempotency_key().empty()) {
    return UnimplementedField("idempotency_key", "is not in this version");
  }
  switch (message.on_cancel()) {
    case v1::ON_CANCEL_UNSPECIFIED:
    case v1::ON_CANCEL_ROLLBACK:
      request->on_cancel = OnCancel::kRollback;
      break;
    case v1::ON_CANCEL_COMMIT_PARTIAL:
      request->on_cancel = OnCancel::kCommitPartial;
      break;
    case v1::ON_CANCEL_CONTINUE:
      return UnimplementedField("on_cancel", "CONTINUE is not in this version");
    default:
      return InvalidField("on_cancel", absl::StrCat("is ", message.on_cancel(),
                                                    ", which is no OnCancel"));
  }
  switch (message.durability()) {
    case v1::DURABILITY_UNSPECIFIED:
    case v1::DURABILITY_MEMORY:
      return absl::OkStatus();
    case v1::DURABILITY_DISK:
      return UnimplementedField("durability", "DISK is not in this version");
    default:
      return InvalidField("durability",
                          absl::StrCat("is ", message.durability(),
                                       ", which is no Durability"));
  }
}

}  // namespace

absl::StatusOr<Request> ValidateComplete(const v1::CompleteRequest& message,
                                         const RequestLimits& limits) {
  Request request;
  request.kind = RequestKind::kComplete;
  TTT_RETURN_IF_ERROR(CheckRequestId(message.request_id()));
  TTT_RETURN_IF_ERROR(CheckSessionFields(message));
  TTT_RETURN_IF_ERROR(TakePolicies(message, &request));
  TTT_RETURN_IF_ERROR(TakeSampling(message.sampling(), limits, &request));
  TTT_RETURN_IF_ERROR(TakeStop(message.stop(), limits, &request.stop));
  if (message.has_top_logprobs()) {
    TTT_RETURN_IF_ERROR(CheckTopLogprobs(message.top_logprobs(), limits));
    request.top_logprobs = message.top_logprobs();
  }
  TTT_RETURN_IF_ERROR(TakeInput(message, limits, &request));
  return request;
}

absl::StatusOr<Request> ValidateScore(const v1::ScoreRequest& message,
                                      const RequestLimits& limits) {
  Request request;
  request.kind = RequestKind::kScore;
  request.max_tokens = 0;
  TTT_RETURN_IF_ERROR(CheckRequestId(message.request_id()));
  if (!message.session_id().empty()) {
    TTT_RETURN_IF_ERROR(ValidateSessionId("session_id", message.session_id()));
  }
  TTT_RETURN_IF_ERROR(CheckTopLogprobs(message.top_logprobs(), limits));
  request.top_logprobs = message.top_logprobs();
  TTT_RETURN_IF_ERROR(TakeInput(message, limits, &request));
  return request;
}

absl::Status CheckInputTokens(int64_t num_tokens, const RequestLimits& limits,
                              absl::string_view unit) {
  if (num_tokens <= limits.max_input_tokens) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "TOO_MANY_INPUT_TOKENS",
               absl::StrCat("input: ", num_tokens, " ", unit, ", at most ",
                            limits.max_input_tokens, " are allowed"));
}

absl::StatusOr<std::vector<int32_t>> EncodeText(
    absl::string_view text, bool at_start, const Tokenizer& tokenizer,
    const RequestLimits& limits, absl::FunctionRef<absl::Status()> go_on) {
  TTT_ASSIGN_OR_RETURN(
      std::vector<int32_t> ids,
      tokenizer.EncodeWhile(
          text, at_start, [&](int64_t num_tokens) -> absl::Status {
            TTT_RETURN_IF_ERROR(
                CheckInputTokens(num_tokens, limits, "tokens and more"));
            return go_on();
          }));
  TTT_RETURN_IF_ERROR(CheckInputTokens(ids.size(), limits));
  return ids;
}

absl::Status CheckInput(const Request& request, int64_t session_tokens) {
  if (!request.input_ids.empty() || session_tokens > 0) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "EMPTY_INPUT",
               "input: is empty, and there are no tokens before it");
}

absl::Status NoTokenizer(absl::string_view field) {
  return Error(
      absl::StatusCode::kFailedPrecondition, "NO_TOKENIZER",
      absl::StrCat(field, ": the model has no tokenizer, give token_ids"));
}

absl::Status ValidateSessionId(absl::string_view field, absl::string_view id) {
  if (id.empty()) return InvalidField(field, "is empty");
  if (id.size() > kMaxIdBytes) {
    return InvalidField(
        field, absl::StrCat("is ", id.size(), " bytes, at most ", kMaxIdBytes,
                            " are allowed"));
  }
  const bool is_plain = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == ':' ||
           c == '-';
  });
  if (is_plain) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", QuoteValue(id),
                                          ", must be of [A-Za-z0-9._:-]"));
}

absl::StatusOr<absl::Duration> ValidateTtl(
    bool has_ttl, const google::protobuf::Duration& ttl) {
  if (!has_ttl) return absl::InfiniteDuration();
  const absl::Duration duration =
      absl::Seconds(ttl.seconds()) + absl::Nanoseconds(ttl.nanos());
  if (ttl.nanos() >= 0 && ttl.nanos() < 1000000000 && ttl.seconds() >= 0 &&
      ttl.seconds() <= kMaxTtlSeconds && duration > absl::ZeroDuration()) {
    return duration;
  }
  return InvalidField(
      "ttl", absl::StrCat("is ", ttl.seconds(), " s and ", ttl.nanos(),
                          " ns, must be above 0 and at most ", kMaxTtlSeconds,
                          " s, with 0 to 999999999 ns"));
}

absl::StatusOr<int32_t> ValidatePageSize(int32_t page_size) {
  if (page_size < 0 || page_size > kMaxPageSize) {
    return InvalidField(
        "page_size",
        absl::StrCat("is ", page_size, ", must be in [0, ", kMaxPageSize, "]"));
  }
  return page_size == 0 ? kDefaultPageSize : page_size;
}

absl::Status ValidateTokenIds(
    absl::string_view field,
    const google::protobuf::RepeatedField<int32_t>& ids,
    const RequestLimits& limits) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < limits.vocab_size) continue;
    return CheckTokenId(absl::StrCat(field, "[", i, "]"), ids[i], limits);
  }
  return absl::OkStatus();
}

}  // namespace ttt
