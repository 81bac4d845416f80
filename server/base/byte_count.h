// A number of bytes as people write it; the type of a flag.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace ttt {

struct ByteCount {
  int64_t bytes = 0;
};

// What is said of a value that is none.
inline constexpr absl::string_view kWantedByteCount =
    "must be a number of bytes, such as 536870912 or 512MiB; its unit may be "
    "KiB, MiB, GiB or TiB";

// `1048576`, `1024KiB`, `1MiB`, also with GiB and TiB. False: not such a
// number, or one of 2^63 or more; `error` says what is wanted.
bool AbslParseFlag(absl::string_view text, ByteCount* count,
                   std::string* error);
// As a plain number.
std::string AbslUnparseFlag(ByteCount count);

}  // namespace ttt
