#include "server/model/safe_cuts.h"

#include <algorithm>

#include "server/model/utf8.h"

namespace ttt {
namespace {

using PieceType = SentencePieceModel::PieceType;

constexpr size_t kMinPartBytes = 16384;
constexpr uint32_t kSpaceSymbol = 0x2581;

bool IsMatched(const SentencePieceModel::Piece& piece) {
  return piece.type == PieceType::kNormal ||
         piece.type == PieceType::kUserDefined;
}

bool IsUnused(const SentencePieceModel::Piece& piece) {
  return piece.type == PieceType::kUnused;
}

}  // namespace

SafeCuts::SafeCuts(const SentencePieceModel& model)
    : may_cut_(
          model.model_type == SentencePieceModel::kBpe &&
          model.charsmap.empty() && !model.remove_extra_whitespaces &&
          std::none_of(model.pieces.begin(), model.pieces.end(), IsUnused)),
      escape_whitespaces_(model.escape_whitespaces) {
  if (!may_cut_) return;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (!IsMatched(piece)) continue;
    absl::string_view rest = piece.text;
    uint32_t left = TakeCodePoint(&rest);
    while (!rest.empty()) {
      const uint32_t right = TakeCodePoint(&rest);
      pairs_.insert(Pair(left, right));
      left = right;
    }
  }
}

// Spaces are matched as the space symbol.
uint64_t SafeCuts::Pair(uint32_t left, uint32_t right) const {
  if (escape_whitespaces_ && left == ' ') left = kSpaceSymbol;
  if (escape_whitespaces_ && right == ' ') right = kSpaceSymbol;
  return uint64_t{left} << 32 | right;
}

size_t SafeCuts::FirstPart(absl::string_view text) const {
  if (!may_cut_ || text.size() <= kMinPartBytes) return text.size();
  size_t begin = kMinPartBytes;
  while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
  absl::string_view rest = text.substr(begin);
  uint32_t left = TakeCodePoint(&rest);
  while (!rest.empty()) {
    const size_t at = text.size() - rest.size();
    const uint32_t right = TakeCodePoint(&rest);
    if (!pairs_.contains(Pair(left, right))) return at;
    left = right;
  }
  return text.size();
}

}  // namespace ttt
