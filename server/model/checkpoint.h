// The tensors of a model directory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/config.h"

namespace ttt {

// Where the model's weights come from. Not thread-safe.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // The tensor as float32, row-major. INVALID_ARGUMENT naming the tensor:
  // absent, of another shape, or unreadable.
  virtual absl::StatusOr<std::vector<float>> Read(
      absl::string_view name, const std::vector<int64_t>& shape) = 0;
  // 32 hexadecimal digits that name config and weights.
  virtual std::string fingerprint() const = 0;
};

// Name and shape of every tensor that a model of this config has, in the order
// of the spec's section 3; lm_head.weight only if untied.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

// Opens DIR/model.safetensors, or the shards that
// DIR/model.safetensors.index.json names, and holds them to `config`: every
// tensor of ModelTensors is there, with its shape, as F32, BF16 or F16, all
// values finite, and no other is (a tied lm_head.weight is ignored). Reads
// every byte once. NOT_FOUND: no such file. INVALID_ARGUMENT: anything else
// wrong, naming the file and the tensor or key.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(
    const std::string& model_dir, const ModelConfig& config);

// Random weights in the ranges of a freshly initialised model, the same for the
// same config, for benchmarks and tests.
std::unique_ptr<Checkpoint> MakeDummyCheckpoint(const ModelConfig& config);

}  // namespace ttt
