#include "server/request/text_output.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/check.h"

namespace ttt {
namespace {

// Where the longest end of `text` begins that begins a stop string.
size_t HoldFrom(absl::string_view text, const std::vector<std::string>& stops) {
  size_t from = text.size();
  for (const std::string& stop : stops) {
    const size_t longest = std::min(stop.size() - 1, text.size());
    for (size_t length = longest; length > text.size() - from; --length) {
      if (absl::StartsWith(stop, text.substr(text.size() - length))) {
        from = text.size() - length;
        break;
      }
    }
  }
  return from;
}

// A character has at most 4 bytes, and a byte piece is one of them.
constexpr size_t kContextIds = 4;

// A decoder that stands where `before` ends.
StreamingDecoder DecoderAfter(const Tokenizer* tokenizer, bool at_start,
                              absl::Span<const int32_t> before) {
  StreamingDecoder decoder(tokenizer, at_start);
  for (const int32_t id : before) {
    if (decoder.Append(id).empty()) continue;
    decoder = StreamingDecoder(tokenizer, false);
    const size_t context = std::min(before.size(), kContextIds);
    for (const int32_t last : before.subspan(before.size() - context))
      decoder.Append(last);
    break;
  }
  return decoder;
}

}  // namespace

TextOutput::TextOutput(const Tokenizer* tokenizer, bool at_start,
                       absl::Span<const int32_t> before,
                       std::vector<std::string> stop_strings)
    : decoder_(DecoderAfter(tokenizer, at_start, before)),
      stop_strings_(std::move(stop_strings)) {}

std::string TextOutput::Append(int32_t token_id) {
  TTT_CHECK(matched_stop_.empty());
  return Release(decoder_.Append(token_id));
}

std::string TextOutput::Finish(bool goes_on) {
  if (!matched_stop_.empty()) return "";
  std::string released = goes_on ? "" : Release(decoder_.Finish());
  if (!matched_stop_.empty()) return released;
  return absl::StrCat(released, std::exchange(held_, ""));
}

std::string TextOutput::Release(absl::string_view added) {
  absl::StrAppend(&held_, added);
  size_t match = std::string::npos;
  for (const std::string& stop : stop_strings_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at < match || (at == match && stop.size() > matched_stop_.size())) {
      match = at;
      matched_stop_ = stop;
    }
  }
  const size_t end =
      match != std::string::npos ? match : HoldFrom(held_, stop_strings_);
  std::string released = held_.substr(0, end);
  held_.erase(0, end);
  return released;
}

}  // namespace ttt
