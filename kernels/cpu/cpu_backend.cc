#include "kernels/cpu/cpu_backend.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/reference_backend.h"

namespace ttt {

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options) {
  if (options.num_threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("CreateCpuBackend: num_threads is ", options.num_threads));
  }
  return CreateReferenceBackend(options.precision);
}

}  // namespace ttt
