#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"

namespace ttt {

// A device of host memory that copies, and knows no op: UNIMPLEMENTED.
class FakeBackend : public Backend {
 public:
  // Allocate answers RESOURCE_EXHAUSTED past `memory_bytes` in all.
  explicit FakeBackend(
      int64_t memory_bytes = std::numeric_limits<int64_t>::max())
      : free_bytes_(memory_bytes) {}

  const DeviceInfo& info() const override { return info_; }
  DType operand_type() const override { return DType::kFloat32; }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) override {
    if (size_bytes < 0) return absl::InvalidArgumentError("size below 0");
    if (size_bytes > free_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("fake: ", size_bytes, " bytes, ", free_bytes_, " free"));
    }
    free_bytes_ -= size_bytes;
    return std::make_unique<Buffer>(size_bytes, &free_bytes_);
  }
  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(const float*,
                                                           int32_t,
                                                           int32_t) override {
    return Unknown();
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size_bytes) override {
    return Copy(device, host, size_bytes);
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size_bytes) override {
    return Copy(host, device, size_bytes);
  }
  absl::Status CopyOnDevice(void* to, const void* from,
                            int64_t size_bytes) override {
    return Copy(to, from, size_bytes);
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }

  absl::Status EndSequences(const EndSequencesArgs&) override {
    return Unknown();
  }
  absl::Status EmbedTokens(const EmbedTokensArgs&) override {
    return Unknown();
  }
  absl::Status RmsNorm(const RmsNormArgs&) override { return Unknown(); }
  absl::Status ConvNorm(const ConvNormArgs&) override { return Unknown(); }
  absl::Status LearnerInputs(const LearnerInputsArgs&) override {
    return Unknown();
  }
  absl::Status Learner(const LearnerArgs&) override { return Unknown(); }
  absl::Status NormGate(const NormGateArgs&) override { return Unknown(); }
  absl::Status SwiGlu(const SwiGluArgs&) override { return Unknown(); }
  absl::Status Gemm(const GemmArgs&) override { return Unknown(); }
  absl::Status SaveHidden(const SaveHiddenArgs&) override { return Unknown(); }
  absl::Status GatherHidden(const GatherHiddenArgs&) override {
    return Unknown();
  }
  absl::Status SampleTokens(const SampleTokensArgs&) override {
    return Unknown();
  }
  absl::Status DigestStates(const DigestStatesArgs&) override {
    return Unknown();
  }

 private:
  class Buffer : public DeviceBuffer {
   public:
    Buffer(int64_t size_bytes, int64_t* free_bytes)
        : data_(static_cast<std::byte*>(
              std::aligned_alloc(64, (size_bytes / 64 + 1) * 64))),
          size_bytes_(size_bytes),
          free_bytes_(free_bytes) {
      std::memset(data_, 0, size_bytes_);
    }
    ~Buffer() override {
      std::free(data_);
      *free_bytes_ += size_bytes_;
    }
    std::byte* data() const override { return data_; }
    int64_t size_bytes() const override { return size_bytes_; }

   private:
    std::byte* const data_;
    const int64_t size_bytes_;
    int64_t* const free_bytes_;
  };

  static absl::Status Copy(void* to, const void* from, int64_t size_bytes) {
    std::memcpy(to, from, size_bytes);
    return absl::OkStatus();
  }
  static absl::Status Unknown() {
    return absl::UnimplementedError("the fake backend knows no ops");
  }

  const DeviceInfo info_ = {.name = "fake",
                            .description = "host memory, no ops",
                            .precision = Precision::kFloat32,
                            .numerics_fingerprint = "fake"};
  int64_t free_bytes_;
};

}  // namespace ttt
