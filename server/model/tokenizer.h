// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ttt {

// A SentencePiece model. Thread-safe: all methods are const.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `at_start`: text at token 0 of a session: begin-of-text, then the text as
  // SentencePiece encodes it, with its dummy prefix. Otherwise the text goes on
  // from what stands before it: no begin-of-text, no dummy prefix.
  // INVALID_ARGUMENT: not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      bool at_start) const = 0;
  // As SentencePiece decodes the whole sequence; the result is UTF-8.
  // INVALID_ARGUMENT: an id outside [0, vocab_size).
  virtual absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const = 0;
  // The piece as it stands in the vocabulary. `id` in [0, vocab_size).
  virtual std::string Piece(int32_t id) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;  // -1: none
};

// Text of a growing sequence of ids, in pieces of complete UTF-8. The pieces'
// concatenation is what the ids add to the text of the whole sequence. Needs a
// few ids of memory, whatever the length. Not thread-safe. `tokenizer` must
// outlive it.
class StreamingDecoder {
 public:
  // `at_start`: the first id is token 0 of the session, so that the dummy prefix
  // is taken away; otherwise leading spaces are text.
  StreamingDecoder(const Tokenizer* tokenizer, bool at_start);

  // The text that is certain after `id`; may be empty, as in the middle of a
  // character of several byte pieces. `id` in [0, vocab_size).
  std::string Append(int32_t id);
  // What is left: bytes that never became a character, each as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool at_start_;
  std::string pending_bytes_;
};

// Reads a SentencePiece `tokenizer.model` (BPE or unigram). NOT_FOUND: no such
// file. INVALID_ARGUMENT: damaged, hostile, or of a kind that is not supported;
// never a crash.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path);
// The same from bytes.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(absl::string_view bytes);

}  // namespace ttt
