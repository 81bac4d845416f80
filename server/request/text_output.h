// The text of one turn's generated tokens, and where it stops.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/model/tokenizer.h"

namespace ttt {

// Turns generated ids into text and looks for stop strings in it. Text that may
// yet become part of a stop string is held back until it is decided, so what
// was released never has to be taken back. Not thread-safe. `tokenizer` must
// outlive it.
class TextOutput {
 public:
  // `before` is what the session has read before it generates, or the end of
  // it; `at_start`: its first id is token 0 of the session. `stop_strings` are
  // UTF-8 and not empty.
  TextOutput(const Tokenizer* tokenizer, bool at_start,
             absl::Span<const int32_t> before,
             std::vector<std::string> stop_strings);

  // Adds the text of a token and returns what is certain now. After a match
  // nothing more may be appended.
  std::string Append(int32_t token_id);
  // What was held back, at the end of a turn that no stop string ended. Bytes
  // of a character that is not complete are left to the next turn if `goes_on`,
  // and are U+FFFD otherwise.
  std::string Finish(bool goes_on);

  // The stop string that was complete first; if one token completed several,
  // the one that begins first, and of these the longest. Empty if none did.
  const std::string& matched_stop() const { return matched_stop_; }

 private:
  std::string Release(absl::string_view added);

  StreamingDecoder decoder_;
  const std::vector<std::string> stop_strings_;
  std::string held_;
  std::string matched_stop_;
};

}  // namespace ttt
