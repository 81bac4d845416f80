// config.json of a TTT checkpoint.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ttt {

// Names and meaning as in the published configs (spec, section 2).
struct ModelConfig {
  int32_t vocab_size = 32000;
  int32_t hidden_size = 2048;
  int32_t intermediate_size = 5504;
  int32_t num_hidden_layers = 24;
  int32_t num_attention_heads = 32;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = true;
  float rope_theta = 10000.0f;
  bool use_gate = false;
  bool share_qk = false;
  bool is_mlp = false;  // ttt_layer_type: "linear" or "mlp"
  float ttt_base_lr = 1.0f;
  int32_t mini_batch_size = 16;  // [1, 16]
  bool pre_conv = false;
  int32_t conv_kernel = 4;   // [2, 8]
  int32_t bos_token_id = 1;  // -1: none
  int32_t eos_token_id = 2;  // -1: none

  int32_t head_dim() const { return hidden_size / num_attention_heads; }
  // Width of the learner's hidden layer: head_dim, or 4 head_dim for mlp.
  int32_t inner_dim() const { return is_mlp ? 4 * head_dim() : head_dim(); }
};

// INVALID_ARGUMENT naming the key and its value: not JSON, a key that is
// missing, mistyped or there twice, a value out of range, or something this
// engine cannot run (another model_type or hidden_act, pretraining_tp other
// than 1, a list of eos_token_id, head_dim other than 32, 64 or 96). Required
// are the sizes, the learner and its switches, rms_norm_eps and rope_theta, and
// conv_kernel where there is a convolution; the rest may be left out for the
// defaults above. Keys without effect on inference are ignored.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json);

// Reads DIR/config.json. NOT_FOUND, INVALID_ARGUMENT.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

}  // namespace ttt
