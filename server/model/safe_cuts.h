// Where a text may be cut without changing its tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "server/model/sentencepiece_model.h"

namespace ttt {

// The library takes some 300 bytes of memory a token and, in BPE, sorts all
// pairs of a text at once. In BPE, what stands on the two sides of a place
// never meets if no piece holds the two characters there next to each other.
// Long texts are cut at such places, and the ids stay the same. Thread-safe.
class SafeCuts {
 public:
  // Finds no cuts in models where the sides depend on each other in other ways:
  // unigram (the scores of a text are summed from its beginning), normalised
  // text, and unused pieces (split as they were last merged anywhere in the
  // text).
  explicit SafeCuts(const SentencePieceModel& model);

  // How many bytes of the text to encode at once: text.size(), or up to the
  // first cut past some size. `text` is UTF-8.
  size_t FirstPart(absl::string_view text) const;

 private:
  uint64_t Pair(uint32_t left, uint32_t right) const;

  bool may_cut_;
  bool escape_whitespaces_;
  absl::flat_hash_set<uint64_t> pairs_;  // next to each other in some piece
};

}  // namespace ttt
