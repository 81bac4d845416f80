// A SentencePiece model file, read without trusting it.
//
// The library that encodes aborts or reads out of bounds on some damaged
// models. So the file is read here, held to what the library takes for granted,
// and written anew; the library sees only that.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ttt {

// The parts of sentencepiece_model.proto's ModelProto that encoding and
// decoding depend on, with its defaults.
struct SentencePieceModel {
  enum class PieceType {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  struct Piece {
    std::string text;
    float score = 0.0f;
    PieceType type = PieceType::kNormal;
  };

  static constexpr int64_t kUnigram = 1;
  static constexpr int64_t kBpe = 2;

  std::vector<Piece> pieces;
  int64_t model_type = kUnigram;
  bool treat_whitespace_as_suffix = false;
  bool byte_fallback = false;
  std::string unk_piece;  // empty: "<unk>", and so on
  std::string bos_piece;
  std::string eos_piece;
  std::string pad_piece;
  std::optional<std::string> unk_surface;
  std::string charsmap;  // empty: text is not normalised
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_denormalizer = false;
};

// INVALID_ARGUMENT: not a ModelProto, or one that fails
// CheckSentencePieceModel.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(
    absl::string_view bytes);

// INVALID_ARGUMENT, saying what: neither BPE nor unigram; no piece or several
// for the unknown; a piece that is empty, too long, there twice or not UTF-8; a
// score that is not finite; byte pieces that are not the 256; a broken
// charsmap; or something that is not supported (a denormaliser, spaces as
// suffix).
absl::Status CheckSentencePieceModel(const SentencePieceModel& model);

// INVALID_ARGUMENT: a precompiled character map (a double-array trie and the
// texts that its leaves point to) that a look-up could leave.
absl::Status CheckCharsmap(absl::string_view charsmap);

// As a ModelProto for the library.
std::string SerializeSentencePieceModel(const SentencePieceModel& model);

// The byte that a byte piece stands for ("<0x0A>"), or -1.
int ByteOfPiece(absl::string_view piece);

}  // namespace ttt
