#include "server/model/checkpoint.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/model/model_files.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using nlohmann::json;
using ::testing::ElementsAreArray;
using ::testing::MatchesRegex;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kFile[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kBlock[] = "model.layers.1.seq_modeling_block.";

class CheckpointTest : public ::testing::Test {
 protected:
  // Writes one file and opens it.
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const ModelConfig& config,
                                                   const TestTensors& tensors) {
    WriteFile(dir_.File(kFile), SafetensorsBytes(tensors));
    return OpenCheckpoint(dir_.path(), config);
  }

  // Writes the tensors into two files by turns, and an index.
  json WriteShards(const TestTensors& tensors) {
    TestTensors shards[2];
    json map = json::object();
    int count = 0;
    for (const auto& [name, tensor] : tensors) {
      const int shard = count++ % 2;
      shards[shard][name] = tensor;
      map[name] = ShardName(shard);
    }
    for (int i = 0; i < 2; ++i)
      WriteFile(dir_.File(ShardName(i)), SafetensorsBytes(shards[i]));
    json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
    WriteFile(dir_.File(kIndex), index.dump());
    return index;
  }

  absl::Status OpenIndex(const json& index) {
    WriteFile(dir_.File(kIndex), index.dump());
    return OpenCheckpoint(dir_.path(), config_).status();
  }

  static std::string ShardName(int shard) {
    return absl::StrCat("model-0000", shard + 1, "-of-00002.safetensors");
  }

  static void ExpectAllReadable(Checkpoint& checkpoint,
                                const ModelConfig& config) {
    for (const TensorSpec& spec : ModelTensors(config)) {
      EXPECT_THAT(checkpoint.Read(spec.name, spec.shape).value(),
                  ElementsAreArray(
                      TestValues(spec.name.size(), NumElements(spec.shape))))
          << spec.name;
    }
  }

  const TempDir dir_;
  const ModelConfig config_ = SmallConfig();
};

TEST_F(CheckpointTest, EveryCombinationOfSwitchesOpensInEveryType) {
  const std::string dtypes[] = {"F32", "BF16", "F16"};
  const int32_t head_dims[] = {32, 64, 96};
  for (int bits = 0; bits < 32; ++bits) {
    ModelConfig config = config_;
    config.is_mlp = bits & 1;
    config.use_gate = bits & 2;
    config.share_qk = bits & 4;
    config.pre_conv = bits & 8;
    config.tie_word_embeddings = bits & 16;
    config.num_hidden_layers = 1;
    config.hidden_size = 2 * head_dims[bits % 3];
    config.mini_batch_size = 1 + bits % 16;
    config.conv_kernel = 2 + bits % 7;
    const auto checkpoint =
        Open(config, MakeTensors(config, dtypes[bits / 3 % 3]));
    ASSERT_THAT(checkpoint, IsOk()) << bits;
    ExpectAllReadable(**checkpoint, config);
  }
}

TEST_F(CheckpointTest, SwitchesDecideWhichTensorsThereAre) {
  const auto names = [](const ModelConfig& config) {
    std::set<std::string> names;
    for (const TensorSpec& spec : ModelTensors(config)) names.insert(spec.name);
    return names;
  };
  const std::string layer = "model.layers.0.";
  const std::string block = layer + "seq_modeling_block.";
  ModelConfig config = config_;
  EXPECT_EQ(names(config).count(block + "k_proj.weight"), 1);
  EXPECT_EQ(names(config).count("lm_head.weight"), 0);
  EXPECT_EQ(names(config).size(), 2 + 2 * 18);
  config.share_qk = config.use_gate = config.pre_conv = config.is_mlp = true;
  config.tie_word_embeddings = false;
  EXPECT_EQ(names(config).count(block + "k_proj.weight"), 0);
  for (const std::string& name :
       {block + "conv_q.weight", block + "conv_q.bias", block + "conv_k.weight",
        block + "conv_k.bias", block + "g_proj.weight", block + "W2",
        block + "b2", layer + "conv.norm.weight", layer + "conv.conv.weight",
        layer + "conv.conv.bias", std::string("lm_head.weight")}) {
    EXPECT_EQ(names(config).count(name), 1) << name;
  }
  EXPECT_EQ(names(config).size(), 3 + 2 * (18 - 1 + 4 + 1 + 2 + 3));
}

TEST_F(CheckpointTest, EveryMissingTensorIsRefusedByName) {
  const TestTensors tensors = MakeTensors(config_, "F32");
  for (const auto& [name, tensor] : tensors) {
    TestTensors rest = tensors;
    rest.erase(name);
    EXPECT_THAT(Open(config_, rest),
                StatusIs(kInvalid, absl::StrCat("\"", name, "\" is missing")));
  }
}

TEST_F(CheckpointTest, EveryMisshapedTensorIsRefusedByName) {
  const TestTensors tensors = MakeTensors(config_, "BF16");
  for (const auto& [name, tensor] : tensors) {
    TestTensors other = tensors;
    other[name].shape.push_back(1);  // as many elements
    EXPECT_THAT(Open(config_, other),
                StatusIs(kInvalid, absl::StrCat("\"", name, "\" has shape")));
  }
}

TEST_F(CheckpointTest, ExtraTensorIsRefusedByName) {
  TestTensors tensors = MakeTensors(config_, "F32");
  tensors["model.layers.0.self_attn.q_proj.weight"] = {
      "F32", {1}, std::string(4, '\0')};
  EXPECT_THAT(Open(config_, tensors),
              StatusIs(kInvalid, "model.layers.0.self_attn.q_proj.weight"));
}

TEST_F(CheckpointTest, TiedHeadIsIgnored) {
  TestTensors tensors = MakeTensors(config_, "F32");
  const std::string plain = Open(config_, tensors).value()->fingerprint();
  tensors["lm_head.weight"] = {"F32", {1}, std::string(4, '\0')};
  EXPECT_EQ(Open(config_, tensors).value()->fingerprint(), plain);
  ModelConfig untied = config_;
  untied.tie_word_embeddings = false;
  EXPECT_THAT(Open(untied, tensors),
              StatusIs(kInvalid, "\"lm_head.weight\" has shape"));
}

TEST_F(CheckpointTest, ConfigThatDisagreesIsRefusedByTensor) {
  const TestTensors tensors = MakeTensors(config_, "F32");
  const struct {
    void (*change)(ModelConfig&);
    const char* tensor;
  } cases[] = {
      {[](ModelConfig& c) { c.share_qk = true; }, "conv_q.weight"},
      {[](ModelConfig& c) { c.use_gate = true; }, "g_proj.weight"},
      {[](ModelConfig& c) { c.pre_conv = true; }, "conv.norm.weight"},
      {[](ModelConfig& c) { c.is_mlp = true; }, "W1"},
      {[](ModelConfig& c) { c.tie_word_embeddings = false; }, "lm_head.weight"},
      {[](ModelConfig& c) { c.mini_batch_size = 8; }, "learnable_token_idx"},
      {[](ModelConfig& c) { c.num_hidden_layers = 3; }, "model.layers.2."},
      {[](ModelConfig& c) { c.num_hidden_layers = 1; }, "model.layers.1."},
      {[](ModelConfig& c) { c.intermediate_size = 41; },
       "mlp.gate_proj.weight"},
      {[](ModelConfig& c) { c.vocab_size = 25; }, "model.embed_tokens.weight"},
      {[](ModelConfig& c) { c.num_attention_heads = 1; },
       "learnable_ttt_lr_weight"}};
  for (const auto& wrong : cases) {
    ModelConfig config = config_;
    wrong.change(config);
    EXPECT_THAT(Open(config, tensors), StatusIs(kInvalid, wrong.tensor));
  }
  ModelConfig shared = config_;
  shared.share_qk = true;
  EXPECT_THAT(Open(config_, MakeTensors(shared, "F32")),
              StatusIs(kInvalid, "k_proj"));
}

TEST_F(CheckpointTest, TypesThatAreNotFloatAreRefusedByName) {
  TestTensors tensors = MakeTensors(config_, "F32");
  tensors[absl::StrCat(kBlock, "W1")].dtype = "I32";
  EXPECT_THAT(Open(config_, tensors), StatusIs(kInvalid, "W1\" is I32"));
}

TEST_F(CheckpointTest, ValuesThatAreNotFiniteAreRefusedByName) {
  const std::string name = absl::StrCat(kBlock, "q_proj.weight");
  const struct {
    std::string dtype;
    std::string bytes;  // of one value
  } cases[] = {{"F32", std::string("\0\0\x80\x7f", 4)},
               {"F32", std::string("\1\0\x80\xff", 4)},
               {"BF16", std::string("\x80\x7f", 2)},
               {"BF16", std::string("\xc0\xff", 2)},
               {"F16", std::string("\0\x7c", 2)},
               {"F16", std::string("\1\xfe", 2)}};
  for (const auto& bad : cases) {
    TestTensors tensors = MakeTensors(config_, bad.dtype);
    std::string& bytes = tensors[name].bytes;
    bytes.replace(bytes.size() - bad.bytes.size(), bad.bytes.size(), bad.bytes);
    EXPECT_THAT(Open(config_, tensors), StatusIs(kInvalid, name)) << bad.dtype;
  }
  TestTensors largest = MakeTensors(config_, "F16");
  largest[name].bytes.replace(0, 2, "\xff\x7b");
  EXPECT_THAT(Open(config_, largest), IsOk());
}

TEST_F(CheckpointTest, ReadHoldsNameAndShape) {
  const auto checkpoint = Open(config_, MakeTensors(config_, "F32")).value();
  EXPECT_THAT(checkpoint->Read("no.such", {1}), StatusIs(kInvalid, "no.such"));
  EXPECT_THAT(
      checkpoint->Read("model.norm.weight", {63}),
      StatusIs(kInvalid, "\"model.norm.weight\" has shape [64]; must be [63]"));
}

TEST_F(CheckpointTest, FileCutAfterOpeningIsAnError) {
  const auto checkpoint = Open(config_, MakeTensors(config_, "F32")).value();
  std::filesystem::resize_file(dir_.File(kFile), 4096);
  bool failed = false;
  for (const TensorSpec& spec : ModelTensors(config_)) {
    failed |= !checkpoint->Read(spec.name, spec.shape).ok();
  }
  EXPECT_TRUE(failed);
}

TEST_F(CheckpointTest, NoFilesAreNotFound) {
  EXPECT_THAT(OpenCheckpoint(dir_.path(), config_),
              StatusIs(absl::StatusCode::kNotFound, dir_.File(kFile)));
}

TEST_F(CheckpointTest, DamagedFilesNeverCrash) {
  ModelConfig config = config_;
  config.num_hidden_layers = 1;
  config.vocab_size = 3;
  config.intermediate_size = 1;
  const std::string good = SafetensorsBytes(MakeTensors(config, "BF16"));
  for (size_t size = 0; size < good.size(); size += 1 + size / 16) {
    WriteFile(dir_.File(kFile), good.substr(0, size));
    EXPECT_THAT(OpenCheckpoint(dir_.path(), config), StatusIs(kInvalid))
        << size;
  }
  std::mt19937 random(3);
  const size_t header_bytes = good.find("}}") + 2;
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = good;
    damaged[random() % header_bytes] = static_cast<char>(random());
    WriteFile(dir_.File(kFile), damaged);
    const auto checkpoint = OpenCheckpoint(dir_.path(), config);
    if (!checkpoint.ok()) {
      EXPECT_THAT(checkpoint, StatusIs(kInvalid, kFile));
    }
  }
}

TEST_F(CheckpointTest, ShardsEqualOneFile) {
  const TestTensors tensors = MakeTensors(config_, "F16");
  const std::string single = Open(config_, tensors).value()->fingerprint();
  std::filesystem::remove(dir_.File(kFile));
  WriteShards(tensors);
  const auto checkpoint = OpenCheckpoint(dir_.path(), config_);
  ASSERT_THAT(checkpoint, IsOk());
  EXPECT_EQ((*checkpoint)->fingerprint(), single);
  ExpectAllReadable(**checkpoint, config_);
}

TEST_F(CheckpointTest, IndexMustNotLeaveTheDirectory) {
  const json good = WriteShards(MakeTensors(config_, "F32"));
  const std::string outside = dir_.path() + "_outside.safetensors";
  std::filesystem::copy(dir_.File(ShardName(0)), outside);
  std::filesystem::create_directory(dir_.File("sub"));
  std::filesystem::copy(dir_.File(ShardName(0)),
                        dir_.File("sub/a.safetensors"));
  const std::string name = std::filesystem::path(outside).filename();
  for (const json& file :
       {json("../" + name), json(outside), json("sub/a.safetensors"),
        json("sub\\a.safetensors"), json("..safetensors"), json(""),
        json(".safetensors"), json("config.json"), json(1), json(nullptr),
        json(std::string("a\0.safetensors", 14))}) {
    json index = good;
    index["weight_map"]["model.norm.weight"] = file;
    EXPECT_THAT(OpenIndex(index), StatusIs(kInvalid, "\"model.norm.weight\""))
        << file;
  }
  std::filesystem::remove(outside);
}

TEST_F(CheckpointTest, IndexAndShardsMustAgree) {
  const TestTensors tensors = MakeTensors(config_, "F32");
  const json good = WriteShards(tensors);
  const std::string name = "model.norm.weight";
  json index = good;
  const std::string file = index["weight_map"][name];
  index["weight_map"][name] =
      file == ShardName(0) ? ShardName(1) : ShardName(0);
  EXPECT_THAT(OpenIndex(index), StatusIs(kInvalid, name));
  index["weight_map"].erase(name);
  EXPECT_THAT(OpenIndex(index), StatusIs(kInvalid, name));
  index = good;
  index["weight_map"]["lm_head.weight"] = ShardName(0);
  EXPECT_THAT(OpenIndex(index), StatusIs(kInvalid, "lm_head.weight"));
  index = good;
  index["weight_map"][name] = "model-3.safetensors";
  EXPECT_THAT(OpenIndex(index),
              StatusIs(absl::StatusCode::kNotFound, "model-3.safetensors"));
  TestTensors twice;
  for (const auto& [other, other_file] : good["weight_map"].items()) {
    if (other_file == ShardName(0) || other == name)
      twice[other] = tensors.at(other);
  }
  WriteFile(dir_.File(ShardName(0)), SafetensorsBytes(twice));
  if (good["weight_map"][name] == ShardName(1)) {
    EXPECT_THAT(OpenIndex(good), StatusIs(kInvalid, name));
  }
}

TEST_F(CheckpointTest, BadIndexIsRefused) {
  WriteShards(MakeTensors(config_, "F32"));
  for (const std::string text :
       {"", "[]", "{}", "{\"weight_map\":[]}",
        "{\"weight_map\":{\"a\":\"x.safetensors\","
        "\"a\":\"x.safetensors\"}}",
        "{\"weight_map\":null}", "{\"weight_map\":{}}"}) {
    WriteFile(dir_.File(kIndex), text);
    EXPECT_THAT(OpenCheckpoint(dir_.path(), config_),
                StatusIs(kInvalid, kIndex))
        << text;
  }
}

TEST_F(CheckpointTest, FingerprintNamesConfigAndEveryTensor) {
  const TestTensors tensors = MakeTensors(config_, "F32");
  std::set<std::string> seen;
  const std::string first = Open(config_, tensors).value()->fingerprint();
  EXPECT_THAT(first, MatchesRegex("[0-9a-f]{32}"));
  EXPECT_EQ(Open(config_, tensors).value()->fingerprint(), first);
  seen.insert(first);
  size_t count = 1;
  for (const auto& [name, tensor] : tensors) {
    for (const size_t byte : {size_t{0}, tensor.bytes.size() - 4}) {
      if (byte == 0 && tensor.bytes.size() == 4) continue;
      TestTensors changed = tensors;
      changed[name].bytes[byte] ^= 1;
      seen.insert(Open(config_, changed).value()->fingerprint());
      EXPECT_EQ(seen.size(), ++count) << name;
    }
  }
  for (void (*change)(ModelConfig&) :
       {+[](ModelConfig& c) { c.rms_norm_eps = 2e-6f; },
        +[](ModelConfig& c) { c.rope_theta = 1e4f + 1; },
        +[](ModelConfig& c) { c.ttt_base_lr = 0.5f; },
        +[](ModelConfig& c) { c.eos_token_id = 3; },
        +[](ModelConfig& c) { c.bos_token_id = -1; }}) {
    ModelConfig config = config_;
    change(config);
    seen.insert(Open(config, tensors).value()->fingerprint());
    EXPECT_EQ(seen.size(), ++count);
  }
}

TEST_F(CheckpointTest, SwappedTensorsHaveAnotherFingerprint) {
  TestTensors tensors = MakeTensors(config_, "F32");
  const std::string first = Open(config_, tensors).value()->fingerprint();
  std::swap(tensors["model.layers.0.mlp.up_proj.weight"].bytes,
            tensors["model.layers.0.mlp.gate_proj.weight"].bytes);
  EXPECT_NE(Open(config_, tensors).value()->fingerprint(), first);
}

TEST(DummyCheckpointTest, SameConfigGivesTheSameWeights) {
  const ModelConfig config = SmallConfig();
  const std::vector<int64_t> shape = {24, 64};
  const auto first =
      MakeDummyCheckpoint(config)->Read("model.embed_tokens.weight", shape);
  const auto second =
      MakeDummyCheckpoint(config)->Read("model.embed_tokens.weight", shape);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(*first, *second);
  // Pinned: benchmarks of two builds run on the same weights.
  EXPECT_EQ((*first)[0], 0.026382484f);
  EXPECT_EQ((*first)[1535], -0.0159314f);
  EXPECT_EQ(MakeDummyCheckpoint(config)->fingerprint(),
            MakeDummyCheckpoint(config)->fingerprint());
  ModelConfig other = config;
  other.ttt_base_lr = 0.1f;
  EXPECT_NE(MakeDummyCheckpoint(other)->fingerprint(),
            MakeDummyCheckpoint(config)->fingerprint());
}

struct Moments {
  double mean;
  double deviation;
};

Moments MomentsOf(const std::vector<float>& values) {
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += double{value} * value;
  }
  const double mean = sum / values.size();
  return {mean, std::sqrt(squares / values.size() - mean * mean)};
}

TEST(DummyCheckpointTest, WeightsAreLikeThoseOfAFreshModel) {
  ModelConfig config = SmallConfig();
  config.hidden_size = 768;
  config.num_attention_heads = 12;
  config.is_mlp = config.share_qk = config.use_gate = config.pre_conv = true;
  const auto checkpoint = MakeDummyCheckpoint(config);
  std::set<float> firsts;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const auto values = checkpoint->Read(spec.name, spec.shape);
    ASSERT_THAT(values, IsOk()) << spec.name;
    ASSERT_EQ(values->size(), NumElements(spec.shape));
    const Moments moments = MomentsOf(*values);
    const double error = 5 / std::sqrt(values->size());
    const bool is_conv =
        spec.shape.size() == 3 && spec.shape[2] == config.conv_kernel;
    if (moments.deviation == 0) {
      const bool is_norm = spec.name.find("norm") != std::string::npos &&
                           spec.name.find("bias") == std::string::npos;
      EXPECT_EQ(moments.mean, is_norm ? 1.0 : 0.0) << spec.name;
      EXPECT_TRUE(is_norm || spec.name.find("idx") != std::string::npos ||
                  spec.name.find("bias") != std::string::npos ||
                  spec.name.find(".b") != std::string::npos)
          << spec.name;
      continue;
    }
    const double scale = is_conv ? 0.5 : 0.02;
    EXPECT_NEAR(moments.mean, 0.0, scale * error) << spec.name;
    EXPECT_NEAR(moments.deviation, scale, scale * error) << spec.name;
    EXPECT_TRUE(firsts.insert((*values)[0]).second) << spec.name;
  }
}

TEST(DummyCheckpointTest, WhatTheModelHasNotIsRefused) {
  const auto checkpoint = MakeDummyCheckpoint(SmallConfig());
  EXPECT_THAT(checkpoint->Read("lm_head.weight", {24, 64}),
              StatusIs(kInvalid, "lm_head"));
  EXPECT_THAT(checkpoint->Read("model.norm.weight", {65}),
              StatusIs(kInvalid, "model.norm"));
}

}  // namespace
}  // namespace ttt
