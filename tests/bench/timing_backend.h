// Where the time of a step goes.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tests/bench/op_cost.h"
#include "tests/bench/stopwatch.h"
#include "tests/support/forwarding_backend.h"

namespace ttt {

enum class OpKind : uint8_t {
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
  kCopy,  // to, from and on the device
};
inline constexpr OpKind kAllOpKinds[] = {
    OpKind::kEndSequences, OpKind::kEmbedTokens,   OpKind::kRmsNorm,
    OpKind::kConvNorm,     OpKind::kLearnerInputs, OpKind::kLearner,
    OpKind::kNormGate,     OpKind::kSwiGlu,        OpKind::kGemm,
    OpKind::kSaveHidden,   OpKind::kGatherHidden,  OpKind::kSampleTokens,
    OpKind::kDigestStates, OpKind::kCopy};
absl::string_view OpName(OpKind kind);

struct OpCall {
  OpKind kind;
  double seconds;  // until the device had done it
  OpCost cost;
};

// Hands every call on and, while it records, waits for each op and keeps its
// time and cost. Not thread-safe, as the backend below.
class TimingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  void StartRecording() {
    calls_.clear();
    is_recording_ = true;
  }
  // The calls since StartRecording, in their order.
  std::vector<OpCall> StopRecording() {
    is_recording_ = false;
    return std::move(calls_);
  }

  // What it returns runs as the target's recording, or while this records, op
  // by op.
  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override;
  absl::Status Run(const Recording& recording) override;

  absl::StatusOr<std::unique_ptr<GemmWeights>> PackGateUp(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    return target_.PackGateUp(weights, num_outputs, num_inputs);
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size) override;
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size) override;
  absl::Status CopyOnDevice(void* to, const void* from, int64_t size) override;
  absl::Status EndSequences(const EndSequencesArgs& args) override;
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override;
  absl::Status RmsNorm(const RmsNormArgs& args) override;
  absl::Status ConvNorm(const ConvNormArgs& args) override;
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override;
  absl::Status Learner(const LearnerArgs& args) override;
  // While this records, one after the other: each has a time of its own.
  absl::Status LearnerOfProjections(
      const LearnerOfProjectionsArgs& args) override;
  absl::Status NormGate(const NormGateArgs& args) override;
  absl::Status SwiGlu(const SwiGluArgs& args) override;
  absl::Status Gemm(const GemmArgs& args) override;
  // A kGemm, too.
  absl::Status GemmSwiGlu(const GemmSwiGluArgs& args) override;
  absl::Status SaveHidden(const SaveHiddenArgs& args) override;
  absl::Status GatherHidden(const GatherHiddenArgs& args) override;
  absl::Status SampleTokens(const SampleTokensArgs& args) override;
  absl::Status DigestStates(const DigestStatesArgs& args) override;
  absl::StatusOr<std::unique_ptr<QueuedDigests>> QueueDigests(
      const DigestStatesArgs& args) override;

 private:
  // Runs `call`; while recording, times it and asks `cost` what it took.
  template <typename Call, typename Cost>
  absl::Status Time(OpKind kind, const Call& call, const Cost& cost);
  template <typename Args>
  absl::Status TimeOp(OpKind kind, absl::Status (Backend::*op)(const Args&),
                      const Args& args);

  using Ops = std::vector<std::function<absl::Status()>>;
  struct OpRecording;

  bool is_recording_ = false;
  std::vector<OpCall> calls_;
  Ops* recorded_ops_ = nullptr;  // not null while the target records
};

}  // namespace ttt
