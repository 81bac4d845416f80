// A file of tensors: it is refused, or every byte of it belongs to one tensor
// and can be read.
#include "server/model/safetensors.h"

#include "absl/strings/match.h"
#include "server/base/check.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/memory_file.h"

namespace ttt {
namespace {

void CheckTensor(const SafetensorsFile& file, const std::string& name,
                 const SafetensorsTensor& tensor, int64_t data_bytes) {
  TTT_CHECK(tensor.begin_byte >= 0 && tensor.num_bytes >= 0);
  TTT_CHECK(tensor.begin_byte + tensor.num_bytes <= data_bytes);
  std::string bytes(tensor.num_bytes, '\0');
  TTT_CHECK(file.ReadBytes(tensor, 0, tensor.num_bytes, bytes.data()).ok());
  const auto floats = file.ReadFloats(name);
  TTT_CHECK(floats.ok() == IsFloatType(tensor.dtype));
  TTT_CHECK(!floats.ok() || floats->size() == tensor.num_elements());
  const auto ints = file.ReadInts(name);
  TTT_CHECK(ints.ok() == (tensor.dtype == "I32"));
  TTT_CHECK(!ints.ok() || ints->size() == tensor.num_elements());
}

}  // namespace

void FuzzSafetensors(absl::string_view bytes) {
  MemoryFile memory;
  memory.Write(bytes);
  const auto file = SafetensorsFile::Open(memory.path());
  if (!file.ok()) {
    TTT_CHECK(absl::IsInvalidArgument(file.status()));
    TTT_CHECK(absl::StrContains(file.status().message(), memory.path()));
    return;
  }
  const int64_t size = static_cast<int64_t>(bytes.size());
  int64_t covered = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    CheckTensor(*file, name, tensor, size - 8);
    covered += tensor.num_bytes;
  }
  uint64_t header_bytes = 0;
  bytes.copy(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  TTT_CHECK(covered == size - 8 - static_cast<int64_t>(header_bytes));
  TTT_CHECK(!file->ReadFloats("no such tensor").ok() ||
            file->tensors().count("no such tensor") > 0);
}

}  // namespace ttt
