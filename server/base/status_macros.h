#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TTT_RETURN_IF_ERROR(expression)                             \
  do {                                                              \
    if (absl::Status ttt_status = (expression); !ttt_status.ok()) { \
      return ttt_status;                                            \
    }                                                               \
  } while (false)

#define TTT_CONCAT_INNER(a, b) a##b
#define TTT_CONCAT(a, b) TTT_CONCAT_INNER(a, b)

#define TTT_ASSIGN_OR_RETURN_IMPL(result, target, expression) \
  auto result = (expression);                                 \
  if (!result.ok()) return std::move(result).status();        \
  target = *std::move(result)

// TTT_ASSIGN_OR_RETURN(const int x, ParseInt(text));
#define TTT_ASSIGN_OR_RETURN(target, ...)                              \
  TTT_ASSIGN_OR_RETURN_IMPL(TTT_CONCAT(ttt_result_, __LINE__), target, \
                            (__VA_ARGS__))
