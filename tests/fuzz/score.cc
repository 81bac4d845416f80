// ScoreRequest at the door: refused, or within the documented ranges.
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {

void FuzzScore(absl::string_view bytes) {
  v1::ScoreRequest message;
  if (!ReadMessage(bytes, &message)) return;
  for (const bool has_tokenizer : {true, false}) {
    const auto request = ValidateScore(message, FuzzLimits(has_tokenizer));
    if (!request.ok()) {
      CheckRefusal(request.status(), message.GetDescriptor());
      continue;
    }
    TTT_CHECK(message.request_id().size() <= 128);
    TTT_CHECK(message.session_id().empty() ||
              IsPlainName(message.session_id()));
    TTT_CHECK(request->kind == RequestKind::kScore && request->max_tokens == 0);
    TTT_CHECK(request->top_logprobs == message.top_logprobs());
    TTT_CHECK(*request->top_logprobs >= 0 &&
              *request->top_logprobs <= kFuzzMaxTop);
    TTT_CHECK(request->input_ids.size() == message.token_ids().ids_size());
    TTT_CHECK(request->input_ids.size() <= kFuzzMaxInput);
    CheckIdsInRange(request->input_ids);
    TTT_CHECK(has_tokenizer || !message.has_text());
    if (message.has_text()) {
      CheckText(message.text(), *request, message.GetDescriptor());
    }
  }
}

}  // namespace ttt
