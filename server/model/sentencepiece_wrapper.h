// The SentencePiece library behind a plain interface.
//
// Its header names std::string_view absl::string_view, which ours is not, so no
// file may include both; this one includes neither.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ttt {

// A loaded processor. Thread-safe: all methods are const.
class SentencePieceWrapper {
 public:
  // `model` is a serialized ModelProto, known to be sound. Null, with the
  // library's words in `error`, if it is refused.
  static std::unique_ptr<SentencePieceWrapper> Load(const std::string& model,
                                                    std::string* error);
  ~SentencePieceWrapper();

  // False, with the library's words in `error`, if it fails.
  bool Encode(std::string_view text, std::vector<int>* ids,
              std::string* error) const;
  bool Decode(const std::vector<int>& ids, std::string* text,
              std::string* error) const;

  int num_pieces() const;
  int bos_id() const;  // -1: none
  int eos_id() const;  // -1: none

 private:
  struct Impl;
  explicit SentencePieceWrapper(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace ttt
