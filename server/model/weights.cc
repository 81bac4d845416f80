#include "server/model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

uint16_t ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Reads tensors of one checkpoint onto one device.
class Loader {
 public:
  Loader(const ModelConfig& config, Checkpoint* checkpoint, Backend* backend)
      : config_(config), checkpoint_(*checkpoint), backend_(*backend) {}

  int64_t bytes() const { return bytes_; }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Upload(const void* data,
                                                       int64_t size_bytes) {
    TTT_ASSIGN_OR_RETURN(auto buffer, backend_.Allocate(size_bytes));
    TTT_RETURN_IF_ERROR(
        backend_.CopyToDevice(buffer->data(), data, size_bytes));
    bytes_ += size_bytes;
    return buffer;
  }

  absl::StatusOr<DeviceArray> Upload(const std::vector<float>& values) {
    return Upload(values.data(), values.size() * sizeof(float));
  }

  absl::StatusOr<DeviceArray> Array(absl::string_view name,
                                    const std::vector<int64_t>& shape) {
    TTT_ASSIGN_OR_RETURN(const auto values, checkpoint_.Read(name, shape));
    return Upload(values);
  }

  absl::StatusOr<std::unique_ptr<GemmWeights>> Pack(
      const std::vector<float>& values, int64_t num_outputs,
      int64_t num_inputs) {
    TTT_CHECK(static_cast<int64_t>(values.size()) == num_outputs * num_inputs);
    TTT_ASSIGN_OR_RETURN(
        auto packed,
        backend_.PackWeights(values.data(), num_outputs, num_inputs));
    bytes_ += packed->bytes();
    return packed;
  }

  // Gate before up, for GemmSwiGlu.
  absl::StatusOr<std::unique_ptr<GemmWeights>> GateUp(
      const std::string& network) {
    const int64_t inner = config_.intermediate_size;
    const int64_t hidden = config_.hidden_size;
    TTT_ASSIGN_OR_RETURN(
        auto values,
        checkpoint_.Read(network + "gate_proj.weight", {inner, hidden}));
    TTT_ASSIGN_OR_RETURN(
        const auto up,
        checkpoint_.Read(network + "up_proj.weight", {inner, hidden}));
    values.insert(values.end(), up.begin(), up.end());
    TTT_ASSIGN_OR_RETURN(auto packed,
                         backend_.PackGateUp(values.data(), 2 * inner, hidden));
    bytes_ += packed->bytes();
    return packed;
  }

  absl::StatusOr<std::unique_ptr<GemmWeights>> Matrix(absl::string_view name,
                                                      int64_t num_outputs,
                                                      int64_t num_inputs) {
    TTT_ASSIGN_OR_RETURN(const auto values,
                         checkpoint_.Read(name, {num_outputs, num_inputs}));
    return Pack(values, num_outputs, num_inputs);
  }

  // [hidden_size, 1, kernel] in the checkpoint, [kernel, hidden_size] here.
  absl::StatusOr<CausalConvWeights> Conv(absl::string_view prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t kernel = config_.conv_kernel;
    TTT_ASSIGN_OR_RETURN(
        const auto values,
        checkpoint_.Read(absl::StrCat(prefix, ".weight"), {hidden, 1, kernel}));
    std::vector<float> by_tap(values.size());
    for (int64_t channel = 0; channel < hidden; ++channel) {
      for (int64_t tap = 0; tap < kernel; ++tap) {
        by_tap[tap * hidden + channel] = values[channel * kernel + tap];
      }
    }
    CausalConvWeights conv;
    TTT_ASSIGN_OR_RETURN(conv.weight, Upload(by_tap));
    TTT_ASSIGN_OR_RETURN(conv.bias,
                         Array(absl::StrCat(prefix, ".bias"), {hidden}));
    return conv;
  }

  absl::StatusOr<LayerWeights> Layer(int32_t index);
  absl::Status Embedding(ModelWeights* weights);
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> InitialState(
      const StateLayout& layout);

 private:
  absl::StatusOr<std::unique_ptr<GemmWeights>> Projections(
      const std::string& block);
  absl::StatusOr<DeviceArray> TokenScale(const std::string& block);

  const ModelConfig& config_;
  Checkpoint& checkpoint_;
  Backend& backend_;
  int64_t bytes_ = 0;
};

std::string LayerPrefix(int32_t layer) {
  return absl::StrCat("model.layers.", layer, ".");
}

std::string BlockPrefix(int32_t layer) {
  return absl::StrCat(LayerPrefix(layer), "seq_modeling_block.");
}

absl::StatusOr<std::unique_ptr<GemmWeights>> Loader::Projections(
    const std::string& block) {
  const int64_t hidden = config_.hidden_size;
  const int64_t heads = config_.num_attention_heads;
  std::vector<float> rows;
  const auto append = [&](absl::string_view name,
                          const std::vector<int64_t>& shape) -> absl::Status {
    TTT_ASSIGN_OR_RETURN(const auto part,
                         checkpoint_.Read(absl::StrCat(block, name), shape));
    rows.insert(rows.end(), part.begin(), part.end());
    return absl::OkStatus();
  };
  TTT_RETURN_IF_ERROR(append("q_proj.weight", {hidden, hidden}));
  if (!config_.share_qk) {
    TTT_RETURN_IF_ERROR(append("k_proj.weight", {hidden, hidden}));
  }
  TTT_RETURN_IF_ERROR(append("v_proj.weight", {hidden, hidden}));
  if (config_.use_gate) {
    TTT_RETURN_IF_ERROR(append("g_proj.weight", {hidden, hidden}));
  }
  TTT_RETURN_IF_ERROR(append("learnable_ttt_lr_weight", {heads, 1, hidden}));
  return Pack(rows, ProjectionOffsets::Of(config_).width, hidden);
}

absl::StatusOr<DeviceArray> Loader::TokenScale(const std::string& block) {
  TTT_ASSIGN_OR_RETURN(
      auto scale, checkpoint_.Read(absl::StrCat(block, "learnable_token_idx"),
                                   {config_.mini_batch_size}));
  for (size_t t = 0; t < scale.size(); ++t) {
    scale[t] = std::max(0.0f, 1.0f / static_cast<float>(t + 1) + scale[t]);
  }
  return Upload(scale);
}

absl::StatusOr<LayerWeights> Loader::Layer(int32_t index) {
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.intermediate_size;
  const int64_t heads = config_.num_attention_heads;
  const int64_t head_dim = config_.head_dim();
  const std::string prefix = LayerPrefix(index);
  const std::string block = BlockPrefix(index);
  LayerWeights layer;
  if (config_.pre_conv) {
    TTT_ASSIGN_OR_RETURN(layer.conv_norm,
                         Array(prefix + "conv.norm.weight", {hidden}));
    TTT_ASSIGN_OR_RETURN(layer.conv, Conv(prefix + "conv.conv"));
  }
  TTT_ASSIGN_OR_RETURN(layer.seq_norm,
                       Array(prefix + "seq_norm.weight", {hidden}));
  TTT_ASSIGN_OR_RETURN(layer.projections, Projections(block));
  if (config_.share_qk) {
    TTT_ASSIGN_OR_RETURN(layer.conv_q, Conv(block + "conv_q"));
    TTT_ASSIGN_OR_RETURN(layer.conv_k, Conv(block + "conv_k"));
  }
  TTT_ASSIGN_OR_RETURN(layer.rate_bias,
                       Array(block + "learnable_ttt_lr_bias", {heads, 1}));
  TTT_ASSIGN_OR_RETURN(layer.token_scale, TokenScale(block));
  TTT_ASSIGN_OR_RETURN(layer.norm_weight,
                       Array(block + "ttt_norm_weight", {heads, head_dim}));
  TTT_ASSIGN_OR_RETURN(layer.norm_bias,
                       Array(block + "ttt_norm_bias", {heads, head_dim}));
  TTT_ASSIGN_OR_RETURN(layer.post_norm_weight,
                       Array(block + "post_norm.weight", {hidden}));
  TTT_ASSIGN_OR_RETURN(layer.post_norm_bias,
                       Array(block + "post_norm.bias", {hidden}));
  TTT_ASSIGN_OR_RETURN(layer.output,
                       Matrix(block + "o_proj.weight", hidden, hidden));
  TTT_ASSIGN_OR_RETURN(layer.ffn_norm,
                       Array(prefix + "ffn_norm.weight", {hidden}));
  TTT_ASSIGN_OR_RETURN(layer.gate_up, GateUp(prefix + "mlp."));
  TTT_ASSIGN_OR_RETURN(layer.down,
                       Matrix(prefix + "mlp.down_proj.weight", hidden, inner));
  return layer;
}

absl::Status Loader::Embedding(ModelWeights* weights) {
  const int64_t vocab = config_.vocab_size;
  const int64_t hidden = config_.hidden_size;
  TTT_ASSIGN_OR_RETURN(
      const auto table,
      checkpoint_.Read("model.embed_tokens.weight", {vocab, hidden}));
  weights->embedding_type = backend_.operand_type();
  if (weights->embedding_type == DType::kBFloat16) {
    std::vector<uint16_t> rounded(table.size());
    std::transform(table.begin(), table.end(), rounded.begin(), ToBFloat16);
    TTT_ASSIGN_OR_RETURN(
        weights->embedding,
        Upload(rounded.data(), rounded.size() * sizeof(uint16_t)));
  } else {
    TTT_ASSIGN_OR_RETURN(weights->embedding, Upload(table));
  }
  if (config_.tie_word_embeddings) {
    TTT_ASSIGN_OR_RETURN(weights->head, Pack(table, vocab, hidden));
  } else {
    TTT_ASSIGN_OR_RETURN(weights->head,
                         Matrix("lm_head.weight", vocab, hidden));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> Loader::InitialState(
    const StateLayout& layout) {
  const int64_t heads = config_.num_attention_heads;
  const int64_t head_dim = config_.head_dim();
  const int64_t inner = config_.inner_dim();
  struct FastWeights {
    absl::string_view plane;
    absl::string_view tensor;
    std::vector<int64_t> shape;
  };
  std::vector<FastWeights> parts = {{"w1", "W1", {heads, head_dim, inner}},
                                    {"b1", "b1", {heads, 1, inner}}};
  if (config_.is_mlp) {
    parts.push_back({"w2", "W2", {heads, inner, head_dim}});
    parts.push_back({"b2", "b2", {heads, 1, head_dim}});
  }
  std::vector<std::byte> slot(layout.slot_bytes);
  for (const FastWeights& part : parts) {
    const PlaneSpec& plane = layout.Find(part.plane);
    std::byte* out = slot.data() + plane.offset_bytes;
    for (int32_t i = 0; i < config_.num_hidden_layers; ++i) {
      TTT_ASSIGN_OR_RETURN(
          const auto values,
          checkpoint_.Read(absl::StrCat(BlockPrefix(i), part.tensor),
                           part.shape));
      std::vector<uint32_t> words(values.size());
      std::memcpy(words.data(), values.data(), values.size() * sizeof(float));
      StoreWords(plane, words, out);
      out += words.size() * sizeof(float);
    }
  }
  return Upload(slot.data(), layout.slot_bytes);
}

// Angles in double: the same table on every machine.
std::vector<float> RopeTable(const ModelConfig& config) {
  std::vector<float> table;
  for (int32_t t = 0; t < config.mini_batch_size; ++t) {
    for (int32_t i = 0; i < config.head_dim() / 2; ++i) {
      const double frequency =
          std::pow(static_cast<double>(config.rope_theta),
                   -2.0 * i / static_cast<double>(config.head_dim()));
      table.push_back(static_cast<float>(std::cos(t * frequency)));
      table.push_back(static_cast<float>(std::sin(t * frequency)));
    }
  }
  return table;
}

}  // namespace

ProjectionOffsets ProjectionOffsets::Of(const ModelConfig& config) {
  ProjectionOffsets offsets;
  int32_t next = config.hidden_size;
  if (!config.share_qk) {
    offsets.key = next;
    next += config.hidden_size;
  }
  offsets.value = next;
  next += config.hidden_size;
  if (config.use_gate) {
    offsets.gate = next;
    next += config.hidden_size;
  }
  offsets.rate = next;
  offsets.width = next + config.num_attention_heads;
  offsets.stride = static_cast<int32_t>(
      WholeLines(offsets.width * int64_t{sizeof(float)}) / sizeof(float));
  return offsets;
}

absl::StatusOr<int64_t> WeightBytes(const ModelConfig& config,
                                    const StateLayout& layout,
                                    Backend* backend) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t conv = (config.conv_kernel + 1) * hidden;
  TTT_ASSIGN_OR_RETURN(
      const int64_t projections,
      backend->PackedBytes(ProjectionOffsets::Of(config).width, hidden));
  TTT_ASSIGN_OR_RETURN(const int64_t output,
                       backend->PackedBytes(hidden, hidden));
  TTT_ASSIGN_OR_RETURN(const int64_t gate_up,
                       backend->PackedBytes(2 * inner, hidden));
  TTT_ASSIGN_OR_RETURN(const int64_t down, backend->PackedBytes(hidden, inner));
  // The head is packed also where it is the embedding.
  TTT_ASSIGN_OR_RETURN(const int64_t head,
                       backend->PackedBytes(config.vocab_size, hidden));
  int64_t layer_floats = 6 * hidden;  // norms: seq, TTT's and post's two, ffn
  layer_floats += heads + config.mini_batch_size;  // rate_bias, token_scale
  if (config.pre_conv) layer_floats += hidden + conv;
  if (config.share_qk) layer_floats += 2 * conv;
  const int64_t rope_floats = config.mini_batch_size * config.head_dim();
  const int64_t floats =
      config.num_hidden_layers * layer_floats + hidden + rope_floats;
  const int64_t embedding =
      config.vocab_size * hidden *
      (backend->operand_type() == DType::kBFloat16 ? 2 : 4);
  return embedding + head +
         config.num_hidden_layers * (projections + output + gate_up + down) +
         floats * static_cast<int64_t>(sizeof(float)) + layout.slot_bytes;
}

absl::StatusOr<ModelWeights> LoadWeights(const ModelConfig& config,
                                         const StateLayout& layout,
                                         Checkpoint* checkpoint,
                                         Backend* backend) {
  Loader loader(config, checkpoint, backend);
  ModelWeights weights;
  TTT_RETURN_IF_ERROR(loader.Embedding(&weights));
  for (int32_t i = 0; i < config.num_hidden_layers; ++i) {
    TTT_ASSIGN_OR_RETURN(LayerWeights layer, loader.Layer(i));
    weights.layers.push_back(std::move(layer));
  }
  TTT_ASSIGN_OR_RETURN(weights.final_norm,
                       loader.Array("model.norm.weight", {config.hidden_size}));
  TTT_ASSIGN_OR_RETURN(weights.rope, loader.Upload(RopeTable(config)));
  TTT_ASSIGN_OR_RETURN(weights.initial_state, loader.InitialState(layout));
  weights.bytes = loader.bytes();
  return weights;
}

}  // namespace ttt
