#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "server/base/status_macros.h"
#include "tests/support/forwarding_backend.h"

namespace ttt {

enum class BackendCall {
  kAny,  // of those below
  kAllocate,
  kPackWeights,
  kCopyToDevice,
  kCopyToHost,
  kCopyOnDevice,
  kSynchronize,
  kEndSequences,
  kEmbedTokens,
  kRmsNorm,
  kConvNorm,
  kLearnerInputs,
  kLearner,
  kNormGate,
  kSwiGlu,
  kGemm,
  kSaveHidden,
  kGatherHidden,
  kSampleTokens,
  kDigestStates,
};

// Hands calls on to another backend, save the one that is to fail.
class FailingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  // The `nth` call of that kind from now on, 1 being the next, answers `status`
  // and does nothing. One failure may be ahead for each kind.
  void FailNth(BackendCall call, int64_t nth, absl::Status status) {
    failures_[call] = {calls_[call] + nth, std::move(status)};
  }
  // Made so far, with those that failed.
  int64_t calls(BackendCall call) const {
    const auto found = calls_.find(call);
    return found == calls_.end() ? 0 : found->second;
  }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kAllocate));
    return target_.Allocate(size_bytes);
  }
  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kPackWeights));
    return target_.PackWeights(weights, num_outputs, num_inputs);
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size_bytes) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kCopyToDevice));
    return target_.CopyToDevice(device, host, size_bytes);
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size_bytes) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kCopyToHost));
    return target_.CopyToHost(host, device, size_bytes);
  }
  absl::Status CopyOnDevice(void* to, const void* from,
                            int64_t size_bytes) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kCopyOnDevice));
    return target_.CopyOnDevice(to, from, size_bytes);
  }
  absl::Status Synchronize() override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kSynchronize));
    return target_.Synchronize();
  }
  absl::Status EndSequences(const EndSequencesArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kEndSequences));
    return target_.EndSequences(args);
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kEmbedTokens));
    return target_.EmbedTokens(args);
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kRmsNorm));
    return target_.RmsNorm(args);
  }
  absl::Status ConvNorm(const ConvNormArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kConvNorm));
    return target_.ConvNorm(args);
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kLearnerInputs));
    return target_.LearnerInputs(args);
  }
  absl::Status Learner(const LearnerArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kLearner));
    return target_.Learner(args);
  }
  absl::Status NormGate(const NormGateArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kNormGate));
    return target_.NormGate(args);
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kSwiGlu));
    return target_.SwiGlu(args);
  }
  absl::Status Gemm(const GemmArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kGemm));
    return target_.Gemm(args);
  }
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kSaveHidden));
    return target_.SaveHidden(args);
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kGatherHidden));
    return target_.GatherHidden(args);
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kSampleTokens));
    return target_.SampleTokens(args);
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    TTT_RETURN_IF_ERROR(Count(BackendCall::kDigestStates));
    return target_.DigestStates(args);
  }

 private:
  struct Failure {
    int64_t at;
    absl::Status status;
  };

  // OK, or the failure that this call meets.
  absl::Status Count(BackendCall call) {
    absl::Status status = CountOne(call);
    const absl::Status any = CountOne(BackendCall::kAny);
    return status.ok() ? any : status;
  }
  absl::Status CountOne(BackendCall call) {
    const int64_t number = ++calls_[call];
    const auto failure = failures_.find(call);
    if (failure == failures_.end() || failure->second.at != number) {
      return absl::OkStatus();
    }
    return failure->second.status;
  }

  std::map<BackendCall, int64_t> calls_;
  std::map<BackendCall, Failure> failures_;
};

}  // namespace ttt
