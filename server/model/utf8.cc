#include "server/model/utf8.h"

#include <cstring>

namespace ttt {
namespace {

// What may follow a first byte: how many bytes, and the range of the first of
// them; the others are in [0x80, 0xbf].
struct Lead {
  size_t size;
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

}  // namespace

Utf8Start StartOfUtf8(absl::string_view text) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[0]));
  for (size_t i = 1; i < lead.size; ++i) {
    if (i == text.size()) return {0, true};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const bool fits = i == 1 ? byte >= lead.low && byte <= lead.high
                             : byte >= 0x80 && byte <= 0xbf;
    if (!fits) return {0, false};
  }
  return {lead.size, false};
}

size_t FindInvalidUtf8(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word;
    if (text.size() - at >= sizeof(word)) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080) == 0) {
        at += sizeof(word);
        continue;
      }
    }
    const Utf8Start start = StartOfUtf8(text.substr(at));
    if (start.size == 0) return at;
    at += start.size;
  }
  return at;
}

uint32_t TakeCodePoint(absl::string_view* text) {
  const size_t size = LeadOf(static_cast<uint8_t>((*text)[0])).size;
  uint32_t code_point = static_cast<uint8_t>((*text)[0]);
  if (size > 1) code_point &= 0x7fu >> size;
  for (size_t i = 1; i < size; ++i) {
    code_point = code_point << 6 | (static_cast<uint8_t>((*text)[i]) & 0x3fu);
  }
  text->remove_prefix(size);
  return code_point;
}

}  // namespace ttt
