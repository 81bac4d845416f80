// Descriptions of arrays for the copy engine.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "absl/status/statusor.h"

namespace ttt {

// A row-major matrix of bfloat16, of which boxes of `box_rows` rows by 64
// columns are copied to shared memory, swizzled by 128 bytes. What is beyond
// the matrix reads as zero.
struct TensorMapArgs {
  const void* data;     // 16-byte aligned
  int32_t num_rows;     // > 0
  int32_t num_columns;  // > 0, a multiple of 8
  int32_t box_rows;     // in [1, 256]
};

// INTERNAL: the driver refuses it. UNAVAILABLE: the driver has no such maps.
absl::StatusOr<CUtensorMap> MakeTensorMap(const TensorMapArgs& args);

}  // namespace ttt
