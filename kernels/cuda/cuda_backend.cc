#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"

namespace ttt {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    int32_t ordinal, Precision /*precision*/) {
  if (ordinal < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("CreateCudaBackend: ordinal is ", ordinal));
  }
  int num_devices = 0;
  if (absl::Status status =
          CudaStatus(cudaGetDeviceCount(&num_devices), "no CUDA device");
      !status.ok()) {
    return status;
  }
  if (ordinal >= num_devices) {
    return absl::UnavailableError(
        absl::StrCat("no CUDA device ", ordinal, ": there are ", num_devices));
  }
  return absl::UnimplementedError("the CUDA backend is not in this build yet");
}

}  // namespace ttt
