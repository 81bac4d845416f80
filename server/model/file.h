// Files of a model directory, read without trusting them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ttt {

// A regular file open for reading. Thread-safe: reads take their own offset.
class File {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a regular file, or
  // unreadable.
  static absl::StatusOr<File> Open(const std::string& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  // Bytes [offset, offset + size) into `out`. INVALID_ARGUMENT: the file ends
  // before, or an I/O error. A file that is cut while it is open gives an error
  // too, which is why nothing here is mapped into memory.
  absl::Status ReadAt(int64_t offset, int64_t size, void* out) const;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // when it was opened

 private:
  File(std::string path, int descriptor, int64_t size);

  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// The whole file. Errors of File; INVALID_ARGUMENT: over `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes);

// Text from a file as it may stand in a message: escaped, in quotes, and cut.
std::string Quoted(absl::string_view text);

}  // namespace ttt
