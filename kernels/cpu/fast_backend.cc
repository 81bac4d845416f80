#include "kernels/cpu/fast_backend.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/copy_ops.h"
#include "kernels/cpu/digest_states.h"
#include "kernels/cpu/dnnl_gemm.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/sample_tokens.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/validate.h"

namespace ttt {
namespace {

// Floats that are worth a task of their own: a few microseconds of a norm.
constexpr int64_t kFloatsPerTask = 8192;
// The same of a convolution, which does more to each.
constexpr int64_t kConvFloatsPerTask = 2048;

constexpr int32_t kHeadsPerTask = 4;  // of the learner, at most

// What one thread needs.
struct Scratch {
  std::unique_ptr<DeviceBuffer> learner;
  SampleScratch sample;
};

class FastBackend : public HostBackend {
 public:
  FastBackend(DeviceInfo info, const VectorOps& ops,
              std::unique_ptr<ThreadPool> pool, std::unique_ptr<DnnlGemm> gemm,
              std::vector<Scratch> scratch)
      : HostBackend(std::move(info)),
        ops_(ops),
        pool_(std::move(pool)),
        gemm_(std::move(gemm)),
        scratch_(std::move(scratch)) {}

  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    if (absl::Status status = ValidateWeights(num_outputs, num_inputs);
        !status.ok()) {
      return status;
    }
    return gemm_->Pack(weights, num_outputs, num_inputs);
  }
  absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                      int32_t num_inputs) override {
    if (absl::Status status = ValidateWeights(num_outputs, num_inputs);
        !status.ok()) {
      return status;
    }
    return gemm_->PackedBytes(num_outputs, num_inputs);
  }

  absl::Status EndSequences(const EndSequencesArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    ttt::EndSequences(args);
    return absl::OkStatus();
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    ttt::EmbedTokens(args, *pool_);
    return absl::OkStatus();
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    return RunOverRows(args, args.hidden_size, ops_.rms_norm);
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override;
  absl::Status Learner(const LearnerArgs& args) override;
  absl::Status NormGate(const NormGateArgs& args) override {
    return RunOverRows(args, args.hidden_size, ops_.norm_gate);
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    return RunOverRows(args, args.inner, ops_.swi_glu);
  }
  absl::Status Gemm(const GemmArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    if (absl::Status status =
            ValidateOperands(args, gemm_->Owns(args.weights), operand_type());
        !status.ok()) {
      return status;
    }
    return gemm_->Run(args);
  }
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    ttt::SaveHidden(args);
    return absl::OkStatus();
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    ttt::GatherHidden(args);
    return absl::OkStatus();
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    pool_->Run(args.num_rows, [&](int64_t row, int32_t thread) {
      SampleRowToken(args, row, ops_.sample_math, scratch_[thread].sample);
    });
    return absl::OkStatus();
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    if (absl::Status status = ValidateWords(args); !status.ok()) return status;
    ttt::DigestStates(args, ops_.digest_lanes, *pool_);
    return absl::OkStatus();
  }

 private:
  void CausalConv(const CausalConvArgs& args) override;

  template <typename Args>
  absl::Status RunOverRows(const Args& args, int64_t row_floats,
                           void (*op)(const Args&, int64_t, int64_t)) {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    const int64_t num_rows = args.num_rows;
    const int64_t rows = std::max<int64_t>(1, kFloatsPerTask / row_floats);
    pool_->Run((num_rows + rows - 1) / rows, [&](int64_t task, int32_t) {
      op(args, task * rows, std::min(num_rows, (task + 1) * rows));
    });
    return absl::OkStatus();
  }

  // Calls function(sequence, part) for each part in [0, num_parts) of each
  // sequence; on one thread if all of it is not worth two. A task is as many
  // parts as are worth one.
  template <typename Function>
  void RunOverSequences(const StepRows& rows, int64_t num_parts,
                        int64_t row_floats, const Function& function) {
    const int64_t num_calls = rows.batch * num_parts;
    const int64_t num_tasks =
        std::clamp<int64_t>(rows.num_rows * row_floats / kConvFloatsPerTask, 1,
                            std::max<int64_t>(num_calls, 1));
    pool_->Run(num_tasks, [&](int64_t task, int32_t) {
      const int64_t end = (task + 1) * num_calls / num_tasks;
      for (int64_t i = task * num_calls / num_tasks; i < end; ++i) {
        function(rows.sequences[i / num_parts], int32_t(i % num_parts));
      }
    });
  }

  const VectorOps& ops_;
  const std::unique_ptr<ThreadPool> pool_;
  const std::unique_ptr<DnnlGemm> gemm_;
  std::vector<Scratch> scratch_;  // one a thread
};

void FastBackend::CausalConv(const CausalConvArgs& args) {
  const int32_t size = args.hidden_size;
  RunOverSequences(args.rows, (size + kConvChannels - 1) / kConvChannels, size,
                   [&](const SequenceRows& sequence, int32_t part) {
                     const int32_t begin = part * kConvChannels;
                     ops_.causal_conv(args, sequence, begin,
                                      std::min(size, begin + kConvChannels));
                   });
}

absl::Status FastBackend::LearnerInputs(const LearnerInputsArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  if (absl::Status status = ValidateRows(args, DType::kFloat32); !status.ok()) {
    return status;
  }
  RunOverSequences(args.rows, args.num_heads, args.num_heads * args.head_dim,
                   [&](const SequenceRows& sequence, int32_t head) {
                     ops_.learner_inputs(args, sequence, head);
                   });
  return absl::OkStatus();
}

absl::Status FastBackend::Learner(const LearnerArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  if (absl::Status status = ValidateRows(args, DType::kFloat32); !status.ok()) {
    return status;
  }
  // A few heads of a sequence make a task, as each asks for the fast weights of
  // the next.
  const int64_t heads_per_task = std::clamp<int64_t>(
      int64_t{args.rows.batch} * args.num_heads / (4 * pool_->num_threads()), 1,
      std::min(args.num_heads, kHeadsPerTask));
  const int64_t tasks = (args.num_heads + heads_per_task - 1) / heads_per_task;
  pool_->Run(args.rows.batch * tasks, [&](int64_t task, int32_t thread) {
    const int64_t first = task % tasks * heads_per_task;
    ops_.learner(
        args, args.rows.sequences[task / tasks], int32_t(first),
        int32_t(std::min<int64_t>(args.num_heads, first + heads_per_task)),
        scratch_[thread].learner->as<float>());
  });
  return absl::OkStatus();
}

const VectorOps& OpsOf(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return avx512::kVectorOps;
    case Isa::kAvx2:
      return avx2::kVectorOps;
    case Isa::kSse2:
      break;
  }
  return sse2::kVectorOps;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateFastBackend(Precision precision,
                                                           int32_t num_threads,
                                                           Isa isa) {
  const bool is_float = precision == Precision::kFloat32;
  auto pool = std::make_unique<ThreadPool>(num_threads);
  absl::StatusOr<std::unique_ptr<DnnlGemm>> gemm = DnnlGemm::Create(
      is_float ? DType::kFloat32 : DType::kBFloat16, pool.get());
  if (!gemm.ok()) return gemm.status();
  std::vector<Scratch> scratch(num_threads);
  for (Scratch& thread : scratch) {
    absl::StatusOr<std::unique_ptr<DeviceBuffer>> learner =
        AllocateHostMemory(kLearnerScratchFloats * int64_t{sizeof(float)});
    if (!learner.ok()) return learner.status();
    thread.learner = *std::move(learner);
  }
  DeviceInfo info = {
      .name = "cpu",
      .description = absl::StrCat(IsaName(isa), ", ", num_threads,
                                  num_threads == 1 ? " thread" : " threads"),
      .precision = precision,
      .numerics_fingerprint =
          absl::StrCat("cpu/", IsaName(isa), "/", is_float ? "fp32" : "bf16",
                       "/", CpuModel(), "/", DnnlDescription(), "/1"),
  };
  return std::make_unique<FastBackend>(std::move(info), OpsOf(isa),
                                       std::move(pool), *std::move(gemm),
                                       std::move(scratch));
}

}  // namespace ttt
