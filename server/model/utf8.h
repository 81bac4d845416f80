// UTF-8, one character at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace ttt {

// U+FFFD, which stands for what is no character.
inline constexpr char kReplacement[] = "\xef\xbf\xbd";

struct Utf8Start {
  size_t size;      // of the character that begins the text; 0 if none does
  bool may_become;  // size is 0, and more bytes could still make it one
};

// How the text begins; not empty. Surrogates, overlong forms and what is above
// U+10FFFF are no characters.
Utf8Start StartOfUtf8(absl::string_view text);

// The offset of the first byte that belongs to no character, or text.size().
size_t FindInvalidUtf8(absl::string_view text);

// The first code point of valid UTF-8 that is not empty, and takes it away.
uint32_t TakeCodePoint(absl::string_view* text);

}  // namespace ttt
