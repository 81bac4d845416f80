// Model directories for tests, sound or damaged.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "server/model/checkpoint.h"

namespace ttt {

// A directory of this test alone, removed at its end.
class TempDir {
 public:
  TempDir() {
    std::string name = ::testing::TempDir() + "/ttt_model_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return bytes.str();
}

struct TestTensor {
  std::string dtype = "F32";
  std::vector<int64_t> shape;
  std::string bytes;
};
using TestTensors = std::map<std::string, TestTensor>;

// Eight bytes of length, then the header as it is, then the data.
inline std::string SafetensorsBytes(const std::string& header,
                                    const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) +
         header + data;
}

inline std::string SafetensorsBytes(const TestTensors& tensors) {
  std::vector<std::string> entries;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    entries.push_back(
        absl::StrCat("\"", name, "\":{\"dtype\":\"", tensor.dtype,
                     "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                     "],\"data_offsets\":[", begin, ",", data.size(), "]}"));
  }
  return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"),
                          data);
}

// The float32 values as they are stored: all must be exact in `dtype`.
inline std::string StoredBytes(const std::string& dtype,
                               const std::vector<float>& values) {
  std::string bytes;
  for (const float value : values) {
    uint32_t word = std::bit_cast<uint32_t>(value);
    size_t size = sizeof(word);
    if (dtype == "BF16") {
      word >>= 16;
      size = 2;
    } else if (dtype == "F16") {
      const uint32_t magnitude = word & 0x7fffffff;
      word = (word >> 16 & 0x8000) |
             (magnitude == 0 ? 0 : (magnitude >> 13) - (112u << 10));
      size = 2;
    }
    bytes.append(reinterpret_cast<const char*>(&word), size);
  }
  return bytes;
}

inline int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

// Values that differ by tensor and place and are exact in all float types.
inline std::vector<float> TestValues(size_t seed, int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] =
        static_cast<float>(static_cast<int64_t>((seed * 31 + i) % 255) - 127) /
        64;
  }
  return values;
}

inline TestTensors MakeTensors(const ModelConfig& config,
                               const std::string& dtype) {
  TestTensors tensors;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const auto values = TestValues(spec.name.size(), NumElements(spec.shape));
    tensors[spec.name] = {dtype, spec.shape, StoredBytes(dtype, values)};
  }
  return tensors;
}

inline ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 24;
  config.hidden_size = 64;
  config.intermediate_size = 40;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  return config;
}

}  // namespace ttt
