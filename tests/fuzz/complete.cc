// CompleteRequest at the door: refused, or every field within its documented
// range and in the Request as it was given.
#include <cmath>

#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {
namespace {

bool IsIn(float value, float low, float high) {
  return value >= low && value <= high;  // false for NaN
}

void CheckSampling(const v1::Sampling& message, const Request& request) {
  const SamplingParams& params = request.sampling;
  TTT_CHECK(request.max_tokens >= 0);
  TTT_CHECK(request.max_tokens ==
            (message.has_max_tokens() ? message.max_tokens() : 256));
  TTT_CHECK(params.temperature >= 0 && std::isfinite(params.temperature));
  TTT_CHECK(params.top_k >= 0);
  TTT_CHECK(params.top_p > 0 && params.top_p <= 1);
  TTT_CHECK(IsIn(params.min_p, 0, 1));
  TTT_CHECK(params.repetition_penalty > 0 &&
            std::isfinite(params.repetition_penalty));
  TTT_CHECK(IsIn(params.presence_penalty, -100, 100));
  TTT_CHECK(IsIn(params.frequency_penalty, -100, 100));
  TTT_CHECK(params.seed == message.seed());
  TTT_CHECK(params.logit_bias.size() == message.logit_bias_size());
  TTT_CHECK(params.logit_bias.size() <= 1024);
  int32_t last = -1;
  for (const auto& [id, bias] : params.logit_bias) {
    TTT_CHECK(id > last && id < kFuzzVocabSize && IsIn(bias, -100, 100));
    last = id;
  }
}

void CheckStop(const v1::Stop& message, const StopParams& stop) {
  TTT_CHECK(stop.strings.size() == message.strings_size());
  TTT_CHECK(stop.strings.size() <= 16 && stop.token_ids.size() <= 64);
  for (const std::string& text : stop.strings) {
    TTT_CHECK(!text.empty() && text.size() <= 256);
  }
  CheckIdsInRange(stop.token_ids);
  TTT_CHECK(stop.token_ids.size() == message.token_ids_size());
  TTT_CHECK(stop.ignore_eos == message.ignore_eos());
}

void CheckPolicies(const v1::CompleteRequest& message, const Request& request) {
  TTT_CHECK(message.request_id().size() <= 128);
  const bool has_session = !message.session_id().empty();
  TTT_CHECK(!has_session || IsPlainName(message.session_id()));
  TTT_CHECK(has_session || !message.create_session());
  TTT_CHECK(has_session || !message.has_expected_revision());
  TTT_CHECK(message.idempotency_key().empty());
  TTT_CHECK(message.on_cancel() >= 0 &&
            message.on_cancel() <= v1::ON_CANCEL_COMMIT_PARTIAL);
  TTT_CHECK((request.on_cancel == OnCancel::kCommitPartial) ==
            (message.on_cancel() == v1::ON_CANCEL_COMMIT_PARTIAL));
  TTT_CHECK(message.durability() == v1::DURABILITY_UNSPECIFIED ||
            message.durability() == v1::DURABILITY_MEMORY);
}

void CheckAccepted(const v1::CompleteRequest& message, const Request& request,
                   bool has_tokenizer) {
  CheckPolicies(message, request);
  CheckSampling(message.sampling(), request);
  CheckStop(message.stop(), request.stop);
  TTT_CHECK(request.top_logprobs.has_value() == message.has_top_logprobs());
  TTT_CHECK(request.top_logprobs.value_or(0) >= 0 &&
            request.top_logprobs.value_or(0) <= kFuzzMaxTop);
  TTT_CHECK(request.input_ids.size() <= kFuzzMaxInput);
  CheckIdsInRange(request.input_ids);
  TTT_CHECK(request.input_ids.size() == message.token_ids().ids_size());
  TTT_CHECK(has_tokenizer ||
            (!message.has_text() && message.stop().strings().empty()));
}

}  // namespace

void FuzzComplete(absl::string_view bytes) {
  v1::CompleteRequest message;
  if (!ReadMessage(bytes, &message)) return;
  for (const bool has_tokenizer : {true, false}) {
    const auto request = ValidateComplete(message, FuzzLimits(has_tokenizer));
    if (!request.ok()) {
      CheckRefusal(request.status(), message.GetDescriptor());
      continue;
    }
    CheckAccepted(message, *request, has_tokenizer);
    if (message.has_text()) {
      CheckText(message.text(), *request, message.GetDescriptor());
    }
  }
}

}  // namespace ttt
