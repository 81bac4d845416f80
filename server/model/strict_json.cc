#include "server/model/strict_json.h"

#include <cstdint>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "server/model/file.h"

namespace ttt {
namespace {

using nlohmann::json;

// Looks at every event of the parser and keeps nothing but the keys of the open
// objects; the document itself is built in a second pass, once it is known to
// be harmless.
class Checker : public nlohmann::json_sax<json> {
 public:
  explicit Checker(const JsonLimits& limits) : limits_(limits) {}

  bool null() override { return Value(); }
  bool boolean(bool) override { return Value(); }
  bool number_integer(number_integer_t) override { return Value(); }
  bool number_unsigned(number_unsigned_t) override { return Value(); }
  bool number_float(number_float_t, const string_t&) override {
    return Value();
  }
  bool string(string_t&) override { return Value(); }
  bool binary(binary_t&) override { return Value(); }
  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    return Refuse(absl::StrCat("key ", Quoted(name), " stands twice"));
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Refuse(absl::StrCat("not JSON at byte ", position));
  }

  const std::string& error() const { return error_; }

 private:
  bool Value() {
    if (++num_values_ <= limits_.max_values) return true;
    return Refuse(
        absl::StrCat("more than ", limits_.max_values, " JSON values"));
  }
  bool Open() {
    keys_.emplace_back();
    if (keys_.size() <= static_cast<size_t>(limits_.max_depth)) return Value();
    return Refuse(absl::StrCat("JSON nested deeper than ", limits_.max_depth));
  }
  bool Close() {
    keys_.pop_back();
    return true;
  }
  bool Refuse(std::string error) {
    error_ = std::move(error);
    return false;
  }

  const JsonLimits limits_;
  int num_values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view text,
                                     const JsonLimits& limits) {
  Checker checker(limits);
  const char* const end = text.data() + text.size();
  if (!json::sax_parse(text.data(), end, &checker)) {
    return absl::InvalidArgumentError(
        checker.error().empty() ? "not JSON" : checker.error());
  }
  json document =
      json::parse(text.data(), end, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("not JSON");
  return document;
}

}  // namespace ttt
