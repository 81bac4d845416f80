#include "tests/bench/timing_backend.h"

#include <utility>

namespace ttt {

absl::string_view OpName(OpKind kind) {
  switch (kind) {
    case OpKind::kEmbedTokens:
      return "EmbedTokens";
    case OpKind::kRmsNorm:
      return "RmsNorm";
    case OpKind::kCausalConv:
      return "CausalConv";
    case OpKind::kLearnerInputs:
      return "LearnerInputs";
    case OpKind::kLearner:
      return "Learner";
    case OpKind::kNormGate:
      return "NormGate";
    case OpKind::kSwiGlu:
      return "SwiGlu";
    case OpKind::kGemm:
      return "Gemm";
    case OpKind::kSaveHidden:
      return "SaveHidden";
    case OpKind::kGatherHidden:
      return "GatherHidden";
    case OpKind::kSampleTokens:
      return "SampleTokens";
    case OpKind::kDigestStates:
      return "DigestStates";
    case OpKind::kCopy:
      return "copies";
  }
  return "";
}

template <typename Call, typename Cost>
absl::Status TimingBackend::Record(OpKind kind, const Call& call,
                                   const Cost& cost) {
  if (!is_recording_) return call();
  absl::Status status;
  const double seconds = TimeToRun([&] {
    status = call();
    status.Update(target_.Synchronize());
  });
  calls_.push_back({kind, seconds, cost()});
  return status;
}

absl::Status TimingBackend::CopyToDevice(void* device, const void* host,
                                         int64_t size) {
  return Record(
      OpKind::kCopy, [&] { return target_.CopyToDevice(device, host, size); },
      [&] {
        return OpCost{double(size), 0};
      });
}

absl::Status TimingBackend::CopyToHost(void* host, const void* device,
                                       int64_t size) {
  return Record(
      OpKind::kCopy, [&] { return target_.CopyToHost(host, device, size); },
      [&] {
        return OpCost{double(size), 0};
      });
}

absl::Status TimingBackend::CopyOnDevice(void* to, const void* from,
                                         int64_t size) {
  return Record(
      OpKind::kCopy, [&] { return target_.CopyOnDevice(to, from, size); },
      [&] {
        return OpCost{2 * double(size), 0};
      });
}

absl::Status TimingBackend::EmbedTokens(const EmbedTokensArgs& args) {
  return Record(
      OpKind::kEmbedTokens, [&] { return target_.EmbedTokens(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::RmsNorm(const RmsNormArgs& args) {
  return Record(
      OpKind::kRmsNorm, [&] { return target_.RmsNorm(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::CausalConv(const CausalConvArgs& args) {
  return Record(
      OpKind::kCausalConv, [&] { return target_.CausalConv(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::LearnerInputs(const LearnerInputsArgs& args) {
  return Record(
      OpKind::kLearnerInputs, [&] { return target_.LearnerInputs(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::Learner(const LearnerArgs& args) {
  absl::Status copied;
  const absl::Status status = Record(
      OpKind::kLearner, [&] { return target_.Learner(args); },
      [&] {
        std::vector<SequenceRows> sequences(args.rows.batch);
        copied = target_.CopyToHost(sequences.data(), args.rows.sequences,
                                    sequences.size() * sizeof(SequenceRows));
        return CostOf(args, sequences);
      });
  return status.ok() ? copied : status;
}

absl::Status TimingBackend::NormGate(const NormGateArgs& args) {
  return Record(
      OpKind::kNormGate, [&] { return target_.NormGate(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::SwiGlu(const SwiGluArgs& args) {
  return Record(
      OpKind::kSwiGlu, [&] { return target_.SwiGlu(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::Gemm(const GemmArgs& args) {
  return Record(
      OpKind::kGemm, [&] { return target_.Gemm(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::SaveHidden(const SaveHiddenArgs& args) {
  return Record(
      OpKind::kSaveHidden, [&] { return target_.SaveHidden(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::GatherHidden(const GatherHiddenArgs& args) {
  return Record(
      OpKind::kGatherHidden, [&] { return target_.GatherHidden(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::SampleTokens(const SampleTokensArgs& args) {
  return Record(
      OpKind::kSampleTokens, [&] { return target_.SampleTokens(args); },
      [&] { return CostOf(args); });
}

absl::Status TimingBackend::DigestStates(const DigestStatesArgs& args) {
  return Record(
      OpKind::kDigestStates, [&] { return target_.DigestStates(args); },
      [&] { return CostOf(args); });
}

}  // namespace ttt
