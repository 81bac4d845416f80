// DetokenizeRequest: an id outside the vocabulary is refused by its place, and
// what is accepted becomes UTF-8.
#include "server/model/utf8.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/golden_tokenizers.h"
#include "tests/fuzz/request_checks.h"
#include "ttt/v1/tokenizer.pb.h"

namespace ttt {

void FuzzDetokenize(absl::string_view bytes) {
  v1::DetokenizeRequest request;
  if (!ReadMessage(bytes, &request)) return;
  for (const Tokenizer* tokenizer : {&GoldenBpe(), &GoldenUnigram()}) {
    RequestLimits limits = FuzzLimits(true);
    limits.vocab_size = tokenizer->vocab_size();
    const absl::Status status = ValidateTokenIds("ids", request.ids(), limits);
    const auto text = tokenizer->Decode(request.ids());
    TTT_CHECK(status.ok() == text.ok());
    if (!status.ok()) {
      CheckRefusal(status, request.GetDescriptor());
      continue;
    }
    TTT_CHECK(FindInvalidUtf8(*text) == text->size());
  }
}

}  // namespace ttt
