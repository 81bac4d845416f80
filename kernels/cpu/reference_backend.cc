#include "kernels/cpu/reference_backend.h"

#include <utility>

#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/copy_ops.h"
#include "kernels/cpu/digest_states.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/sample_tokens.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/digest.h"
#include "kernels/validate.h"

namespace ttt {
namespace {

// Row-major float32, rounded to the backend's precision.
class ReferenceWeights : public GemmWeights {
 public:
  ReferenceWeights(std::unique_ptr<DeviceBuffer> buffer, int32_t num_outputs,
                   int32_t num_inputs)
      : buffer_(std::move(buffer)),
        num_outputs_(num_outputs),
        num_inputs_(num_inputs) {}
  int64_t bytes() const override { return buffer_->size_bytes(); }
  int32_t num_outputs() const override { return num_outputs_; }
  int32_t num_inputs() const override { return num_inputs_; }
  const float* data() const { return buffer_->as<float>(); }

 private:
  const std::unique_ptr<DeviceBuffer> buffer_;
  const int32_t num_outputs_;
  const int32_t num_inputs_;
};

class ReferenceBackend : public HostBackend {
 public:
  explicit ReferenceBackend(DeviceInfo info) : HostBackend(std::move(info)) {}

  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    if (absl::Status status = ValidateWeights(num_outputs, num_inputs);
        !status.ok()) {
      return status;
    }
    const int64_t size = int64_t{num_outputs} * num_inputs;
    absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
        Allocate(size * int64_t{sizeof(float)});
    if (!buffer.ok()) return buffer.status();
    float* const packed = (*buffer)->as<float>();
    const bool rounds = operand_type() == DType::kBFloat16;
    for (int64_t i = 0; i < size; ++i) {
      packed[i] =
          rounds ? BFloat16ToFloat(FloatToBFloat16(weights[i])) : weights[i];
    }
    return std::make_unique<ReferenceWeights>(*std::move(buffer), num_outputs,
                                              num_inputs);
  }

  absl::Status EndSequences(const EndSequencesArgs& args) override {
    return Run(args, [&] { ttt::EndSequences(args); });
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    return Run(args, [&] { ttt::EmbedTokens(args, pool_); });
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    return Run(args, [&] { reference::RmsNorm(args); });
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override {
    if (absl::Status status = ValidateRows(args, DType::kFloat32);
        !status.ok()) {
      return status;
    }
    return Run(args, [&] { reference::LearnerInputs(args); });
  }
  absl::Status Learner(const LearnerArgs& args) override {
    if (absl::Status status = ValidateRows(args, DType::kFloat32);
        !status.ok()) {
      return status;
    }
    return Run(args, [&] { reference::Learner(args); });
  }
  absl::Status NormGate(const NormGateArgs& args) override {
    return Run(args, [&] { reference::NormGate(args); });
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    return Run(args, [&] { reference::SwiGlu(args); });
  }
  absl::Status Gemm(const GemmArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    const auto* const weights =
        dynamic_cast<const ReferenceWeights*>(args.weights);
    if (absl::Status status =
            ValidateOperands(args, weights != nullptr, operand_type());
        !status.ok()) {
      return status;
    }
    reference::Gemm(args, weights->data());
    return absl::OkStatus();
  }
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    return Run(args, [&] { ttt::SaveHidden(args); });
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    return Run(args, [&] { ttt::GatherHidden(args); });
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    return Run(args, [&] {
      for (int32_t row = 0; row < args.num_rows; ++row) {
        SampleRowToken(args, row, kReferenceSampleMath, sample_scratch_);
      }
    });
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    if (absl::Status status = ValidateWords(args); !status.ok()) return status;
    return Run(args, [&] { ttt::DigestStates(args, DigestBlockLanes, pool_); });
  }

 private:
  void CausalConv(const CausalConvArgs& args) override {
    reference::CausalConv(args);
  }

  template <typename Args, typename Op>
  absl::Status Run(const Args& args, const Op& op) {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    op();
    return absl::OkStatus();
  }

  ThreadPool pool_{1};
  SampleScratch sample_scratch_;
};

}  // namespace

std::unique_ptr<Backend> CreateReferenceBackend(Precision precision) {
  const bool is_float = precision == Precision::kFloat32;
  return std::make_unique<ReferenceBackend>(DeviceInfo{
      .name = "cpu",
      .description = "reference, 1 thread",
      .precision = precision,
      .numerics_fingerprint =
          is_float ? "cpu-reference/fp32/1" : "cpu-reference/bf16/1",
  });
}

}  // namespace ttt
