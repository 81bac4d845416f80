#include "client/text.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ttt {
namespace {

// The length of the UTF-8 character at `text`'s begin; 0 if there is none.
size_t CharacterLength(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;  // Longer than need be.
  if (lead == 0xED && byte(1) > 0x9F) return 0;  // Half a surrogate pair.
  if (lead == 0xF0 && byte(1) < 0x90) return 0;  // Longer than need be.
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;  // Past U+10FFFF.
  return length;
}

bool IsControl(absl::string_view character) {
  const uint8_t lead = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) {
    return (lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7F;
  }
  return lead == 0xC2 && static_cast<uint8_t>(character[1]) < 0xA0;
}

}  // namespace

std::optional<size_t> InvalidUtf8Position(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = CharacterLength(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

std::string ForTerminal(absl::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = std::max<size_t>(1, CharacterLength(text.substr(i)));
    const absl::string_view character = text.substr(i, length);
    absl::StrAppend(&safe, IsControl(character) ? "?" : character);
    i += length;
  }
  return safe;
}

std::string HumanCount(int64_t count) {
  std::string text = absl::StrCat(count);
  const int first = count < 0 ? 1 : 0;
  for (int i = static_cast<int>(text.size()) - 3; i > first; i -= 3) {
    text.insert(i, 1, ',');
  }
  return text;
}

std::string HumanBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB"};
  if (bytes < 1000) return absl::StrCat(bytes, " B");
  double value = bytes / 1e3;
  int unit = 0;
  while (value >= 999.5 && unit < 4) {
    value /= 1e3;
    ++unit;
  }
  return absl::StrFormat("%.3g %s", value, kUnits[unit]);
}

std::string HumanDuration(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 9.95e-3) return absl::StrFormat("%.2g ms", seconds * 1e3);
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 99.5) return absl::StrFormat("%.3g s", seconds);
  if (seconds >= 1e15) return "for ever";
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) {
    return whole % 60 == 0
               ? absl::StrCat(whole / 60, " min")
               : absl::StrCat(whole / 60, " min ", whole % 60, " s");
  }
  const int64_t minutes = whole / 60;
  if (minutes < 48 * 60) {
    return minutes % 60 == 0
               ? absl::StrCat(minutes / 60, " h")
               : absl::StrCat(minutes / 60, " h ", minutes % 60, " min");
  }
  return absl::StrCat(minutes / (24 * 60), " days");
}

std::string HumanRate(double per_second) {
  if (per_second >= 999.5) return HumanCount(std::llround(per_second));
  return absl::StrFormat("%.3g", per_second);
}

std::string Hex(absl::string_view bytes) {
  return absl::BytesToHexString(bytes);
}

std::string DigestPrefix(absl::string_view digest) {
  return Hex(digest.substr(0, 6));
}

std::string ProgressLine(double fraction, absl::string_view facts,
                         int columns) {
  const double bounded = std::clamp(fraction, 0.0, 1.0);
  const std::string percent =
      absl::StrFormat("%3d%%", static_cast<int>(bounded * 100));
  // The last column stays free: some terminals wrap there.
  const int room = columns - 1;
  constexpr int kMinBar = 10;
  constexpr int kMaxBar = 40;
  std::string line;
  int bar = room - static_cast<int>(percent.size() + facts.size()) - 4;
  if (bar < kMinBar) {
    line = absl::StrCat(percent, " ", facts);
  } else {
    bar = std::min(bar, kMaxBar);
    const int filled = static_cast<int>(bounded * bar);
    std::string cells(filled, '=');
    if (filled < bar) cells += '>';
    cells.resize(bar, ' ');
    line = absl::StrCat("[", cells, "] ", percent, " ", facts);
  }
  if (static_cast<int>(line.size()) > room) {
    line = static_cast<int>(percent.size()) <= room ? percent : "";
  }
  return line;
}

}  // namespace ttt
