// Ids to text in pieces: every piece is complete UTF-8, the pieces together are
// the text of the whole, and a stop string ends it where a plain search over
// the whole would.
//
// The bytes: flags; how many ids stand before the turn; the stop strings, each
// with its length before it; then two bytes an id.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "server/base/check.h"
#include "server/model/utf8.h"
#include "server/request/text_output.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/golden_tokenizers.h"

namespace ttt {
namespace {

constexpr size_t kMaxIds = 512;

// Takes bytes from the front, zeros when there are none left.
class Input {
 public:
  explicit Input(absl::string_view bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const uint8_t byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return byte;
  }
  std::string String(size_t size) {
    const std::string text(rest_.substr(0, size));
    rest_.remove_prefix(text.size());
    return text;
  }

 private:
  absl::string_view rest_;
};

struct Case {
  const Tokenizer* tokenizer;
  bool at_start;
  std::vector<int32_t> before;
  std::vector<int32_t> ids;
  std::vector<std::string> stops;
};

Case Read(absl::string_view bytes) {
  Input input(bytes);
  const uint8_t flags = input.Byte();
  Case c{.tokenizer = (flags & 1) != 0 ? &GoldenUnigram() : &GoldenBpe(),
         .at_start = (flags & 2) != 0,
         .before = {},
         .ids = {},
         .stops = {}};
  const size_t num_before = input.Byte();
  for (int i = 0; i < (flags >> 2 & 3); ++i) {
    std::string stop = input.String(1 + input.Byte() % 16);
    if (stop.empty() || FindInvalidUtf8(stop) < stop.size()) continue;
    c.stops.push_back(std::move(stop));
  }
  while (!input.empty() && c.before.size() + c.ids.size() < kMaxIds) {
    const int32_t high = input.Byte();
    const int32_t id = (high << 8 | input.Byte()) % c.tokenizer->vocab_size();
    (c.before.size() < num_before ? c.before : c.ids).push_back(id);
  }
  return c;
}

void CheckPiece(const std::string& text) {
  TTT_CHECK(FindInvalidUtf8(text) == text.size());
}

// What the ids add, as the library has it: to a text, or to nothing.
std::string WholeText(const Case& c) {
  std::vector<int32_t> ids;
  std::string before;
  if (!c.at_start) {
    ids = c.tokenizer->Encode("a", /*at_start=*/true).value();
    before = c.tokenizer->Decode(ids).value();
  }
  ids.insert(ids.end(), c.before.begin(), c.before.end());
  ids.insert(ids.end(), c.ids.begin(), c.ids.end());
  const std::string text = c.tokenizer->Decode(ids).value();
  TTT_CHECK(absl::StartsWith(text, before));
  return text.substr(before.size());
}

// What a turn with no stop strings gives, one piece an id, then the rest.
std::vector<std::string> TurnPieces(const Case& c) {
  TextOutput output(c.tokenizer, c.at_start, c.before, {});
  std::vector<std::string> pieces;
  for (const int32_t id : c.ids) pieces.push_back(output.Append(id));
  pieces.push_back(output.Finish(/*goes_on=*/false));
  for (const std::string& piece : pieces) CheckPiece(piece);
  return pieces;
}

void CheckStreaming(const Case& c, const std::vector<std::string>& pieces) {
  StreamingDecoder decoder(c.tokenizer, c.at_start);
  std::string text;
  for (const int32_t id : c.before) {
    const std::string piece = decoder.Append(id);
    CheckPiece(piece);
    text += piece;
  }
  for (const std::string& piece : pieces) text += piece;
  TTT_CHECK(text == WholeText(c));
}

// The text up to the stop string that is complete first, and that string: of
// several the first, and of these the longest.
struct Stopped {
  std::string text;
  std::string stop;
};
Stopped StopByHand(const Case& c, const std::vector<std::string>& pieces) {
  Stopped result;
  for (const std::string& piece : pieces) {
    result.text += piece;
    size_t begin = std::string::npos;
    for (const std::string& stop : c.stops) {
      const size_t at = result.text.find(stop);
      if (at == std::string::npos || at > begin) continue;
      if (at == begin && stop.size() <= result.stop.size()) continue;
      begin = at;
      result.stop = stop;
    }
    if (begin == std::string::npos) continue;
    result.text.resize(begin);
    return result;
  }
  return result;
}

void CheckStops(const Case& c, const std::vector<std::string>& pieces) {
  const Stopped expected = StopByHand(c, pieces);
  TextOutput output(c.tokenizer, c.at_start, c.before, c.stops);
  std::string text;
  for (const int32_t id : c.ids) {
    if (!output.matched_stop().empty()) break;
    const std::string piece = output.Append(id);
    CheckPiece(piece);
    text += piece;
  }
  text += output.Finish(/*goes_on=*/false);
  TTT_CHECK(text == expected.text);
  TTT_CHECK(output.matched_stop() == expected.stop);
}

}  // namespace

void FuzzDetokenizer(absl::string_view bytes) {
  const Case c = Read(bytes);
  const std::vector<std::string> pieces = TurnPieces(c);
  CheckStreaming(c, pieces);
  CheckStops(c, pieces);
}

}  // namespace ttt
