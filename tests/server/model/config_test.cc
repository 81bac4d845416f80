#include "server/model/config.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/checkpoint.h"
#include "tests/server/model/model_files.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using nlohmann::json;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

json BaseConfig() {
  return json::parse(R"({
    "model_type": "ttt", "vocab_size": 512, "hidden_size": 128,
    "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 2,
    "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05,
    "use_cache": false, "pretraining_tp": 1, "bos_token_id": 3, "eos_token_id": 4,
    "pad_token_id": null, "tie_word_embeddings": false, "rope_theta": 500.0,
    "use_gate": true, "share_qk": true, "ttt_layer_type": "mlp",
    "ttt_base_lr": 0.1, "mini_batch_size": 8, "pre_conv": true, "conv_kernel": 5})");
}

absl::Status ParseWith(const std::string& key, const json& value) {
  json config = BaseConfig();
  config[key] = value;
  return ParseModelConfig(config.dump()).status();
}

TEST(ConfigTest, EveryKeyReachesItsField) {
  const ModelConfig config = ParseModelConfig(BaseConfig().dump()).value();
  EXPECT_EQ(config.vocab_size, 512);
  EXPECT_EQ(config.hidden_size, 128);
  EXPECT_EQ(config.intermediate_size, 344);
  EXPECT_EQ(config.num_hidden_layers, 2);
  EXPECT_EQ(config.num_attention_heads, 2);
  EXPECT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.rope_theta, 500.0f);
  EXPECT_TRUE(config.use_gate);
  EXPECT_TRUE(config.share_qk);
  EXPECT_TRUE(config.is_mlp);
  EXPECT_EQ(config.ttt_base_lr, 0.1f);
  EXPECT_EQ(config.mini_batch_size, 8);
  EXPECT_TRUE(config.pre_conv);
  EXPECT_EQ(config.conv_kernel, 5);
  EXPECT_EQ(config.bos_token_id, 3);
  EXPECT_EQ(config.eos_token_id, 4);
  EXPECT_EQ(config.head_dim(), 64);
  EXPECT_EQ(config.inner_dim(), 256);
}

TEST(ConfigTest, ValuesInRangeAreTaken) {
  for (int mini_batch = 1; mini_batch <= 16; ++mini_batch) {
    EXPECT_THAT(ParseWith("mini_batch_size", mini_batch), IsOk());
  }
  for (int kernel = 2; kernel <= 8; ++kernel) {
    EXPECT_THAT(ParseWith("conv_kernel", kernel), IsOk());
  }
  for (const int hidden : {64, 128, 192})
    EXPECT_THAT(ParseWith("hidden_size", hidden), IsOk());
  EXPECT_THAT(ParseWith("ttt_layer_type", "linear"), IsOk());
  EXPECT_THAT(ParseWith("ttt_base_lr", 1), IsOk());
  EXPECT_THAT(ParseWith("rope_theta", 10000), IsOk());
  EXPECT_THAT(ParseWith("unknown_key", {{"a", {1, 2}}}), IsOk());
}

struct BadValue {
  const char* key;
  const char* json;
};

TEST(ConfigTest, EveryBadValueIsRefusedWithItsKey) {
  const BadValue values[] = {{"model_type", "\"llama\""},
                             {"model_type", "null"},
                             {"vocab_size", "0"},
                             {"vocab_size", "1000001"},
                             {"vocab_size", "512.0"},
                             {"vocab_size", "\"512\""},
                             {"vocab_size", "true"},
                             {"vocab_size", "18446744073709551615"},
                             {"vocab_size", "9223372036854775808"},
                             {"vocab_size", "123456789012345678901234567890"},
                             {"hidden_size", "-128"},
                             {"hidden_size", "65568"},
                             {"hidden_size", "127"},
                             {"hidden_size", "256"},
                             {"hidden_size", "null"},
                             {"hidden_size", "[128]"},
                             {"intermediate_size", "0"},
                             {"intermediate_size", "262145"},
                             {"num_hidden_layers", "0"},
                             {"num_hidden_layers", "1025"},
                             {"num_attention_heads", "0"},
                             {"num_attention_heads", "3"},
                             {"num_attention_heads", "1"},
                             {"num_attention_heads", "-2"},
                             {"hidden_act", "\"gelu\""},
                             {"pretraining_tp", "2"},
                             {"rms_norm_eps", "0"},
                             {"rms_norm_eps", "-1e-6"},
                             {"rms_norm_eps", "1e-60"},
                             {"rms_norm_eps", "\"1e-6\""},
                             {"rope_theta", "0"},
                             {"rope_theta", "1e300"},
                             {"use_gate", "1"},
                             {"share_qk", "\"true\""},
                             {"pre_conv", "null"},
                             {"tie_word_embeddings", "0"},
                             {"ttt_layer_type", "\"Linear\""},
                             {"ttt_layer_type", "1"},
                             {"ttt_base_lr", "-0.1"},
                             {"ttt_base_lr", "null"},
                             {"mini_batch_size", "0"},
                             {"mini_batch_size", "17"},
                             {"mini_batch_size", "16.5"},
                             {"conv_kernel", "1"},
                             {"conv_kernel", "9"},
                             {"bos_token_id", "512"},
                             {"bos_token_id", "-1"},
                             {"eos_token_id", "\"2\""},
                             {"eos_token_id", "[2]"}};
  for (const BadValue& bad : values) {
    json config = BaseConfig();
    config.erase(bad.key);
    std::string text = config.dump();
    text = absl::StrCat("{\"", bad.key, "\":", bad.json, ",", text.substr(1));
    EXPECT_THAT(ParseModelConfig(text), StatusIs(kInvalid, bad.key))
        << bad.json;
  }
}

TEST(ConfigTest, MessageHoldsTheValue) {
  EXPECT_THAT(ParseWith("mini_batch_size", 17),
              StatusIs(kInvalid,
                       "mini_batch_size is 17; must be an integer in [1, 16]"));
  EXPECT_THAT(ParseWith("ttt_layer_type", "rnn"),
              StatusIs(kInvalid, "ttt_layer_type is \"rnn\""));
  EXPECT_THAT(ParseWith("hidden_size", 160),
              StatusIs(kInvalid, "hidden_size is 160"));
}

TEST(ConfigTest, MissingKeyIsRefusedByName) {
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "intermediate_size",
        "num_hidden_layers", "num_attention_heads", "rms_norm_eps",
        "rope_theta", "use_gate", "share_qk", "pre_conv", "ttt_layer_type",
        "ttt_base_lr", "mini_batch_size", "conv_kernel"}) {
    json config = BaseConfig();
    config.erase(key);
    EXPECT_THAT(ParseModelConfig(config.dump()),
                StatusIs(kInvalid, absl::StrCat(key, " is missing")));
  }
}

TEST(ConfigTest, OptionalKeysHaveTheirDefaults) {
  json text = BaseConfig();
  for (const char* key : {"hidden_act", "pretraining_tp", "tie_word_embeddings",
                          "bos_token_id", "eos_token_id", "pad_token_id"}) {
    text.erase(key);
  }
  const ModelConfig config = ParseModelConfig(text.dump()).value();
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_id, 2);

  text["bos_token_id"] = nullptr;
  text["eos_token_id"] = nullptr;
  EXPECT_EQ(ParseModelConfig(text.dump())->bos_token_id, -1);
  EXPECT_EQ(ParseModelConfig(text.dump())->eos_token_id, -1);

  text["share_qk"] = false;
  text["pre_conv"] = false;
  text.erase("conv_kernel");
  EXPECT_THAT(ParseModelConfig(text.dump()), IsOk());
}

TEST(ConfigTest, WhatIsNotOneJsonObjectIsRefused) {
  for (const std::string text :
       {"", "{", "[]", "null", "{} {}", "{\"a\":1,}", "{\"a\":\"\xff\"}",
        "\xef\xbb\xbf", "{\"a\":1e999}", "{'a':1}", "{\"a\":NaN}"}) {
    EXPECT_THAT(ParseModelConfig(text), StatusIs(kInvalid)) << text;
  }
  const std::string text = BaseConfig().dump();
  EXPECT_THAT(ParseModelConfig("{\"hidden_size\":64," + text.substr(1)),
              StatusIs(kInvalid, "\"hidden_size\" stands twice"));
}

TEST(ConfigTest, DeepOrWideJsonIsRefused) {
  const std::string deep(1000000, '[');
  EXPECT_THAT(ParseModelConfig(deep), StatusIs(kInvalid, "nested deeper"));
  EXPECT_THAT(ParseModelConfig("{\"a\":" + deep),
              StatusIs(kInvalid, "nested deeper"));
  std::string wide = "[0";
  for (int i = 0; i < 1100000; ++i) wide += ",0";
  EXPECT_THAT(ParseModelConfig(wide + "]"), StatusIs(kInvalid, "JSON values"));
}

TEST(ConfigTest, DamagedBytesNeverCrash) {
  const std::string text = BaseConfig().dump();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THAT(ParseModelConfig(text.substr(0, size)), StatusIs(kInvalid));
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = text;
    for (int flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(damaged);
    if (config.ok()) {
      EXPECT_EQ(config->hidden_size % config->num_attention_heads, 0);
    }
  }
}

TEST(ConfigTest, FileErrorsNameTheFile) {
  const TempDir dir;
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, dir.File("config.json")));
  WriteFile(dir.File("config.json"), "{}");
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(kInvalid, dir.File("config.json")));
  WriteFile(dir.File("config.json"), std::string(2 << 20, ' '));
  EXPECT_THAT(LoadModelConfig(dir.path()), StatusIs(kInvalid, "config.json"));
  std::filesystem::remove(dir.File("config.json"));
  std::filesystem::create_directory(dir.File("config.json"));
  EXPECT_THAT(LoadModelConfig(dir.path()), StatusIs(kInvalid, "not a file"));
}

struct Published {
  const char* name;
  int64_t num_parameters;
  int32_t head_dim;
  float base_lr;
};

TEST(ConfigTest, PublishedSizesHaveTheirParameterCounts) {
  const Published models[] = {{"ttt-linear-125m", 110424144, 64, 1.0f},
                              {"ttt-linear-350m", 337684224, 64, 1.0f},
                              {"ttt-linear-760m", 733608192, 96, 1.0f},
                              {"ttt-linear-1.3b", 1285639296, 64, 1.0f},
                              {"ttt-mlp-125m", 114589776, 64, 0.1f},
                              {"ttt-mlp-350m", 348792576, 64, 0.1f},
                              {"ttt-mlp-760m", 758528256, 96, 0.1f},
                              {"ttt-mlp-1.3b", 1307856000, 64, 0.1f}};
  for (const Published& model : models) {
    const auto config = LoadModelConfig(
        absl::StrCat(TTT_SOURCE_DIR "/models/configs/", model.name));
    ASSERT_THAT(config, IsOk());
    EXPECT_EQ(config->head_dim(), model.head_dim) << model.name;
    EXPECT_EQ(config->ttt_base_lr, model.base_lr) << model.name;
    EXPECT_TRUE(config->use_gate && config->share_qk && config->pre_conv)
        << model.name;
    int64_t num_parameters = 0;
    for (const TensorSpec& spec : ModelTensors(*config)) {
      num_parameters += NumElements(spec.shape);
    }
    EXPECT_EQ(num_parameters, model.num_parameters) << model.name;
  }
}

}  // namespace
}  // namespace ttt
