// A build without the CUDA toolkit.
#include "kernels/cuda/cuda_backend.h"

namespace ttt {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    int32_t /*ordinal*/, Precision /*precision*/) {
  return absl::UnimplementedError("built without CUDA");
}

}  // namespace ttt
