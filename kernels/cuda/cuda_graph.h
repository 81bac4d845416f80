// Ops recorded as a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace ttt {

class CudaGraph : public Recording {
 public:
  // Of what `work` queues on `stream`, which does not run. Errors of `work`;
  // INTERNAL, RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<Recording>> Record(
      cudaStream_t stream, absl::FunctionRef<absl::Status()> work);
  explicit CudaGraph(cudaGraphExec_t exec) : exec_(exec) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() override;

  absl::Status Launch(cudaStream_t stream) const;

 private:
  const cudaGraphExec_t exec_;
};

}  // namespace ttt
