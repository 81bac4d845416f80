// One pass over all stored bytes of a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/config.h"
#include "server/model/safetensors.h"

namespace ttt {

// A tensor and the file it is in, which must outlive this.
struct StoredTensor {
  std::string name;
  const SafetensorsFile* file;
  const SafetensorsTensor* tensor;  // of a float type
};

// The fingerprint of config, names, types, shapes and bytes; how the tensors
// are spread over files does not enter. Reads on several threads.
// INVALID_ARGUMENT, naming the tensor: a value that is not finite, or the file
// cannot be read.
absl::StatusOr<std::string> ScanTensors(
    const ModelConfig& config, const std::vector<StoredTensor>& tensors);

}  // namespace ttt
