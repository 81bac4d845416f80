// tokenizer.model: it is refused, or texts become ids and ids text without a
// crash, and streamed text is the text of the whole.
#include <algorithm>
#include <string>
#include <vector>

#include "server/base/check.h"
#include "server/model/tokenizer.h"
#include "server/model/utf8.h"
#include "tests/fuzz/fuzz_targets.h"

namespace ttt {
namespace {

constexpr absl::string_view kTexts[] = {"",
                                        " ",
                                        "a",
                                        "  a  b ",
                                        "The cat\tsat.\n",
                                        "A\xcc\x81\xef\xbc\xa1",
                                        "\xf0\x9f\x98\x80\xe2\x96\x81x",
                                        "<s></s><unk><0x41>"};
constexpr int32_t kMaxIds = 300;

std::string Streamed(const Tokenizer& tokenizer,
                     const std::vector<int32_t>& ids) {
  StreamingDecoder decoder(&tokenizer, /*at_start=*/true);
  std::string text;
  for (const int32_t id : ids) text += decoder.Append(id);
  return text + decoder.Finish();
}

void CheckIds(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) {
    TTT_CHECK(id >= 0 && id < tokenizer.vocab_size());
  }
  const auto text = tokenizer.Decode(ids);
  TTT_CHECK(text.ok());
  TTT_CHECK(FindInvalidUtf8(*text) == text->size());
  TTT_CHECK(Streamed(tokenizer, ids) == *text);
}

void CheckText(const Tokenizer& tokenizer, absl::string_view text) {
  for (const bool at_start : {true, false}) {
    const auto ids = tokenizer.Encode(text, at_start);
    TTT_CHECK(ids.ok());
    CheckIds(tokenizer, *ids);
  }
}

}  // namespace

void FuzzTokenizerModel(absl::string_view file) {
  const auto parsed = ParseTokenizer(file);
  if (!parsed.ok()) {
    TTT_CHECK(absl::IsInvalidArgument(parsed.status()));
    TTT_CHECK(!parsed.status().message().empty());
    return;
  }
  const Tokenizer& tokenizer = **parsed;
  TTT_CHECK(tokenizer.bos_id() < tokenizer.vocab_size());
  TTT_CHECK(tokenizer.eos_id() < tokenizer.vocab_size());
  for (const absl::string_view text : kTexts) CheckText(tokenizer, text);
  std::string pieces;
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < std::min(tokenizer.vocab_size(), kMaxIds); ++id) {
    if (pieces.size() < 1000) pieces += tokenizer.Piece(id);
    ids.push_back(id);
  }
  CheckText(tokenizer, pieces);
  CheckIds(tokenizer, ids);
  TTT_CHECK(!tokenizer.Encode("\xff", true).ok());
  TTT_CHECK(!tokenizer.Decode({tokenizer.vocab_size()}).ok());
  TTT_CHECK(tokenizer.Text(tokenizer.vocab_size()).text.empty());
}

}  // namespace ttt
