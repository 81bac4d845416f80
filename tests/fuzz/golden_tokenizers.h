// The two tokenizers of tests/golden, loaded once.
#pragma once

#include <memory>

#include "server/model/tokenizer.h"

namespace ttt {

// BPE with byte pieces, text as it is.
inline const Tokenizer& GoldenBpe() {
  static const auto* const tokenizer = new std::unique_ptr<Tokenizer>(
      LoadTokenizer(TTT_GOLDEN_DIR "/tokenizer/bpe.model").value());
  return **tokenizer;
}

// Unigram, normalised, extra spaces removed.
inline const Tokenizer& GoldenUnigram() {
  static const auto* const tokenizer = new std::unique_ptr<Tokenizer>(
      LoadTokenizer(TTT_GOLDEN_DIR "/tokenizer/unigram.model").value());
  return **tokenizer;
}

}  // namespace ttt
