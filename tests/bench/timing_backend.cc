#include "tests/bench/timing_backend.h"

#include <type_traits>
#include <utility>

namespace ttt {

absl::string_view OpName(OpKind kind) {
  switch (kind) {
    case OpKind::kEndSequences:
      return "EndSequences";
    case OpKind::kEmbedTokens:
      return "EmbedTokens";
    case OpKind::kRmsNorm:
      return "RmsNorm";
    case OpKind::kConvNorm:
      return "ConvNorm";
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
absl::Status TimingBackend::Time(OpKind kind, const Call& call,
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
  return Time(
      OpKind::kCopy, [&] { return target_.CopyToDevice(device, host, size); },
      [&] {
        return OpCost{double(size), 0};
      });
}

absl::Status TimingBackend::CopyToHost(void* host, const void* device,
                                       int64_t size) {
  return Time(
      OpKind::kCopy, [&] { return target_.CopyToHost(host, device, size); },
      [&] {
        return OpCost{double(size), 0};
      });
}

absl::Status TimingBackend::CopyOnDevice(void* to, const void* from,
                                         int64_t size) {
  return Time(
      OpKind::kCopy, [&] { return target_.CopyOnDevice(to, from, size); },
      [&] {
        return OpCost{2 * double(size), 0};
      });
}

template <typename Args>
absl::Status TimingBackend::TimeOp(OpKind kind,
                                   absl::Status (Backend::*op)(const Args&),
                                   const Args& args) {
  if (recorded_ops_ != nullptr) {
    recorded_ops_->push_back(
        [this, kind, op, args] { return TimeOp(kind, op, args); });
    return (target_.*op)(args);
  }
  absl::Status copied;
  const absl::Status status = Time(
      kind, [&] { return (target_.*op)(args); },
      [&] {
        if constexpr (std::is_same_v<Args, LearnerArgs>) {
          std::vector<SequenceRows> sequences(args.rows.batch);
          copied = target_.CopyToHost(sequences.data(), args.rows.sequences,
                                      sequences.size() * sizeof(SequenceRows));
          return CostOf(args, sequences);
        } else {
          return CostOf(args);
        }
      });
  return status.ok() ? copied : status;
}

struct TimingBackend::OpRecording : public Recording {
  std::unique_ptr<Recording> target;
  Ops ops;
};

absl::StatusOr<std::unique_ptr<Recording>> TimingBackend::Record(
    absl::FunctionRef<absl::Status()> work) {
  auto recording = std::make_unique<OpRecording>();
  recorded_ops_ = &recording->ops;
  auto target = target_.Record(work);
  recorded_ops_ = nullptr;
  if (!target.ok()) return target.status();
  if (*target == nullptr) return std::unique_ptr<Recording>();
  recording->target = *std::move(target);
  return recording;
}

absl::Status TimingBackend::Run(const Recording& recording) {
  const auto& own = static_cast<const OpRecording&>(recording);
  if (!is_recording_) return target_.Run(*own.target);
  for (const auto& op : own.ops) {
    if (absl::Status status = op(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TimingBackend::EndSequences(const EndSequencesArgs& args) {
  return TimeOp(OpKind::kEndSequences, &Backend::EndSequences, args);
}
absl::Status TimingBackend::EmbedTokens(const EmbedTokensArgs& args) {
  return TimeOp(OpKind::kEmbedTokens, &Backend::EmbedTokens, args);
}
absl::Status TimingBackend::RmsNorm(const RmsNormArgs& args) {
  return TimeOp(OpKind::kRmsNorm, &Backend::RmsNorm, args);
}
absl::Status TimingBackend::ConvNorm(const ConvNormArgs& args) {
  return TimeOp(OpKind::kConvNorm, &Backend::ConvNorm, args);
}
absl::Status TimingBackend::LearnerInputs(const LearnerInputsArgs& args) {
  return TimeOp(OpKind::kLearnerInputs, &Backend::LearnerInputs, args);
}
absl::Status TimingBackend::Learner(const LearnerArgs& args) {
  return TimeOp(OpKind::kLearner, &Backend::Learner, args);
}
absl::Status TimingBackend::LearnerOfProjections(
    const LearnerOfProjectionsArgs& args) {
  if (recorded_ops_ != nullptr) {
    recorded_ops_->push_back(
        [this, args] { return LearnerOfProjections(args); });
    return target_.LearnerOfProjections(args);
  }
  return is_recording_ ? ForwardingBackend::LearnerOfProjections(args)
                       : target_.LearnerOfProjections(args);
}
absl::Status TimingBackend::NormGate(const NormGateArgs& args) {
  return TimeOp(OpKind::kNormGate, &Backend::NormGate, args);
}
absl::Status TimingBackend::SwiGlu(const SwiGluArgs& args) {
  return TimeOp(OpKind::kSwiGlu, &Backend::SwiGlu, args);
}
absl::Status TimingBackend::Gemm(const GemmArgs& args) {
  return TimeOp(OpKind::kGemm, &Backend::Gemm, args);
}
absl::Status TimingBackend::GemmSwiGlu(const GemmSwiGluArgs& args) {
  return TimeOp(OpKind::kGemm, &Backend::GemmSwiGlu, args);
}
absl::Status TimingBackend::SaveHidden(const SaveHiddenArgs& args) {
  return TimeOp(OpKind::kSaveHidden, &Backend::SaveHidden, args);
}
absl::Status TimingBackend::GatherHidden(const GatherHiddenArgs& args) {
  return TimeOp(OpKind::kGatherHidden, &Backend::GatherHidden, args);
}
absl::Status TimingBackend::SampleTokens(const SampleTokensArgs& args) {
  return TimeOp(OpKind::kSampleTokens, &Backend::SampleTokens, args);
}
absl::StatusOr<std::unique_ptr<QueuedDigests>> TimingBackend::QueueDigests(
    const DigestStatesArgs& args) {
  if (!is_asynchronous()) return ForwardingBackend::QueueDigests(args);
  absl::StatusOr<std::unique_ptr<QueuedDigests>> queued = nullptr;
  const absl::Status status = Time(
      OpKind::kDigestStates,
      [&] {
        queued = target_.QueueDigests(args);
        return queued.status();
      },
      [&] { return CostOf(args); });
  if (!status.ok()) return status;
  return queued;
}
absl::Status TimingBackend::DigestStates(const DigestStatesArgs& args) {
  return TimeOp(OpKind::kDigestStates, &Backend::DigestStates, args);
}

}  // namespace ttt
