// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ttt {

// What one id adds to a text. A control piece adds nothing.
struct TokenText {
  std::string text;  // for a byte piece, the byte
  bool is_byte = false;
  bool begins_with_space = false;  // of SentencePiece: U+2581 in the piece
};

enum class LeadingSpace { kText, kOne, kAll };

// A SentencePiece model. Thread-safe: all methods are const.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `at_start`: text at token 0 of a session: begin-of-text, if the model has
  // one, then the text as SentencePiece encodes it. Otherwise the text goes on
  // from what stands before it: no begin-of-text, and as SentencePiece encodes
  // it with add_dummy_prefix off, all else as the model has it.
  // INVALID_ARGUMENT, with the byte: not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      bool at_start) const = 0;
  // The same, for a long text whose caller may lose interest: calls `go_on` now
  // and then with the number of tokens so far, and ends with its error. As it
  // stands here: at the beginning.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeWhile(
      absl::string_view text, bool at_start,
      absl::FunctionRef<absl::Status(int64_t num_tokens)> go_on) const;
  // As SentencePiece decodes the whole sequence; the result is UTF-8.
  // INVALID_ARGUMENT: an id outside [0, vocab_size).
  virtual absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const = 0;
  // The piece as it stands in the vocabulary. `id` >= 0; a model's vocabulary
  // may be padded past the tokenizer's, and such an id has no piece and no
  // text.
  virtual std::string Piece(int32_t id) const = 0;
  // What the id adds to a text. As it stands here: the piece, with its space
  // symbols as spaces. `id` >= 0, as for Piece.
  virtual TokenText Text(int32_t id) const;
  // Whether a space that begins a text is SentencePiece's and not the text's:
  // none, the one of the dummy prefix, or all, where extra spaces are removed.
  virtual LeadingSpace leading_space() const { return LeadingSpace::kOne; }

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
  // `at_start`: the first id is token 0 of the session, so that the dummy
  // prefix is taken away; otherwise leading spaces are text.
  StreamingDecoder(const Tokenizer* tokenizer, bool at_start);

  // The text that is certain after `id`; may be empty, as in the middle of a
  // character of several byte pieces. `id` >= 0, as for Piece.
  std::string Append(int32_t id);
  // What is left: bytes that never became a character, each as U+FFFD.
  std::string Finish();

 private:
  std::string TakeBytes(bool all);

  const Tokenizer* tokenizer_;
  bool at_start_;              // a leading space is not text
  bool took_space_ = false;    // the last piece gave its leading space up
  bool has_text_ = false;      // since the beginning
  std::string pending_bytes_;  // of byte pieces, not yet a character; at most 3
};

// Reads a SentencePiece `tokenizer.model` (BPE or unigram). NOT_FOUND: no such
// file. INVALID_ARGUMENT: damaged, hostile, or of a kind that is not supported;
// never a crash.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const std::string& path);
// The same from bytes.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(
    absl::string_view bytes);

}  // namespace ttt
