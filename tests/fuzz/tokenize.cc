// TokenizeRequest: any text is encoded, and what comes out is in the
// vocabulary.
#include "absl/strings/str_replace.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/golden_tokenizers.h"
#include "tests/fuzz/request_checks.h"
#include "ttt/v1/tokenizer.pb.h"

namespace ttt {
namespace {

void Check(const Tokenizer& tokenizer, const v1::TokenizeRequest& request) {
  const auto ids = tokenizer.Encode(request.text(), request.at_start());
  TTT_CHECK(ids.ok());  // The parser has seen to it that it is UTF-8.
  v1::TokenizeResponse response;
  for (const int32_t id : *ids) {
    TTT_CHECK(id >= 0 && id < tokenizer.vocab_size());
    response.add_pieces(tokenizer.Piece(id));
    TTT_CHECK(!response.pieces().rbegin()->empty());
  }
  v1::TokenizeResponse parsed;
  TTT_CHECK(parsed.ParseFromString(response.SerializeAsString()));
}

}  // namespace

void FuzzTokenize(absl::string_view bytes) {
  v1::TokenizeRequest request;
  if (!ReadMessage(bytes, &request)) return;
  Check(GoldenBpe(), request);
  Check(GoldenUnigram(), request);
  if (!request.at_start() || request.text().empty()) return;
  // BPE with byte pieces takes the text as it is, but for its symbol of a
  // space.
  const auto ids = GoldenBpe().Encode(request.text(), true).value();
  TTT_CHECK(GoldenBpe().Decode(ids).value() ==
            absl::StrReplaceAll(request.text(), {{"\xe2\x96\x81", " "}}));
}

}  // namespace ttt
