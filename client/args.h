// The flags of one command: a table that parses, checks and explains them.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ttt {

// Flags are written `--name value` or `--name=value`, with dashes or
// underscores; a switch also as `--no-name`. `--` ends the flags, `-` alone is
// an argument. The targets must outlive the set. Not thread-safe.
class FlagSet {
 public:
  void Switch(absl::string_view name, bool* target, absl::string_view help);
  void String(absl::string_view name, std::string* target,
              absl::string_view value_name, absl::string_view help);
  // The same, and not empty: what a variable that is not set leaves.
  void Name(absl::string_view name, std::string* target,
            absl::string_view value_name, absl::string_view help);
  // Given several times, the values gather.
  void Strings(absl::string_view name, std::vector<std::string>* target,
               absl::string_view value_name, absl::string_view help);
  void Int32(absl::string_view name, std::optional<int32_t>* target,
             absl::string_view value_name, absl::string_view help,
             int32_t min = 0,
             int32_t max = std::numeric_limits<int32_t>::max());
  void Uint64(absl::string_view name, std::optional<uint64_t>* target,
              absl::string_view value_name, absl::string_view help);
  void Float(absl::string_view name, std::optional<float>* target,
             absl::string_view value_name, absl::string_view help);
  // `30`, `1.5` (seconds), `200ms`, `10m`; more than zero.
  void Duration(absl::string_view name, absl::Duration* target,
                absl::string_view value_name, absl::string_view help);
  // `1,2,3`; given several times, the values gather.
  void Ids(absl::string_view name, std::vector<int32_t>* target,
           absl::string_view value_name, absl::string_view help);
  // `ID=VALUE`; given several times, the entries gather.
  void Biases(absl::string_view name, std::map<int32_t, float>* target,
              absl::string_view value_name, absl::string_view help);
  // One of `choices`.
  void Choice(absl::string_view name, std::string* target,
              std::vector<std::string> choices, absl::string_view help);

  // The arguments that are not flags, in order. INVALID_ARGUMENT: an unknown
  // flag, a value that is missing or that the flag does not take; the message
  // names it.
  absl::StatusOr<std::vector<std::string>> Parse(
      const std::vector<std::string>& args) const;

  // One or more lines a flag, as they were added.
  std::string Help() const;

 private:
  struct Flag {
    std::string name;        // with dashes
    std::string value_name;  // empty: a switch
    std::string help;
    // The message of a failure says what the value should be.
    std::function<absl::Status(absl::string_view)> set;
  };

  void Add(absl::string_view name, absl::string_view value_name,
           absl::string_view help,
           std::function<absl::Status(absl::string_view)> set);
  const Flag* Find(absl::string_view name) const;
  absl::Status Set(const Flag& flag, absl::string_view value) const;

  std::vector<Flag> flags_;
};

// `1,2,3`, `1 2 3`, or one a line; of nothing but space, none.
// INVALID_ARGUMENT: not all are ids, or a comma has none before or after it.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text);

// As FlagSet::Duration.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

}  // namespace ttt
