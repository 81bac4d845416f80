// Tensors by name in a file of the safetensors format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/file.h"

namespace ttt {

struct SafetensorsTensor {
  std::string dtype;  // as in the file: "F32", "BF16", "I32", ...
  std::vector<int64_t> shape;
  int64_t begin_byte = 0;  // from the first byte after the header
  int64_t num_bytes = 0;

  int64_t num_elements() const;
};

using SafetensorsMap = std::map<std::string, SafetensorsTensor, std::less<>>;

// The JSON header of a file with `data_bytes` bytes of tensors.
// INVALID_ARGUMENT, naming the tensor: not JSON, an unknown type, a shape that
// does not fit its bytes, or tensors that do not fill the data without overlap
// and holes.
absl::StatusOr<SafetensorsMap> ParseSafetensorsHeader(absl::string_view header,
                                                      int64_t data_bytes);

// "[768, 1, 4]".
std::string ShapeText(const std::vector<int64_t>& shape);

// An open file whose header is known to be sound. Thread-safe.
class SafetensorsFile {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: damaged; names the file.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const SafetensorsMap& tensors() const { return tensors_; }
  const std::string& path() const { return file_.path(); }

  // Bytes [offset, offset + size) of a tensor of this file, as stored.
  // INVALID_ARGUMENT: the file cannot be read.
  absl::Status ReadBytes(const SafetensorsTensor& tensor, int64_t offset,
                         int64_t size, void* out) const;
  // A tensor of type F32, BF16 or F16 as float32. INVALID_ARGUMENT: another
  // type, or the file cannot be read.
  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const;
  // A tensor of type I32, the same way.
  absl::StatusOr<std::vector<int32_t>> ReadInts(absl::string_view name) const;

 private:
  SafetensorsFile(File file, SafetensorsMap tensors, int64_t data_offset);

  absl::StatusOr<const SafetensorsTensor*> Find(absl::string_view name) const;

  File file_;
  SafetensorsMap tensors_;
  int64_t data_offset_;
};

// Whether ReadFloats takes a tensor of this type.
bool IsFloatType(absl::string_view dtype);

// `num_elements` stored values to float32, exactly. `dtype` is a float type.
void WidenFloats(absl::string_view dtype, const void* stored,
                 int64_t num_elements, float* out);

}  // namespace ttt
