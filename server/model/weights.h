// The weights of a TTT model on its device. Internal to the model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/model/checkpoint.h"
#include "server/model/config.h"
#include "server/session/state_layout.h"

namespace ttt {

using DeviceArray = std::unique_ptr<DeviceBuffer>;  // of float32; null: absent

struct CausalConvWeights {
  DeviceArray weight;  // [kernel, hidden_size], tap kernel - 1 is the newest
  DeviceArray bias;    // [hidden_size]
};

struct LayerWeights {
  DeviceArray conv_norm;  // [hidden_size], with pre_conv
  CausalConvWeights conv;
  DeviceArray seq_norm;  // [hidden_size]
  // One product for all projections of the TTT layer's input: rows of queries
  // (or the shared projection), keys unless shared, values, gate if any, rates.
  std::unique_ptr<GemmWeights> projections;
  CausalConvWeights conv_q, conv_k;              // with share_qk
  DeviceArray rate_bias;                         // [num_heads]
  DeviceArray token_scale;                       // [mini_batch]
  DeviceArray norm_weight, norm_bias;            // [num_heads, head_dim]
  DeviceArray post_norm_weight, post_norm_bias;  // [hidden_size]
  std::unique_ptr<GemmWeights> output;           // [hidden_size, hidden_size]
  DeviceArray ffn_norm;                          // [hidden_size]
  std::unique_ptr<GemmWeights> gate_up;  // [2 * intermediate, hidden_size]
  std::unique_ptr<GemmWeights> down;     // [hidden_size, intermediate]
};

// Where each projection stands in a row of `projections`.
struct ProjectionOffsets {
  int32_t query = 0;
  int32_t key = 0;  // as query if shared
  int32_t value = 0;
  int32_t gate = 0;  // unread without a gate
  int32_t rate = 0;
  int32_t width = 0;   // all of them
  int32_t stride = 0;  // of rows, in whole lines of a GPU's caches

  static ProjectionOffsets Of(const ModelConfig& config);
};

struct ModelWeights {
  std::unique_ptr<DeviceBuffer> embedding;  // [vocab_size, hidden_size]
  DType embedding_type = DType::kFloat32;
  std::vector<LayerWeights> layers;
  DeviceArray final_norm;             // [hidden_size]
  std::unique_ptr<GemmWeights> head;  // [vocab_size, hidden_size]
  DeviceArray rope;  // [mini_batch, head_dim / 2, 2] cosine, sine
  // A slot as an empty session's: the initial fast weights, zero elsewhere.
  std::unique_ptr<DeviceBuffer> initial_state;
  int64_t bytes = 0;  // on the device
};

// ModelWeights::bytes of what LoadWeights will load. INTERNAL.
absl::StatusOr<int64_t> WeightBytes(const ModelConfig& config,
                                    const StateLayout& layout,
                                    Backend* backend);

// Reads all tensors and brings them to the device. Errors of `checkpoint`;
// RESOURCE_EXHAUSTED.
absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config,
                                         const StateLayout& layout,
                                         Checkpoint* checkpoint,
                                         Backend* backend);

}  // namespace ttt
