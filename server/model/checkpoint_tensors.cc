#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint.h"

namespace ttt {
namespace {

class Builder {
 public:
  explicit Builder(const ModelConfig& config) : config_(config) {}

  void Add(absl::string_view name, std::vector<int64_t> shape) {
    specs_.push_back({absl::StrCat(prefix_, name), std::move(shape)});
  }

  void AddConvolution(absl::string_view name) {
    Add(absl::StrCat(name, ".weight"),
        {config_.hidden_size, 1, config_.conv_kernel});
    Add(absl::StrCat(name, ".bias"), {config_.hidden_size});
  }

  void AddProjections() {
    const int64_t hidden = config_.hidden_size;
    Add("seq_modeling_block.q_proj.weight", {hidden, hidden});
    if (!config_.share_qk)
      Add("seq_modeling_block.k_proj.weight", {hidden, hidden});
    Add("seq_modeling_block.v_proj.weight", {hidden, hidden});
    Add("seq_modeling_block.o_proj.weight", {hidden, hidden});
    if (config_.share_qk) {
      AddConvolution("seq_modeling_block.conv_q");
      AddConvolution("seq_modeling_block.conv_k");
    }
    if (config_.use_gate)
      Add("seq_modeling_block.g_proj.weight", {hidden, hidden});
  }

  void AddLearner() {
    const int64_t hidden = config_.hidden_size;
    const int64_t heads = config_.num_attention_heads;
    const int64_t head_dim = config_.head_dim();
    const int64_t inner = config_.inner_dim();
    Add("seq_modeling_block.learnable_ttt_lr_weight", {heads, 1, hidden});
    Add("seq_modeling_block.learnable_ttt_lr_bias", {heads, 1});
    Add("seq_modeling_block.learnable_token_idx", {config_.mini_batch_size});
    Add("seq_modeling_block.ttt_norm_weight", {heads, head_dim});
    Add("seq_modeling_block.ttt_norm_bias", {heads, head_dim});
    Add("seq_modeling_block.post_norm.weight", {hidden});
    Add("seq_modeling_block.post_norm.bias", {hidden});
    Add("seq_modeling_block.W1", {heads, head_dim, inner});
    Add("seq_modeling_block.b1", {heads, 1, inner});
    if (config_.is_mlp) {
      Add("seq_modeling_block.W2", {heads, inner, head_dim});
      Add("seq_modeling_block.b2", {heads, 1, head_dim});
    }
  }

  void AddLayer(int32_t layer) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.intermediate_size;
    prefix_ = absl::StrCat("model.layers.", layer, ".");
    if (config_.pre_conv) {
      Add("conv.norm.weight", {hidden});
      AddConvolution("conv.conv");
    }
    Add("seq_norm.weight", {hidden});
    AddProjections();
    AddLearner();
    Add("ffn_norm.weight", {hidden});
    Add("mlp.gate_proj.weight", {width, hidden});
    Add("mlp.up_proj.weight", {width, hidden});
    Add("mlp.down_proj.weight", {hidden, width});
  }

  std::vector<TensorSpec> Build() {
    const int64_t hidden = config_.hidden_size;
    Add("model.embed_tokens.weight", {config_.vocab_size, hidden});
    Add("model.norm.weight", {hidden});
    if (!config_.tie_word_embeddings) {
      Add("lm_head.weight", {config_.vocab_size, hidden});
    }
    for (int32_t layer = 0; layer < config_.num_hidden_layers; ++layer)
      AddLayer(layer);
    return std::move(specs_);
  }

 private:
  const ModelConfig& config_;
  std::string prefix_;
  std::vector<TensorSpec> specs_;
};

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  return Builder(config).Build();
}

}  // namespace ttt
