#include "server/base/byte_count.h"

#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ttt {
namespace {

constexpr std::pair<absl::string_view, int> kUnits[] = {
    {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};

}  // namespace

bool AbslParseFlag(absl::string_view text, ByteCount* count,
                   std::string* error) {
  text = absl::StripAsciiWhitespace(text);
  int shift = 0;
  for (const auto& [unit, bits] : kUnits) {
    if (absl::ConsumeSuffix(&text, unit)) {
      shift = bits;
      break;
    }
  }
  int64_t number = 0;
  const int64_t most = std::numeric_limits<int64_t>::max() >> shift;
  if (!absl::SimpleAtoi(text, &number) || number > most || number < -most) {
    *error = std::string(kWantedByteCount);
    return false;
  }
  count->bytes = number * (int64_t{1} << shift);
  return true;
}

std::string AbslUnparseFlag(ByteCount count) {
  return absl::StrCat(count.bytes);
}

}  // namespace ttt
