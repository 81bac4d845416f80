#include "kernels/cpu/host_backend.h"

#include "absl/strings/str_cat.h"

namespace ttt {

absl::Status HostBackend::Copy(void* to, const void* from, int64_t size_bytes) {
  if (size_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Copy: size_bytes is ", size_bytes));
  }
  if (size_bytes > 0) std::memmove(to, from, size_bytes);
  return absl::OkStatus();
}

}  // namespace ttt
