#include "server/model/config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "server/model/file.h"
#include "server/model/strict_json.h"

namespace ttt {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;

// Reads keys one by one and keeps the first error.
class Reader {
 public:
  explicit Reader(const json& object) : object_(object) {}

  void Integer(const char* key, int64_t min, int64_t max, int32_t* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    // A number past int64 is kept unsigned, and is out of every range here.
    const bool in_range =
        value->is_number_integer() &&
        (!value->is_number_unsigned() ||
         value->get<uint64_t>() <= static_cast<uint64_t>(max)) &&
        value->get<int64_t>() >= min && value->get<int64_t>() <= max;
    if (!in_range) {
      return Refuse(key, *value,
                    absl::StrCat("an integer in [", min, ", ", max, "]"));
    }
    *out = static_cast<int32_t>(value->get<int64_t>());
  }

  // In [min, max]; `min` itself only if `or_equal`.
  void Float(const char* key, float min, bool or_equal, float max, float* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    const float number = value->is_number()
                             ? value->get<float>()
                             : std::numeric_limits<float>::quiet_NaN();
    if (!(number > min || (or_equal && number == min)) || !(number <= max)) {
      return Refuse(key, *value,
                    absl::StrCat("a number in ", or_equal ? "[" : "(", min,
                                 ", ", max, "]"));
    }
    *out = number;
  }

  void Bool(const char* key, bool* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Refuse(key, *value, "true or false");
    *out = value->get<bool>();
  }

  // A token id, or null for none.
  void TokenId(const char* key, int32_t vocab_size, int32_t* out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (value->is_null()) {
      *out = -1;
    } else if (value->is_array()) {
      Refuse(key, *value,
             "one token id or null: a list of ids is not supported");
    } else {
      Integer(key, 0, int64_t{vocab_size} - 1, out);
    }
  }

  void Expect(const char* key, const json& wanted) {
    const json* value = Find(key);
    if (value != nullptr && *value != wanted)
      Refuse(key, *value, wanted.dump());
  }

  std::string Text(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) Refuse(key, *value, "a string");
    return value->is_string() ? value->get<std::string>() : "";
  }

  void Refuse(const char* key, const json& value, absl::string_view wanted) {
    // Strings are UTF-8, the parser saw to that, so dump does not throw.
    const std::string text =
        value.is_structured() ? value.type_name() : value.dump(-1, ' ', true);
    Fail(absl::StrCat(key, " is ", text.substr(0, 100), "; must be ", wanted));
  }
  void Fail(absl::string_view message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(message);
  }

  bool Has(const char* key) const { return object_.contains(key); }
  const absl::Status& status() const { return status_; }

 private:
  const json* Find(const char* key) {
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    Fail(absl::StrCat(key, " is missing"));
    return nullptr;
  }

  const json& object_;
  absl::Status status_;
};

void ReadSizes(Reader& reader, ModelConfig* config) {
  reader.Integer("vocab_size", 1, 1000000, &config->vocab_size);
  reader.Integer("hidden_size", 32, 65536, &config->hidden_size);
  reader.Integer("intermediate_size", 1, 262144, &config->intermediate_size);
  reader.Integer("num_hidden_layers", 1, 1024, &config->num_hidden_layers);
  reader.Integer("num_attention_heads", 1, 2048, &config->num_attention_heads);
  reader.Integer("mini_batch_size", 1, 16, &config->mini_batch_size);
}

void ReadLearner(Reader& reader, ModelConfig* config) {
  const std::string type = reader.Text("ttt_layer_type");
  config->is_mlp = type == "mlp";
  if (!config->is_mlp && type != "linear") {
    reader.Refuse("ttt_layer_type", type, "\"linear\" or \"mlp\"");
  }
  reader.Float("ttt_base_lr", 0.0f, /*or_equal=*/true, 1e6f,
               &config->ttt_base_lr);
  reader.Bool("use_gate", &config->use_gate);
  reader.Bool("share_qk", &config->share_qk);
  reader.Bool("pre_conv", &config->pre_conv);
  if (config->share_qk || config->pre_conv || reader.Has("conv_kernel")) {
    reader.Integer("conv_kernel", 2, 8, &config->conv_kernel);
  }
  reader.Float("rms_norm_eps", 0.0f, /*or_equal=*/false, 1.0f,
               &config->rms_norm_eps);
  reader.Float("rope_theta", 0.0f, /*or_equal=*/false, 1e12f,
               &config->rope_theta);
}

// What transformers leaves out of the file when it has its default value.
void ReadOptional(Reader& reader, ModelConfig* config) {
  if (reader.Has("hidden_act")) reader.Expect("hidden_act", "silu");
  if (reader.Has("pretraining_tp")) reader.Expect("pretraining_tp", 1);
  if (reader.Has("tie_word_embeddings")) {
    reader.Bool("tie_word_embeddings", &config->tie_word_embeddings);
  }
  for (const auto& [key, id] :
       {std::pair("bos_token_id", &config->bos_token_id),
        std::pair("eos_token_id", &config->eos_token_id)}) {
    if (reader.Has(key)) reader.TokenId(key, config->vocab_size, id);
    if (*id >= config->vocab_size) {
      reader.Fail(absl::StrCat(key, " is missing, and its default ", *id,
                               " is not below vocab_size ",
                               config->vocab_size));
    }
  }
}

void CheckHeads(Reader& reader, const ModelConfig& config) {
  const int32_t heads = config.num_attention_heads;
  const int32_t head_dim =
      config.hidden_size % heads == 0 ? config.head_dim() : 0;
  if (head_dim == 32 || head_dim == 64 || head_dim == 96) return;
  reader.Fail(absl::StrCat(
      "hidden_size is ", config.hidden_size, " and num_attention_heads is ",
      heads, "; hidden_size / num_attention_heads must be 32, 64 or 96"));
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text) {
  TTT_ASSIGN_OR_RETURN(const json document, ParseStrictJson(text));
  if (!document.is_object()) {
    return absl::InvalidArgumentError("must be a JSON object");
  }
  Reader reader(document);
  ModelConfig config;
  reader.Expect("model_type", "ttt");
  ReadSizes(reader, &config);
  ReadLearner(reader, &config);
  ReadOptional(reader, &config);
  if (reader.status().ok()) CheckHeads(reader, config);
  TTT_RETURN_IF_ERROR(reader.status());
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  TTT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text);
  if (config.ok()) return config;
  return absl::Status(config.status().code(),
                      absl::StrCat(path, ": ", config.status().message()));
}

}  // namespace ttt
