#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/gemm_layout.h"

namespace ttt {
namespace {

using EncodeFunction = decltype(&cuTensorMapEncodeTiled);

constexpr unsigned kDriverVersion = 12000;  // that brought the function

// From the driver that is loaded: nothing here links to one.
absl::StatusOr<EncodeFunction> FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  if (absl::Status status =
          CudaStatus(cudaGetDriverEntryPointByVersion(
                         "cuTensorMapEncodeTiled", &function, kDriverVersion,
                         cudaEnableDefault, &found),
                     "cuTensorMapEncodeTiled");
      !status.ok()) {
    return status;
  }
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    return absl::UnavailableError("the driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<EncodeFunction>(function);
}

}  // namespace

absl::StatusOr<CUtensorMap> MakeTensorMap(const TensorMapArgs& args) {
  static const absl::StatusOr<EncodeFunction> encode = FindEncode();
  if (!encode.ok()) return encode.status();
  const cuuint64_t sizes[] = {cuuint64_t(args.num_columns),
                              cuuint64_t(args.num_rows)};
  const cuuint64_t strides[] = {cuuint64_t(args.num_columns) * 2};  // bytes
  const cuuint32_t box[] = {kTileInputs, cuuint32_t(args.box_rows)};
  const cuuint32_t steps[] = {1, 1};
  CUtensorMap map;
  const CUresult result = (*encode)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(args.data),
      sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return map;
  return absl::InternalError(absl::StrCat(
      "cuTensorMapEncodeTiled of ", args.num_rows, " x ", args.num_columns,
      " in boxes of ", args.box_rows, " rows: error ", int(result)));
}

}  // namespace ttt
