#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/checkpoint.h"
#include "server/model/fingerprint.h"
#include "server/model/safetensors.h"

namespace ttt {
namespace {

constexpr float kInitialScale = 0.02f;
constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;

// SplitMix64: 64 well-mixed bits for each counter.
uint64_t RandomBits(uint64_t counter) {
  uint64_t bits = counter * kGoldenRatio;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  return bits ^ (bits >> 31);
}

// Close to a normal of variance 1, at most 3.5 away from 0: the sum of four
// uniform 16-bit numbers. Integer arithmetic up to one rounding, so the same on
// every machine.
float NearNormal(uint64_t bits) {
  constexpr int32_t kMean = 2 * 65535;
  constexpr float kDeviation = 37837.2272f;  // sqrt(4 * (65536^2 - 1) / 12)
  const int32_t sum = static_cast<int32_t>(bits & 0xffff) +
                      static_cast<int32_t>((bits >> 16) & 0xffff) +
                      static_cast<int32_t>((bits >> 32) & 0xffff) +
                      static_cast<int32_t>(bits >> 48);
  return static_cast<float>(sum - kMean) / kDeviation;
}

bool IsNormWeight(absl::string_view name) {
  return absl::EndsWith(name, "norm.weight") ||
         absl::EndsWith(name, "norm_weight");
}

bool IsZero(absl::string_view name) {
  return absl::EndsWith(name, "bias") || absl::EndsWith(name, ".b1") ||
         absl::EndsWith(name, ".b2") ||
         absl::EndsWith(name, "learnable_token_idx");
}

bool IsConvolution(absl::string_view name) {
  return absl::StrContains(name, ".conv_q.") ||
         absl::StrContains(name, ".conv_k.") ||
         absl::StrContains(name, ".conv.conv.");
}

class DummyCheckpoint : public Checkpoint {
 public:
  explicit DummyCheckpoint(const ModelConfig& config)
      : conv_kernel_(config.conv_kernel) {
    Fingerprint fingerprint;
    fingerprint.Add("dummy 1");
    AddConfig(config, &fingerprint);
    fingerprint_ = fingerprint.Hex();
    uint64_t next = 1;
    for (TensorSpec& spec : ModelTensors(config)) {
      tensors_[std::move(spec.name)] = {std::move(spec.shape), next++ << 40};
    }
  }

  absl::StatusOr<std::vector<float>> Read(
      absl::string_view name, const std::vector<int64_t>& shape) override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(name), " of shape ", ShapeText(shape),
                       " is not part of the model"));
    }
    int64_t size = 1;
    for (const int64_t dimension : shape) size *= dimension;
    if (IsZero(name)) return std::vector<float>(size, 0.0f);
    if (IsNormWeight(name)) return std::vector<float>(size, 1.0f);
    const float scale =
        IsConvolution(name) ? 1.0f / std::sqrt(conv_kernel_) : kInitialScale;
    std::vector<float> values(size);
    const uint64_t first = found->second.first_counter;
    for (int64_t i = 0; i < size; ++i) {
      values[i] =
          scale * NearNormal(RandomBits(first + static_cast<uint64_t>(i)));
    }
    return values;
  }

  std::string fingerprint() const override { return fingerprint_; }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    uint64_t first_counter;  // ranges of two tensors never meet
  };

  const float conv_kernel_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::string fingerprint_;
};

}  // namespace

std::unique_ptr<Checkpoint> MakeDummyCheckpoint(const ModelConfig& config) {
  return std::make_unique<DummyCheckpoint>(config);
}

}  // namespace ttt
