#include "client/args.h"

#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace ttt {
namespace {

constexpr absl::Duration kMaxDuration = absl::Hours(24 * 366 * 100);

absl::Status Wanted(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

// A number that is too large becomes an infinite one.
bool ParseFloat(absl::string_view text, float* value) {
  return absl::SimpleAtof(text, value) && !std::isnan(*value);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  if (absl::StripAsciiWhitespace(text).empty()) return ids;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const size_t before = ids.size();
    for (const absl::string_view word :
         absl::StrSplit(part, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id) || id < 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", word, "' is not a token id"));
      }
      ids.push_back(id);
    }
    if (ids.size() > before) continue;
    return absl::InvalidArgumentError(
        ids.empty()
            ? "there is no token id before ','"
            : absl::StrCat("there is no token id after '", ids.back(), ",'"));
  }
  return ids;
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  double seconds = 0;
  absl::Duration duration;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return Wanted("a duration such as 30, 1.5, 200ms or 10m");
  }
  if (std::isnan(seconds) || duration <= absl::ZeroDuration()) {
    return Wanted("a duration of more than zero, such as 30, 200ms or 10m");
  }
  if (duration > kMaxDuration) {
    return Wanted(absl::StrCat("a duration of at most ",
                               absl::ToInt64Hours(kMaxDuration),
                               "h, a hundred years"));
  }
  return duration;
}

void FlagSet::Add(absl::string_view name, absl::string_view value_name,
                  absl::string_view help,
                  std::function<absl::Status(absl::string_view)> set) {
  flags_.push_back({std::string(name), std::string(value_name),
                    std::string(help), std::move(set)});
}

void FlagSet::Switch(absl::string_view name, bool* target,
                     absl::string_view help) {
  Add(name, "", help, [target](absl::string_view value) {
    return absl::SimpleAtob(value, target) ? absl::OkStatus()
                                           : Wanted("true or false");
  });
}

void FlagSet::String(absl::string_view name, std::string* target,
                     absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    *target = std::string(value);
    return absl::OkStatus();
  });
}

void FlagSet::Name(absl::string_view name, std::string* target,
                   absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    *target = std::string(value);
    return value.empty() ? Wanted("a name that is not empty")
                         : absl::OkStatus();
  });
}

void FlagSet::Strings(absl::string_view name, std::vector<std::string>* target,
                      absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    target->emplace_back(value);
    return absl::OkStatus();
  });
}

void FlagSet::Int32(absl::string_view name, std::optional<int32_t>* target,
                    absl::string_view value_name, absl::string_view help,
                    int32_t min, int32_t max) {
  Add(name, value_name, help, [target, min, max](absl::string_view value) {
    int32_t number = 0;
    if (!absl::SimpleAtoi(value, &number) || number < min || number > max) {
      return Wanted(absl::StrCat("a whole number from ", min, " to ", max));
    }
    *target = number;
    return absl::OkStatus();
  });
}

void FlagSet::Uint64(absl::string_view name, std::optional<uint64_t>* target,
                     absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    uint64_t number = 0;
    if (!absl::SimpleAtoi(value, &number)) {
      return Wanted("a whole number from 0 to 18446744073709551615");
    }
    *target = number;
    return absl::OkStatus();
  });
}

void FlagSet::Float(absl::string_view name, std::optional<float>* target,
                    absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    float number = 0;
    if (!ParseFloat(value, &number)) return Wanted("a number");
    if (std::isinf(number)) return Wanted("a number from -3.4e38 to 3.4e38");
    *target = number;
    return absl::OkStatus();
  });
}

void FlagSet::Duration(absl::string_view name, absl::Duration* target,
                       absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    const absl::StatusOr<absl::Duration> duration = ParseDuration(value);
    if (duration.ok()) *target = *duration;
    return duration.status();
  });
}

void FlagSet::Ids(absl::string_view name, std::vector<int32_t>* target,
                  absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    const absl::StatusOr<std::vector<int32_t>> ids = ParseIds(value);
    if (!ids.ok() || ids->empty()) return Wanted("token ids such as 1,2,3");
    target->insert(target->end(), ids->begin(), ids->end());
    return absl::OkStatus();
  });
}

void FlagSet::Biases(absl::string_view name, std::map<int32_t, float>* target,
                     absl::string_view value_name, absl::string_view help) {
  Add(name, value_name, help, [target](absl::string_view value) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(value, absl::MaxSplits('=', 1));
    int32_t id = 0;
    float bias = 0;
    if (!absl::SimpleAtoi(parts.first, &id) || id < 0 ||
        !ParseFloat(parts.second, &bias)) {
      return Wanted("a token id and a number, such as 42=-1.5");
    }
    if (std::isinf(bias)) {
      return Wanted("a token id and a number from -3.4e38 to 3.4e38");
    }
    (*target)[id] = bias;
    return absl::OkStatus();
  });
}

void FlagSet::Choice(absl::string_view name, std::string* target,
                     std::vector<std::string> choices, absl::string_view help) {
  const std::string value_name = absl::StrJoin(choices, "|");
  Add(name, value_name, help,
      [target, choices = std::move(choices)](absl::string_view value) {
        for (const std::string& choice : choices) {
          if (value == choice) {
            *target = choice;
            return absl::OkStatus();
          }
        }
        return Wanted(absl::StrJoin(choices, " or "));
      });
}

const FlagSet::Flag* FlagSet::Find(absl::string_view name) const {
  const std::string dashed = absl::StrReplaceAll(name, {{"_", "-"}});
  for (const Flag& flag : flags_) {
    if (flag.name == dashed) return &flag;
  }
  return nullptr;
}

absl::Status FlagSet::Set(const Flag& flag, absl::string_view value) const {
  const absl::Status status = flag.set(value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(
      "--", flag.name, ": '", value, "' is not ", status.message()));
}

absl::StatusOr<std::vector<std::string>> FlagSet::Parse(
    const std::vector<std::string>& args) const {
  std::vector<std::string> positional;
  for (size_t i = 0; i < args.size(); ++i) {
    const absl::string_view arg = args[i];
    if (arg == "--") {
      positional.insert(positional.end(), args.begin() + i + 1, args.end());
      break;
    }
    if (!absl::StartsWith(arg, "-") || arg == "-") {
      positional.emplace_back(arg);
      continue;
    }
    const bool is_flag = absl::StartsWith(arg, "--");
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(arg.substr(is_flag ? 2 : 0), absl::MaxSplits('=', 1));
    const bool has_value = absl::StrContains(arg, '=');
    const Flag* flag = is_flag ? Find(parts.first) : nullptr;
    absl::string_view value = parts.second;
    if (flag == nullptr && is_flag && !has_value &&
        (absl::StartsWith(parts.first, "no-") ||
         absl::StartsWith(parts.first, "no_"))) {
      flag = Find(parts.first.substr(3));
      if (flag != nullptr && !flag->value_name.empty()) flag = nullptr;
      value = "false";
    } else if (flag != nullptr && !has_value) {
      if (flag->value_name.empty()) {
        value = "true";
      } else if (i + 1 < args.size() && !absl::StartsWith(args[i + 1], "--")) {
        value = args[++i];
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat("--", flag->name, " needs a value: --", flag->name,
                         "=", flag->value_name));
      }
    }
    if (flag == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown flag ", is_flag ? "--" : "", parts.first,
          is_flag ? "" : " ('--' ends the flags, if this is text)"));
    }
    if (absl::Status status = Set(*flag, value); !status.ok()) return status;
  }
  return positional;
}

std::string FlagSet::Help() const {
  constexpr size_t kColumn = 30;
  std::string text;
  for (const Flag& flag : flags_) {
    std::string line = absl::StrCat("  --", flag.name);
    if (!flag.value_name.empty()) absl::StrAppend(&line, " ", flag.value_name);
    if (line.size() + 2 > kColumn) {
      absl::StrAppend(&line, "\n", std::string(kColumn, ' '));
    } else {
      line.append(kColumn - line.size(), ' ');
    }
    const std::string indent = absl::StrCat("\n", std::string(kColumn, ' '));
    absl::StrAppend(&text, line,
                    absl::StrReplaceAll(flag.help, {{"\n", indent}}), "\n");
  }
  return text;
}

}  // namespace ttt
