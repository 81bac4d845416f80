#include <algorithm>
#include <bitset>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "server/model/file.h"
#include "server/model/sentencepiece_model.h"
#include "server/model/utf8.h"

namespace ttt {
namespace {

using PieceType = SentencePieceModel::PieceType;

constexpr size_t kMaxPieces = 1000000;
constexpr size_t kMaxPieceBytes = 4096;
constexpr float kMaxScore = 1e9f;
// The library looks a prefix up into arrays of 64 (user-defined pieces) and 32
// (charsmap) results.
constexpr size_t kMaxNested = 32;
constexpr size_t kMaxReplacementBytes = 256;

absl::Status Refused(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

bool IsUtf8(absl::string_view text) {
  return FindInvalidUtf8(text) == text.size();
}

absl::Status CheckPiece(size_t id, const SentencePieceModel::Piece& piece) {
  const auto refused = [&](absl::string_view what) {
    return Refused(
        absl::StrCat("piece ", id, " ", Quoted(piece.text), " ", what));
  };
  if (piece.text.empty()) return refused("is empty");
  if (piece.text.size() > kMaxPieceBytes) return refused("is too long");
  if (!IsUtf8(piece.text)) return refused("is not UTF-8");
  if (piece.text.find('\0') != std::string::npos) return refused("holds a NUL");
  if (!(std::fabs(piece.score) <= kMaxScore))
    return refused("has no finite score");
  if (piece.type == PieceType::kByte && ByteOfPiece(piece.text) < 0) {
    return refused("is no byte piece");
  }
  return absl::OkStatus();
}

absl::Status CheckPieces(const std::vector<SentencePieceModel::Piece>& pieces) {
  if (pieces.size() > kMaxPieces) {
    return Refused(
        absl::StrCat(pieces.size(), " pieces; at most ", kMaxPieces));
  }
  absl::flat_hash_set<absl::string_view> seen;
  size_t num_unknown = 0;
  for (size_t id = 0; id < pieces.size(); ++id) {
    TTT_RETURN_IF_ERROR(CheckPiece(id, pieces[id]));
    if (!seen.insert(pieces[id].text).second) {
      return Refused(absl::StrCat("piece ", id, " ", Quoted(pieces[id].text),
                                  " is there twice"));
    }
    num_unknown += pieces[id].type == PieceType::kUnknown;
  }
  if (num_unknown == 1) return absl::OkStatus();
  return Refused(
      absl::StrCat(num_unknown, " pieces for the unknown; must be one"));
}

absl::Status CheckBytes(const SentencePieceModel& model) {
  std::bitset<256> bytes;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type == PieceType::kByte) bytes.set(ByteOfPiece(piece.text));
  }
  if (model.byte_fallback ? bytes.all() : bytes.none()) return absl::OkStatus();
  return Refused(absl::StrCat(bytes.count(), " byte pieces; must be ",
                              model.byte_fallback ? "256 with" : "0 without",
                              " byte_fallback"));
}

// In BPE, no control piece is a single character: the library would take it for
// one in a text, where it stands for nothing, and fail.
absl::Status CheckControls(
    const std::vector<SentencePieceModel::Piece>& pieces) {
  for (const SentencePieceModel::Piece& piece : pieces) {
    if (piece.type != PieceType::kControl) continue;
    absl::string_view rest = piece.text;
    TakeCodePoint(&rest);
    if (rest.empty()) {
      return Refused(absl::StrCat("control piece ", Quoted(piece.text),
                                  " is a single character"));
    }
  }
  return absl::OkStatus();
}

// No user-defined piece begins with too many others.
absl::Status CheckNesting(
    const std::vector<SentencePieceModel::Piece>& pieces) {
  std::vector<absl::string_view> symbols;
  for (const SentencePieceModel::Piece& piece : pieces) {
    if (piece.type == PieceType::kUserDefined) symbols.push_back(piece.text);
  }
  std::sort(symbols.begin(), symbols.end());
  std::vector<absl::string_view> open;  // each begins the next
  for (const absl::string_view symbol : symbols) {
    while (!open.empty() && !absl::StartsWith(symbol, open.back()))
      open.pop_back();
    open.push_back(symbol);
    if (open.size() > kMaxNested) {
      return Refused(absl::StrCat("user-defined piece ", Quoted(symbol),
                                  " begins with ", kMaxNested, " others"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSentencePieceModel(const SentencePieceModel& model) {
  if (model.model_type != SentencePieceModel::kUnigram &&
      model.model_type != SentencePieceModel::kBpe) {
    return Refused(absl::StrCat("model_type ", model.model_type,
                                " is neither unigram (1) nor BPE (2)"));
  }
  if (model.has_denormalizer) return Refused("a denormaliser is not supported");
  if (model.treat_whitespace_as_suffix) {
    return Refused("treat_whitespace_as_suffix is not supported");
  }
  TTT_RETURN_IF_ERROR(CheckPieces(model.pieces));
  TTT_RETURN_IF_ERROR(CheckBytes(model));
  TTT_RETURN_IF_ERROR(CheckNesting(model.pieces));
  if (model.model_type == SentencePieceModel::kBpe) {
    TTT_RETURN_IF_ERROR(CheckControls(model.pieces));
  }
  for (const std::string* text : {&model.unk_piece, &model.bos_piece,
                                  &model.eos_piece, &model.pad_piece}) {
    if (!IsUtf8(*text) || text->size() > kMaxPieceBytes) {
      return Refused("the name of a special piece is not UTF-8");
    }
  }
  if (model.unk_surface.has_value() &&
      (!IsUtf8(*model.unk_surface) ||
       model.unk_surface->size() > kMaxPieceBytes)) {
    return Refused("unk_surface is not UTF-8");
  }
  // The library takes it for a C string.
  if (model.unk_surface.value_or("").find('\0') != std::string::npos) {
    return Refused("unk_surface holds a NUL");
  }
  return CheckCharsmap(model.charsmap);
}

namespace {

// A unit of the double array: a label of the edge into it, the offset that its
// children's places are counted from, and whether one of them is a value.
struct Unit {
  uint32_t bits;

  bool is_value() const { return bits >> 31 != 0; }
  uint32_t value() const { return bits & 0x7fffffff; }
  uint32_t label() const { return bits & 0x800000ff; }
  bool has_value() const { return (bits >> 8 & 1) != 0; }
  uint32_t offset() const { return bits >> 10 << ((bits & 0x200) >> 6); }
};

class CharsmapChecker {
 public:
  CharsmapChecker(absl::string_view units, absl::string_view texts)
      : units_(units.size() / sizeof(uint32_t)), texts_(texts) {
    if (units_.empty()) return;  // memcpy takes no null
    std::memcpy(units_.data(), units.data(), units_.size() * sizeof(uint32_t));
  }

  absl::Status Check() {
    if (units_.empty()) return Refused("charsmap: no trie");
    if (texts_.empty() || texts_.back() != '\0' || !IsUtf8(texts_)) {
      return Refused("charsmap: texts are not UTF-8 that ends with NUL");
    }
    depth_.assign(units_.size(), kNew);
    return Walk();
  }

 private:
  static constexpr uint8_t kNew = 0xff;
  static constexpr uint8_t kOpen = 0xfe;

  // One unit on the path from the root.
  struct Step {
    uint32_t unit;
    uint32_t next_label;
    uint8_t deepest;  // values on the longest path below
  };

  // The places that a look-up reads from `unit` on: children are at
  // base ^ label, a value at base.
  uint32_t Base(uint32_t unit) const { return unit ^ units_[unit].offset(); }

  absl::Status Enter(uint32_t unit) {
    if ((Base(unit) | 0xff) >= units_.size()) {
      return Refused("charsmap: the trie points out of itself");
    }
    if (units_[unit].has_value())
      TTT_RETURN_IF_ERROR(CheckValue(units_[Base(unit)]));
    depth_[unit] = kOpen;
    path_.push_back({unit, 1, 0});
    return absl::OkStatus();
  }

  absl::Status CheckValue(Unit unit) const {
    const bool inside = unit.is_value() && unit.value() < texts_.size();
    if (inside && texts_.find('\0', unit.value()) - unit.value() <=
                      kMaxReplacementBytes) {
      return absl::OkStatus();
    }
    return Refused("charsmap: a value points at no text");
  }

  // Depth first, without recursion. Nodes may share what is below them, and
  // must not lie on a circle.
  absl::Status Walk() {
    TTT_RETURN_IF_ERROR(Enter(0));
    while (!path_.empty()) {
      if (path_.back().next_label < 256) {
        TTT_RETURN_IF_ERROR(Descend(path_.back().next_label++));
      } else {
        TTT_RETURN_IF_ERROR(Leave());
      }
    }
    return absl::OkStatus();
  }

  absl::Status Descend(uint32_t label) {
    const uint32_t child = Base(path_.back().unit) ^ label;
    if (units_[child].label() != label) return absl::OkStatus();
    if (depth_[child] == kNew) return Enter(child);
    if (depth_[child] == kOpen)
      return Refused("charsmap: the trie runs in a circle");
    path_.back().deepest = std::max(path_.back().deepest, depth_[child]);
    return absl::OkStatus();
  }

  absl::Status Leave() {
    const Step step = path_.back();
    path_.pop_back();
    const uint8_t depth =
        static_cast<uint8_t>(step.deepest + units_[step.unit].has_value());
    if (depth > kMaxNested) return Refused("charsmap: too many nested rules");
    depth_[step.unit] = depth;
    if (!path_.empty())
      path_.back().deepest = std::max(path_.back().deepest, depth);
    return absl::OkStatus();
  }

  std::vector<Unit> units_;
  const absl::string_view texts_;
  std::vector<uint8_t> depth_;  // kNew, kOpen, or values on the longest path
  std::vector<Step> path_;
};

}  // namespace

absl::Status CheckCharsmap(absl::string_view charsmap) {
  if (charsmap.empty()) return absl::OkStatus();
  uint32_t trie_bytes = 0;
  if (charsmap.size() < sizeof(trie_bytes))
    return Refused("charsmap: too short");
  std::memcpy(&trie_bytes, charsmap.data(), sizeof(trie_bytes));
  charsmap.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes > charsmap.size() || trie_bytes % sizeof(uint32_t) != 0) {
    return Refused("charsmap: the trie is longer than the map");
  }
  return CharsmapChecker(charsmap.substr(0, trie_bytes),
                         charsmap.substr(trie_bytes))
      .Check();
}

}  // namespace ttt
