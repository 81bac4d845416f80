#include "server/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/check.h"
#include "server/base/status_macros.h"
#include "server/model/strict_json.h"

namespace ttt {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "stored tensors are little-endian");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100 * 1000 * 1000;
constexpr size_t kMaxDimensions = 16;
constexpr int64_t kChunkElements = int64_t{1} << 20;

struct TypeBytes {
  absl::string_view name;
  int64_t bytes;
};
constexpr TypeBytes kTypes[] = {
    {"F32", 4}, {"BF16", 2}, {"F16", 2},  {"F64", 8},     {"I64", 8},
    {"I32", 4}, {"I16", 2},  {"I8", 1},   {"U64", 8},     {"U32", 4},
    {"U16", 2}, {"U8", 1},   {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

absl::Status TensorError(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", Quoted(name), ": ", what));
}

// A count or an offset: an integer in [0, 2^63). -1 if it is none.
int64_t ReadCount(const json& value) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMax) return -1;
  return static_cast<int64_t>(value.get<uint64_t>());
}

absl::Status ReadShape(absl::string_view name, const json& entry,
                       SafetensorsTensor* tensor) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() ||
      shape->size() > kMaxDimensions) {
    return TensorError(name, "shape must be a list of at most 16 integers");
  }
  for (const json& dimension : *shape) {
    tensor->shape.push_back(ReadCount(dimension));
    if (tensor->shape.back() < 0) {
      return TensorError(name, "a dimension is not an integer of 0 or more");
    }
  }
  return absl::OkStatus();
}

// Sets num_bytes from type and shape.
absl::Status ReadSize(absl::string_view name, const json& entry,
                      SafetensorsTensor* tensor) {
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return TensorError(name, "dtype must be a string");
  }
  tensor->dtype = dtype->get<std::string>();
  const auto type = std::find_if(
      std::begin(kTypes), std::end(kTypes),
      [&](const TypeBytes& known) { return known.name == tensor->dtype; });
  if (type == std::end(kTypes)) {
    return TensorError(name,
                       absl::StrCat("unknown dtype ", Quoted(tensor->dtype)));
  }
  int64_t bytes = type->bytes;
  for (const int64_t dimension : tensor->shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) {
      return TensorError(
          name, absl::StrCat("shape ", ShapeText(tensor->shape), " overflows"));
    }
  }
  tensor->num_bytes = bytes;
  return absl::OkStatus();
}

absl::Status ReadOffsets(absl::string_view name, const json& entry,
                         int64_t data_bytes, SafetensorsTensor* tensor) {
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return TensorError(name, "data_offsets must be two integers");
  }
  const int64_t begin = ReadCount((*offsets)[0]);
  const int64_t end = ReadCount((*offsets)[1]);
  if (begin < 0 || end < 0) {
    return TensorError(
        name,
        absl::StrCat("data_offsets are ", Quoted(offsets->dump(-1, ' ', true)),
                     ", must be two integers of 0 or more"));
  }
  if (end < begin || end > data_bytes) {
    return TensorError(
        name, absl::StrCat("data_offsets [", begin, ", ", end, "] outside the ",
                           data_bytes, " bytes of data; the file may be cut"));
  }
  if (end - begin != tensor->num_bytes) {
    return TensorError(
        name,
        absl::StrCat(tensor->dtype, " of shape ", ShapeText(tensor->shape),
                     " takes ", tensor->num_bytes, " bytes; data_offsets give ",
                     end - begin));
  }
  tensor->begin_byte = begin;
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsTensor> ReadEntry(absl::string_view name,
                                            const json& entry,
                                            int64_t data_bytes) {
  if (!entry.is_object()) return TensorError(name, "must be a JSON object");
  SafetensorsTensor tensor;
  TTT_RETURN_IF_ERROR(ReadShape(name, entry, &tensor));
  TTT_RETURN_IF_ERROR(ReadSize(name, entry, &tensor));
  TTT_RETURN_IF_ERROR(ReadOffsets(name, entry, data_bytes, &tensor));
  return tensor;
}

// Every byte of the data belongs to one tensor.
absl::Status CheckCover(const SafetensorsMap& tensors, int64_t data_bytes) {
  std::vector<const SafetensorsMap::value_type*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin_byte, a->second.num_bytes) <
           std::pair(b->second.begin_byte, b->second.num_bytes);
  });
  int64_t covered = 0;
  for (const auto* tensor : order) {
    if (tensor->second.begin_byte != covered) {
      return TensorError(
          tensor->first,
          absl::StrCat("starts at byte ", tensor->second.begin_byte,
                       " of the data; the tensor before ends at ", covered));
    }
    covered += tensor->second.num_bytes;
  }
  if (covered == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(data_bytes - covered,
                   " bytes of data after the last tensor belong to none"));
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0) {  // zero and subnormal
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

}  // namespace

int64_t SafetensorsTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<SafetensorsMap> ParseSafetensorsHeader(absl::string_view header,
                                                      int64_t data_bytes) {
  absl::StatusOr<json> document = ParseStrictJson(header);
  if (!document.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("header: ", document.status().message()));
  }
  if (!document->is_object()) {
    return absl::InvalidArgumentError("header: must be a JSON object");
  }
  SafetensorsMap tensors;
  for (const auto& [name, entry] : document->items()) {
    if (name == "__metadata__") continue;
    TTT_ASSIGN_OR_RETURN(tensors[name], ReadEntry(name, entry, data_bytes));
  }
  TTT_RETURN_IF_ERROR(CheckCover(tensors, data_bytes));
  return tensors;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  TTT_ASSIGN_OR_RETURN(File file, File::Open(path));
  uint64_t header_bytes = 0;
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", file.size(), " bytes are no safetensors file"));
  }
  TTT_RETURN_IF_ERROR(file.ReadAt(0, kLengthBytes, &header_bytes));
  const uint64_t limit = std::min(kMaxHeaderBytes, file.size() - kLengthBytes);
  if (header_bytes > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": header of ", header_bytes,
                     " bytes; the file has room for ", limit));
  }
  std::string header(header_bytes, '\0');
  TTT_RETURN_IF_ERROR(file.ReadAt(kLengthBytes, header.size(), header.data()));
  const int64_t data_offset =
      kLengthBytes + static_cast<int64_t>(header.size());
  absl::StatusOr<SafetensorsMap> tensors =
      ParseSafetensorsHeader(header, file.size() - data_offset);
  if (!tensors.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", tensors.status().message()));
  }
  return SafetensorsFile(std::move(file), *std::move(tensors), data_offset);
}

SafetensorsFile::SafetensorsFile(File file, SafetensorsMap tensors,
                                 int64_t data_offset)
    : file_(std::move(file)),
      tensors_(std::move(tensors)),
      data_offset_(data_offset) {}

absl::StatusOr<const SafetensorsTensor*> SafetensorsFile::Find(
    absl::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  return absl::InvalidArgumentError(
      absl::StrCat(path(), ": tensor ", Quoted(name), " is missing"));
}

absl::Status SafetensorsFile::ReadBytes(const SafetensorsTensor& tensor,
                                        int64_t offset, int64_t size,
                                        void* out) const {
  TTT_CHECK(offset >= 0 && size >= 0 && offset + size <= tensor.num_bytes);
  return file_.ReadAt(data_offset_ + tensor.begin_byte + offset, size, out);
}

absl::StatusOr<std::vector<float>> SafetensorsFile::ReadFloats(
    absl::string_view name) const {
  TTT_ASSIGN_OR_RETURN(const SafetensorsTensor* const tensor, Find(name));
  if (!IsFloatType(tensor->dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": tensor ", Quoted(name), " is ", tensor->dtype,
                     "; must be F32, BF16 or F16"));
  }
  std::vector<float> values(tensor->num_elements());
  if (tensor->dtype == "F32") {
    TTT_RETURN_IF_ERROR(
        ReadBytes(*tensor, 0, tensor->num_bytes, values.data()));
    return values;
  }
  std::vector<uint16_t> stored(
      std::min<int64_t>(values.size(), kChunkElements));
  for (int64_t done = 0; done < static_cast<int64_t>(values.size());) {
    const int64_t count =
        std::min<int64_t>(values.size() - done, kChunkElements);
    TTT_RETURN_IF_ERROR(ReadBytes(*tensor, 2 * done, 2 * count, stored.data()));
    WidenFloats(tensor->dtype, stored.data(), count, values.data() + done);
    done += count;
  }
  return values;
}

absl::StatusOr<std::vector<int32_t>> SafetensorsFile::ReadInts(
    absl::string_view name) const {
  TTT_ASSIGN_OR_RETURN(const SafetensorsTensor* const tensor, Find(name));
  if (tensor->dtype != "I32") {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": tensor ", Quoted(name), " is ", tensor->dtype,
                     "; must be I32"));
  }
  std::vector<int32_t> values(tensor->num_elements());
  TTT_RETURN_IF_ERROR(ReadBytes(*tensor, 0, tensor->num_bytes, values.data()));
  return values;
}

bool IsFloatType(absl::string_view dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

void WidenFloats(absl::string_view dtype, const void* stored,
                 int64_t num_elements, float* out) {
  if (dtype == "F32") {
    std::memcpy(out, stored, num_elements * sizeof(float));
    return;
  }
  const uint16_t* const values = static_cast<const uint16_t*>(stored);
  if (dtype == "BF16") {
    for (int64_t i = 0; i < num_elements; ++i) {
      out[i] = std::bit_cast<float>(static_cast<uint32_t>(values[i]) << 16);
    }
    return;
  }
  for (int64_t i = 0; i < num_elements; ++i) out[i] = HalfToFloat(values[i]);
}

}  // namespace ttt
