#include "server/model/sentencepiece_model.h"

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kModelPieces = 1;
constexpr uint32_t kModelTrainer = 2;
constexpr uint32_t kModelNormalizer = 3;
constexpr uint32_t kModelDenormalizer = 5;
constexpr uint32_t kPieceText = 1;
constexpr uint32_t kPieceScore = 2;
constexpr uint32_t kPieceType = 3;
constexpr uint32_t kTrainerModelType = 3;
constexpr uint32_t kTrainerSpaceSuffix = 24;
constexpr uint32_t kTrainerByteFallback = 35;
constexpr uint32_t kTrainerUnkSurface = 44;
constexpr uint32_t kTrainerUnkPiece = 45;
constexpr uint32_t kTrainerBosPiece = 46;
constexpr uint32_t kTrainerEosPiece = 47;
constexpr uint32_t kTrainerPadPiece = 48;
constexpr uint32_t kNormalizerCharsmap = 2;
constexpr uint32_t kNormalizerDummyPrefix = 3;
constexpr uint32_t kNormalizerExtraSpaces = 4;
constexpr uint32_t kNormalizerEscapeSpaces = 5;

enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kFixed32 = 5
};

absl::Status Damaged() {
  return absl::InvalidArgumentError("not a SentencePiece model, or damaged");
}

// One field of a message: `bytes` of a string or message, else `number`.
struct Field {
  uint32_t id = 0;
  uint32_t wire_type = 0;
  uint64_t number = 0;
  absl::string_view bytes;
};

// Walks the fields of a serialized message.
class Fields {
 public:
  explicit Fields(absl::string_view message) : rest_(message) {}

  bool done() const { return rest_.empty(); }

  absl::StatusOr<Field> Next() {
    uint64_t tag = 0;
    Field field;
    if (!ReadVarint(&tag) || tag >> 32 != 0 || tag >> 3 == 0) return Damaged();
    field.id = static_cast<uint32_t>(tag >> 3);
    field.wire_type = tag & 7;
    if (!ReadValue(&field)) return Damaged();
    return field;
  }

 private:
  bool ReadVarint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return false;
      const uint8_t byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      *value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool ReadFixed(size_t size, uint64_t* value) {
    if (rest_.size() < size) return false;
    std::memcpy(value, rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
  }

  bool ReadValue(Field* field) {
    switch (field->wire_type) {
      case kVarint:
        return ReadVarint(&field->number);
      case kFixed64:
        return ReadFixed(8, &field->number);
      case kFixed32:
        return ReadFixed(4, &field->number);
      case kBytes: {
        uint64_t size = 0;
        if (!ReadVarint(&size) || size > rest_.size()) return false;
        field->bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
      }
      default:
        return false;
    }
  }

  absl::string_view rest_;
};

// Calls `use` for each field of the message; false from it: of a wrong type.
absl::Status ForEachField(absl::string_view message,
                          const std::function<bool(const Field&)>& use) {
  for (Fields fields(message); !fields.done();) {
    TTT_ASSIGN_OR_RETURN(const Field field, fields.Next());
    if (!use(field)) return Damaged();
  }
  return absl::OkStatus();
}

bool Take(const Field& field, std::string* out) {
  if (field.wire_type != kBytes) return false;
  *out = std::string(field.bytes);
  return true;
}

bool Take(const Field& field, bool* out) {
  *out = field.number != 0;
  return field.wire_type == kVarint;
}

bool Take(const Field& field, float* out) {
  const uint32_t bits = static_cast<uint32_t>(field.number);
  std::memcpy(out, &bits, sizeof(bits));
  return field.wire_type == kFixed32;
}

absl::Status ReadPiece(absl::string_view message,
                       SentencePieceModel::Piece* piece) {
  return ForEachField(message, [&](const Field& field) {
    switch (field.id) {
      case kPieceText:
        return Take(field, &piece->text);
      case kPieceScore:
        return Take(field, &piece->score);
      case kPieceType:
        piece->type = static_cast<SentencePieceModel::PieceType>(field.number);
        return field.wire_type == kVarint && field.number >= 1 &&
               field.number <= 6;
      default:
        return true;
    }
  });
}

absl::Status ReadTrainer(absl::string_view message, SentencePieceModel* model) {
  return ForEachField(message, [&](const Field& field) {
    switch (field.id) {
      case kTrainerModelType:
        model->model_type = static_cast<int64_t>(field.number);
        return field.wire_type == kVarint;
      case kTrainerSpaceSuffix:
        return Take(field, &model->treat_whitespace_as_suffix);
      case kTrainerByteFallback:
        return Take(field, &model->byte_fallback);
      case kTrainerUnkSurface:
        return Take(field, &model->unk_surface.emplace());
      case kTrainerUnkPiece:
        return Take(field, &model->unk_piece);
      case kTrainerBosPiece:
        return Take(field, &model->bos_piece);
      case kTrainerEosPiece:
        return Take(field, &model->eos_piece);
      case kTrainerPadPiece:
        return Take(field, &model->pad_piece);
      default:
        return true;
    }
  });
}

absl::Status ReadNormalizer(absl::string_view message,
                            SentencePieceModel* model) {
  return ForEachField(message, [&](const Field& field) {
    switch (field.id) {
      case kNormalizerCharsmap:
        return Take(field, &model->charsmap);
      case kNormalizerDummyPrefix:
        return Take(field, &model->add_dummy_prefix);
      case kNormalizerExtraSpaces:
        return Take(field, &model->remove_extra_whitespaces);
      case kNormalizerEscapeSpaces:
        return Take(field, &model->escape_whitespaces);
      default:
        return true;
    }
  });
}

absl::Status ReadDenormalizer(absl::string_view message,
                              SentencePieceModel* model) {
  return ForEachField(message, [&](const Field& field) {
    if (field.id == kNormalizerCharsmap)
      model->has_denormalizer |= !field.bytes.empty();
    return true;
  });
}

absl::Status ReadModelField(const Field& field, SentencePieceModel* model) {
  switch (field.id) {
    case kModelPieces:
      model->pieces.emplace_back();
      return ReadPiece(field.bytes, &model->pieces.back());
    case kModelTrainer:
      return ReadTrainer(field.bytes, model);
    case kModelNormalizer:
      return ReadNormalizer(field.bytes, model);
    case kModelDenormalizer:
      return ReadDenormalizer(field.bytes, model);
    default:
      return absl::OkStatus();
  }
}

// Writes the fields of a message.
class Writer {
 public:
  void Number(uint32_t id, uint64_t value) {
    Varint(id << 3 | kVarint);
    Varint(value);
  }
  void Float(uint32_t id, float value) {
    Varint(id << 3 | kFixed32);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Bytes(uint32_t id, absl::string_view value) {
    Varint(id << 3 | kBytes);
    Varint(value.size());
    absl::StrAppend(&bytes_, value);
  }
  void NonEmpty(uint32_t id, absl::string_view value) {
    if (!value.empty()) Bytes(id, value);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7)
      bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
  }

  std::string bytes_;
};

std::string TrainerBytes(const SentencePieceModel& model) {
  Writer trainer;
  trainer.Number(kTrainerModelType, model.model_type);
  trainer.Number(kTrainerSpaceSuffix, model.treat_whitespace_as_suffix);
  trainer.Number(kTrainerByteFallback, model.byte_fallback);
  if (model.unk_surface.has_value())
    trainer.Bytes(kTrainerUnkSurface, *model.unk_surface);
  trainer.NonEmpty(kTrainerUnkPiece, model.unk_piece);
  trainer.NonEmpty(kTrainerBosPiece, model.bos_piece);
  trainer.NonEmpty(kTrainerEosPiece, model.eos_piece);
  trainer.NonEmpty(kTrainerPadPiece, model.pad_piece);
  return trainer.bytes();
}

std::string NormalizerBytes(const SentencePieceModel& model) {
  Writer normalizer;
  normalizer.NonEmpty(kNormalizerCharsmap, model.charsmap);
  normalizer.Number(kNormalizerDummyPrefix, model.add_dummy_prefix);
  normalizer.Number(kNormalizerExtraSpaces, model.remove_extra_whitespaces);
  normalizer.Number(kNormalizerEscapeSpaces, model.escape_whitespaces);
  return normalizer.bytes();
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(
    absl::string_view bytes) {
  SentencePieceModel model;
  for (Fields fields(bytes); !fields.done();) {
    TTT_ASSIGN_OR_RETURN(const Field field, fields.Next());
    if (field.id <= kModelDenormalizer && field.wire_type != kBytes)
      return Damaged();
    TTT_RETURN_IF_ERROR(ReadModelField(field, &model));
  }
  TTT_RETURN_IF_ERROR(CheckSentencePieceModel(model));
  return model;
}

std::string SerializeSentencePieceModel(const SentencePieceModel& model) {
  Writer writer;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    Writer message;
    message.Bytes(kPieceText, piece.text);
    message.Float(kPieceScore, piece.score);
    message.Number(kPieceType, static_cast<uint64_t>(piece.type));
    writer.Bytes(kModelPieces, message.bytes());
  }
  writer.Bytes(kModelTrainer, TrainerBytes(model));
  writer.Bytes(kModelNormalizer, NormalizerBytes(model));
  return writer.bytes();
}

int ByteOfPiece(absl::string_view piece) {
  constexpr absl::string_view kDigits = "0123456789ABCDEF";
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>')
    return -1;
  const size_t high = kDigits.find(piece[3]);
  const size_t low = kDigits.find(piece[4]);
  if (high == absl::string_view::npos || low == absl::string_view::npos)
    return -1;
  return static_cast<int>(16 * high + low);
}

}  // namespace ttt
