#pragma once

#include "kernels/backend.h"

namespace ttt {

// A backend that hands every call to another one; tests override what they
// watch. Ops that are several in one are these, so that each can be watched.
class ForwardingBackend : public Backend {
 public:
  // `target` must outlive it.
  explicit ForwardingBackend(Backend* target) : target_(*target) {}

  const DeviceInfo& info() const override { return target_.info(); }
  DType operand_type() const override { return target_.operand_type(); }
  StateForms state_forms() const override { return target_.state_forms(); }
  absl::StatusOr<std::optional<int64_t>> FreeBytes() override {
    return target_.FreeBytes();
  }
  bool is_asynchronous() const override { return target_.is_asynchronous(); }
  DeviceOverhead overhead() const override { return target_.overhead(); }
  DeviceCounts counts() const override { return target_.counts(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size) override {
    return target_.Allocate(size);
  }
  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    return target_.PackWeights(weights, num_outputs, num_inputs);
  }
  absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                      int32_t num_inputs) override {
    return target_.PackedBytes(num_outputs, num_inputs);
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size) override {
    return target_.CopyToDevice(device, host, size);
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size) override {
    return target_.CopyToHost(host, device, size);
  }
  // Of a target that does all at once, through CopyToHost.
  absl::StatusOr<std::unique_ptr<Readback>> CreateReadback(
      int64_t size) override {
    return is_asynchronous() ? target_.CreateReadback(size)
                             : Backend::CreateReadback(size);
  }
  absl::Status CopyOnDevice(void* to, const void* from, int64_t size) override {
    return target_.CopyOnDevice(to, from, size);
  }
  absl::Status Synchronize() override { return target_.Synchronize(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(
      int64_t size) override {
    return target_.AllocateHost(size);
  }
  absl::StatusOr<DeviceCopy> StartCopyToHost(void* host, const void* device,
                                             int64_t size) override {
    return target_.StartCopyToHost(host, device, size);
  }
  absl::StatusOr<DeviceCopy> StartCopyToDevice(void* device, const void* host,
                                               int64_t size) override {
    return target_.StartCopyToDevice(device, host, size);
  }
  absl::StatusOr<bool> HasEnded(const DeviceCopy& copy) override {
    return target_.HasEnded(copy);
  }
  absl::Status Wait(const DeviceCopy& copy) override {
    return target_.Wait(copy);
  }
  absl::Status QueueAfter(const DeviceCopy& copy) override {
    return target_.QueueAfter(copy);
  }
  absl::Status EndSequences(const EndSequencesArgs& args) override {
    return target_.EndSequences(args);
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    return target_.EmbedTokens(args);
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    return target_.RmsNorm(args);
  }
  absl::Status ConvNorm(const ConvNormArgs& args) override {
    return target_.ConvNorm(args);
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override {
    return target_.LearnerInputs(args);
  }
  absl::Status Learner(const LearnerArgs& args) override {
    return target_.Learner(args);
  }
  absl::Status NormGate(const NormGateArgs& args) override {
    return target_.NormGate(args);
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    return target_.SwiGlu(args);
  }
  absl::Status Gemm(const GemmArgs& args) override {
    return target_.Gemm(args);
  }
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    return target_.SaveHidden(args);
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    return target_.GatherHidden(args);
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    return target_.SampleTokens(args);
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    return target_.DigestStates(args);
  }
  // Of a target that does all at once, through DigestStates.
  absl::StatusOr<std::unique_ptr<QueuedDigests>> QueueDigests(
      const DigestStatesArgs& args) override {
    return is_asynchronous() ? target_.QueueDigests(args)
                             : Backend::QueueDigests(args);
  }

 protected:
  Backend& target_;
};

}  // namespace ttt
