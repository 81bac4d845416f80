// JSON from files that may be damaged or hostile.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ttt {

struct JsonLimits {
  int max_depth = 32;        // of objects and arrays in each other
  int max_values = 1 << 20;  // in all, so that memory stays bounded
};

// INVALID_ARGUMENT with the byte offset: not JSON, a key twice in one object,
// or over a limit. Throws nothing.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               const JsonLimits& limits = {});

}  // namespace ttt
