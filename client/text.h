// Text for people: numbers with units, safe output, lines that fit a terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ttt {

// Where `text` stops being UTF-8; nothing if it is UTF-8 throughout.
std::optional<size_t> InvalidUtf8Position(absl::string_view text);

// `text` without the control characters that could steer a terminal; newlines
// and tabs stay.
std::string ForTerminal(absl::string_view text);

std::string HumanCount(int64_t count);               // 12,345
std::string HumanBytes(int64_t bytes);               // 2.62 MB, powers of 1000
std::string HumanDuration(absl::Duration duration);  // 12 ms, 3.4 s, 2 min 5 s
std::string HumanRate(double per_second);            // 7.31, 84.2, 1,234
std::string Hex(absl::string_view bytes);
std::string DigestPrefix(absl::string_view digest);  // 12 hex digits

// `[=====>    ]  42% facts`, at most `columns` wide, on one line. Of a terminal
// too narrow for a bar only the percentage is left.
std::string ProgressLine(double fraction, absl::string_view facts, int columns);

}  // namespace ttt
