#include "server/model/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

absl::Status FileError(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& path) {
  // O_NONBLOCK: a pipe of that name must not hold the start up.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) {
      return absl::NotFoundError(absl::StrCat(path, ": no such file"));
    }
    return FileError(path, std::strerror(error));
  }
  struct stat info;
  const bool known = fstat(descriptor, &info) == 0;
  File file(path, descriptor, known ? info.st_size : 0);
  if (!known || !S_ISREG(info.st_mode)) return FileError(path, "not a file");
  return file;
}

File::File(std::string path, int descriptor, int64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

absl::Status File::ReadAt(int64_t offset, int64_t size, void* out) const {
  char* to = static_cast<char*>(out);
  while (size > 0) {
    const ssize_t got = pread(descriptor_, to, size, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(path_, std::strerror(errno));
    if (got == 0) {
      return FileError(path_, absl::StrCat("ends at byte ", offset));
    }
    to += got;
    offset += got;
    size -= got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  TTT_ASSIGN_OR_RETURN(const File file, File::Open(path));
  if (file.size() > max_bytes) {
    return FileError(path, absl::StrCat("is ", file.size(), " bytes; at most ",
                                        max_bytes, " are read"));
  }
  std::string bytes(file.size(), '\0');
  TTT_RETURN_IF_ERROR(file.ReadAt(0, file.size(), bytes.data()));
  return bytes;
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kMaxBytes = 120;
  const std::string escaped = absl::CHexEscape(text.substr(0, kMaxBytes));
  return absl::StrCat("\"", escaped, text.size() > kMaxBytes ? "...\"" : "\"");
}

}  // namespace ttt
