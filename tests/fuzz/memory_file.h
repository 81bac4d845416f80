// Bytes that are read through a path and never reach a disk.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/base/check.h"

namespace ttt {

class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
    TTT_CHECK(descriptor_ >= 0);
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void Write(absl::string_view bytes) {
    TTT_CHECK(ftruncate(descriptor_, 0) == 0);
    TTT_CHECK(pwrite(descriptor_, bytes.data(), bytes.size(), 0) ==
              static_cast<ssize_t>(bytes.size()));
  }
  std::string path() const {
    return absl::StrCat("/proc/self/fd/", descriptor_);
  }

 private:
  const int descriptor_;
};

}  // namespace ttt
