// One line a message on standard error: time, level, text, key=value fields.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ttt {

enum class LogLevel { kInfo, kWarning, kError };

using LogFields = std::vector<std::pair<absl::string_view, std::string>>;

// Thread-safe; a line is written whole. Values with spaces are quoted, and
// line breaks escaped.
void Log(LogLevel level, absl::string_view message,
         const LogFields& fields = {});

}  // namespace ttt
