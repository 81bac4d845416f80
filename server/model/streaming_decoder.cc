#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/model/tokenizer.h"
#include "server/model/utf8.h"

namespace ttt {
namespace {

constexpr char kSpaceSymbol[] = "\xe2\x96\x81";  // U+2581

}  // namespace

TokenText Tokenizer::Text(int32_t id) const {
  const std::string piece = Piece(id);
  return {.text = absl::StrReplaceAll(piece, {{kSpaceSymbol, " "}}),
          .begins_with_space = piece.rfind(kSpaceSymbol, 0) == 0};
}

StreamingDecoder::StreamingDecoder(const Tokenizer* tokenizer, bool at_start)
    : tokenizer_(tokenizer),
      at_start_(at_start && tokenizer->leading_space() != LeadingSpace::kText) {
}

std::string StreamingDecoder::Append(int32_t id) {
  TokenText token = tokenizer_->Text(id);
  if (token.is_byte) {
    absl::StrAppend(&pending_bytes_, token.text);
    return TakeBytes(/*all=*/false);
  }
  std::string text = TakeBytes(/*all=*/true);
  if (took_space_ || has_text_) at_start_ = false;
  const bool take_space = at_start_ && token.begins_with_space;
  if (take_space) token.text.erase(0, 1);
  took_space_ = take_space && tokenizer_->leading_space() == LeadingSpace::kOne;
  has_text_ |= !token.text.empty();
  absl::StrAppend(&text, token.text);
  return text;
}

std::string StreamingDecoder::Finish() { return TakeBytes(/*all=*/true); }

// The characters that stand at the beginning of the pending bytes. A byte that
// cannot begin one is U+FFFD; with `all`, so is one whose character is cut.
std::string StreamingDecoder::TakeBytes(bool all) {
  std::string text;
  size_t taken = 0;
  while (taken < pending_bytes_.size()) {
    const Utf8Start start =
        StartOfUtf8(absl::string_view(pending_bytes_).substr(taken));
    if (start.may_become && !all) break;
    if (start.size > 0) {
      text.append(pending_bytes_, taken, start.size);
      taken += start.size;
    } else {
      text += kReplacement;
      ++taken;
    }
  }
  pending_bytes_.erase(0, taken);
  has_text_ |= !text.empty();
  return text;
}

}  // namespace ttt
