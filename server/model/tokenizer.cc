#include "server/model/tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/check.h"
#include "server/base/status_macros.h"
#include "server/model/file.h"
#include "server/model/safe_cuts.h"
#include "server/model/sentencepiece_model.h"
#include "server/model/sentencepiece_wrapper.h"
#include "server/model/utf8.h"

namespace ttt {
namespace {

using PieceType = SentencePieceModel::PieceType;

constexpr int64_t kMaxModelBytes = int64_t{64} << 20;
// The library counts in int, and takes about 300 bytes of memory a token.
constexpr size_t kMaxTextBytes = size_t{64} << 20;
constexpr char kUnknownSurface[] =
    " \xe2\x81\x87 ";  // U+2047, the library's default

int32_t UnknownId(const SentencePieceModel& model) {
  int32_t id = 0;
  while (model.pieces[id].type != PieceType::kUnknown) ++id;
  return id;
}

// Without byte pieces, a run of unknown characters is one unknown token, and
// the library takes time in the square of its length to find that. With byte
// pieces it takes one byte after the other. So the library gets byte pieces
// after the vocabulary, and a run of them becomes the unknown token here.
void AddBytePieces(SentencePieceModel* model) {
  for (const SentencePieceModel::Piece& piece : model->pieces) {
    if (ByteOfPiece(piece.text) >= 0) return;  // the names are taken
  }
  for (int byte = 0; byte < 256; ++byte) {
    model->pieces.push_back(
        {absl::StrFormat("<0x%02X>", byte), 0.0f, PieceType::kByte});
  }
  model->byte_fallback = true;
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceModel model,
                         std::unique_ptr<SentencePieceWrapper> start,
                         std::unique_ptr<SentencePieceWrapper> going_on)
      : model_(std::move(model)),
        cuts_(model_),
        unk_id_(UnknownId(model_)),
        start_(std::move(start)),
        going_on_(std::move(going_on)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool at_start) const override {
    return EncodeWhile(text, at_start,
                       [](int64_t) { return absl::OkStatus(); });
  }

  absl::StatusOr<std::vector<int32_t>> EncodeWhile(
      absl::string_view text, bool at_start,
      absl::FunctionRef<absl::Status(int64_t)> go_on) const override {
    if (text.size() > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "text of ", text.size(), " bytes; at most ", kMaxTextBytes));
    }
    const size_t valid = FindInvalidUtf8(text);
    if (valid < text.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("text is not UTF-8 at byte ", valid));
    }
    std::vector<int32_t> ids;
    if (at_start && bos_id() >= 0) ids.push_back(bos_id());
    const SentencePieceWrapper* processor =
        at_start ? start_.get() : going_on_.get();
    do {
      TTT_RETURN_IF_ERROR(go_on(static_cast<int64_t>(ids.size())));
      const size_t size = cuts_.FirstPart(text);
      TTT_RETURN_IF_ERROR(EncodePart(*processor, text.substr(0, size), &ids));
      text.remove_prefix(size);
      processor = going_on_.get();
    } while (!text.empty());
    return ids;
  }

  absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const override {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocab_size()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside [0, ", vocab_size(), ")"));
    }
    std::string text;
    std::string error;
    if (!start_->Decode({ids.begin(), ids.end()}, &text, &error)) {
      return absl::InternalError(absl::StrCat("SentencePiece: ", error));
    }
    return text;
  }

  std::string Piece(int32_t id) const override {
    return id < vocab_size() ? At(id).text : "";
  }

  TokenText Text(int32_t id) const override {
    if (id >= vocab_size()) return {};
    const SentencePieceModel::Piece& piece = At(id);
    switch (piece.type) {
      case PieceType::kControl:
        return {};
      case PieceType::kUnknown:
        return {.text = model_.unk_surface.value_or(kUnknownSurface)};
      case PieceType::kByte:
        return {
            .text = std::string(1, static_cast<char>(ByteOfPiece(piece.text))),
            .is_byte = true};
      default:
        return Tokenizer::Text(id);
    }
  }

  LeadingSpace leading_space() const override {
    if (model_.remove_extra_whitespaces) return LeadingSpace::kAll;
    return model_.add_dummy_prefix ? LeadingSpace::kOne : LeadingSpace::kText;
  }

  int32_t vocab_size() const override {
    return static_cast<int32_t>(model_.pieces.size());
  }
  int32_t bos_id() const override { return start_->bos_id(); }
  int32_t eos_id() const override { return start_->eos_id(); }

 private:
  absl::Status EncodePart(const SentencePieceWrapper& processor,
                          absl::string_view text,
                          std::vector<int32_t>* ids) const {
    std::vector<int> part;
    std::string error;
    if (!processor.Encode({text.data(), text.size()}, &part, &error)) {
      return absl::InternalError(absl::StrCat("SentencePiece: ", error));
    }
    for (const int id : part) {
      const int32_t known = id < vocab_size() ? id : unk_id_;
      // A run of unknown characters is one token, across parts too.
      if (known == unk_id_ && !ids->empty() && ids->back() == unk_id_) continue;
      ids->push_back(known);
    }
    return absl::OkStatus();
  }

  const SentencePieceModel::Piece& At(int32_t id) const {
    TTT_CHECK(id >= 0 && id < vocab_size());
    return model_.pieces[id];
  }

  const SentencePieceModel model_;
  const SafeCuts cuts_;
  const int32_t unk_id_;
  const std::unique_ptr<SentencePieceWrapper> start_;  // as the model has it
  const std::unique_ptr<SentencePieceWrapper>
      going_on_;  // without dummy prefix
};

absl::StatusOr<std::unique_ptr<SentencePieceWrapper>> LoadProcessor(
    const SentencePieceModel& model) {
  std::string error;
  auto processor =
      SentencePieceWrapper::Load(SerializeSentencePieceModel(model), &error);
  if (processor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("SentencePiece: ", error));
  }
  TTT_CHECK(processor->num_pieces() == static_cast<int>(model.pieces.size()));
  return processor;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeWhile(
    absl::string_view text, bool at_start,
    absl::FunctionRef<absl::Status(int64_t)> go_on) const {
  TTT_RETURN_IF_ERROR(go_on(0));
  return Encode(text, at_start);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizer(
    absl::string_view bytes) {
  TTT_ASSIGN_OR_RETURN(SentencePieceModel model,
                       ParseSentencePieceModel(bytes));
  SentencePieceModel loaded = model;
  AddBytePieces(&loaded);
  TTT_ASSIGN_OR_RETURN(auto start, LoadProcessor(loaded));
  loaded.add_dummy_prefix = false;
  TTT_ASSIGN_OR_RETURN(auto going_on, LoadProcessor(loaded));
  return std::make_unique<SentencePieceTokenizer>(
      std::move(model), std::move(start), std::move(going_on));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    const std::string& path) {
  TTT_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxModelBytes));
  auto tokenizer = ParseTokenizer(bytes);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(path, ": ", tokenizer.status().message()));
}

}  // namespace ttt
