#include "kernels/cpu/cpu_backend.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/reference_backend.h"

namespace ttt {

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    const CpuBackendOptions& options) {
  constexpr int32_t kMaxThreads = 1024;
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("CreateCpuBackend: num_threads is ", options.num_threads));
  }
  if (options.reference) return CreateReferenceBackend(options.precision);
  if (options.precision == Precision::kBFloat16 && !CpuHasBFloat16()) {
    return absl::UnimplementedError(
        "bfloat16 needs a CPU with AVX512-BF16 or AMX");
  }
  const int32_t num_threads =
      options.num_threads > 0 ? options.num_threads : NumUsableCores();
  return CreateFastBackend(options.precision, num_threads, DetectIsa());
}

}  // namespace ttt
