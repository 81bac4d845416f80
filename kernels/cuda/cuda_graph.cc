#include "kernels/cuda/cuda_graph.h"

#include <utility>

#include "kernels/cuda/cuda_status.h"

namespace ttt {

absl::StatusOr<std::unique_ptr<Recording>> CudaGraph::Record(
    cudaStream_t stream, absl::FunctionRef<absl::Status()> work) {
  if (absl::Status status = CudaStatus(
          cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "Record");
      !status.ok()) {
    return status;
  }
  absl::Status recorded = work();
  cudaGraph_t graph = nullptr;
  recorded.Update(CudaStatus(cudaStreamEndCapture(stream, &graph), "Record"));
  cudaGraphExec_t exec = nullptr;
  if (recorded.ok()) {
    recorded = CudaStatus(cudaGraphInstantiate(&exec, graph, 0), "Record");
  }
  // Takes the memory that it needs now, where its lack can be borne.
  if (recorded.ok()) {
    recorded = CudaStatus(cudaGraphUpload(exec, stream), "Record");
    if (!recorded.ok()) static_cast<void>(cudaGraphExecDestroy(exec));
  }
  if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  if (!recorded.ok()) {
    cudaGetLastError();  // It is told here, and not by the next launch.
    return recorded;
  }
  return std::make_unique<CudaGraph>(exec);
}

CudaGraph::~CudaGraph() { static_cast<void>(cudaGraphExecDestroy(exec_)); }

absl::Status CudaGraph::Launch(cudaStream_t stream) const {
  return CudaStatus(cudaGraphLaunch(exec_, stream), "Run");
}

}  // namespace ttt
