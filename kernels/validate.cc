#include "kernels/validate.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ttt {
namespace {

// Keeps the first requirement that does not hold.
class Checker {
 public:
  explicit Checker(absl::string_view op) : op_(op) {}

  template <typename T>
  Checker& Require(bool holds, absl::string_view field, T value) {
    if (!holds && status_.ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(op_, ": ", field, " is ", value));
    }
    return *this;
  }
  template <typename T>
  Checker& Positive(absl::string_view field, T value) {
    return Require(value > 0, field, value);
  }
  template <typename T>
  Checker& NotNegative(absl::string_view field, T value) {
    return Require(value >= 0, field, value);
  }
  template <typename T>
  Checker& InRange(absl::string_view field, T value, T low, T high) {
    return Require(value >= low && value <= high, field, value);
  }
  Checker& NotNull(absl::string_view field, const void* pointer) {
    return Require(pointer != nullptr, field, "null");
  }
  Checker& Rows(const StepRows& rows) {
    NotNegative("batch", rows.batch).NotNegative("num_rows", rows.num_rows);
    return Require(rows.batch > 0 || rows.num_rows == 0, "batch", rows.batch);
  }
  Checker& HeadDim(int32_t head_dim) {
    return Require(head_dim == 32 || head_dim == 64 || head_dim == 96,
                   "head_dim", head_dim);
  }
  Checker& MiniBatch(int32_t mini_batch) {
    return InRange("mini_batch", mini_batch, 1, kMaxMiniBatch);
  }
  Checker& ConvKernel(int32_t kernel) {
    return InRange("kernel", kernel, 2, kMaxConvKernel);
  }
  template <typename Args>
  Checker& RowTypes(const Args& args, DType rows) {
    return Require(args.queries.type == rows, "queries.type",
                   int{static_cast<uint8_t>(args.queries.type)})
        .Require(args.keys.type == rows, "keys.type",
                 int{static_cast<uint8_t>(args.keys.type)})
        .Require(args.targets.type == rows, "targets.type",
                 int{static_cast<uint8_t>(args.targets.type)});
  }
  absl::Status status() const { return status_; }

 private:
  const absl::string_view op_;
  absl::Status status_;
};

}  // namespace

absl::Status Validate(const EndSequencesArgs& args) {
  return Checker("EndSequences").NotNegative("batch", args.batch).status();
}

absl::Status Validate(const EmbedTokensArgs& args) {
  Checker checker("EmbedTokens");
  checker.Rows(args.rows)
      .Positive("vocab_size", args.vocab_size)
      .Positive("hidden_size", args.hidden_size);
  if (args.ended != nullptr) {
    checker.InRange("num_rows", args.rows.num_rows, args.rows.batch,
                    args.rows.batch);
  }
  return checker.status();
}

absl::Status Validate(const RmsNormArgs& args) {
  return Checker("RmsNorm")
      .NotNegative("num_rows", args.num_rows)
      .Positive("hidden_size", args.hidden_size)
      .NotNegative("epsilon", args.epsilon)
      .status();
}

absl::Status Validate(const ConvNormArgs& args) {
  return Checker("ConvNorm")
      .Rows(args.rows)
      .Positive("hidden_size", args.hidden_size)
      .ConvKernel(args.kernel)
      .NotNegative("epsilon", args.epsilon)
      .Require(args.sum == nullptr || args.sum != args.input, "sum",
               "the input")
      .status();
}

absl::Status Validate(const LearnerInputsArgs& args) {
  const bool share_qk = args.conv_q_weight != nullptr;
  const int64_t hidden_size = int64_t{args.num_heads} * args.head_dim;
  Checker checker("LearnerInputs");
  checker.Rows(args.rows)
      .Positive("num_heads", args.num_heads)
      .HeadDim(args.head_dim)
      .MiniBatch(args.mini_batch)
      .NotNegative("base_lr", args.base_lr);
  const auto part = [&](absl::string_view field, int32_t offset, int64_t size) {
    checker.InRange<int64_t>(field, offset, 0, args.row_stride - size);
  };
  part("query_offset", args.query_offset, hidden_size);
  if (!share_qk) part("key_offset", args.key_offset, hidden_size);
  part("value_offset", args.value_offset, hidden_size);
  part("rate_offset", args.rate_offset, args.num_heads);
  if (share_qk) {
    checker.ConvKernel(args.kernel)
        .NotNull("conv_q_bias", args.conv_q_bias)
        .NotNull("conv_k_weight", args.conv_k_weight)
        .NotNull("conv_k_bias", args.conv_k_bias);
  }
  return checker.status();
}

absl::Status Validate(const LearnerArgs& args) {
  return Checker("Learner")
      .Rows(args.rows)
      .Positive("num_heads", args.num_heads)
      .HeadDim(args.head_dim)
      .MiniBatch(args.mini_batch)
      .status();
}

absl::Status Validate(const LearnerOfProjectionsArgs& args) {
  const LearnerInputsArgs& inputs = args.inputs;
  const LearnerArgs& learner = args.learner;
  for (const absl::Status& status : {Validate(inputs), Validate(learner)}) {
    if (!status.ok()) return status;
  }
  return Checker("LearnerOfProjections")
      .Require(inputs.num_heads == learner.num_heads, "inputs.num_heads",
               inputs.num_heads)
      .Require(inputs.head_dim == learner.head_dim, "inputs.head_dim",
               inputs.head_dim)
      .Require(inputs.mini_batch == learner.mini_batch, "inputs.mini_batch",
               inputs.mini_batch)
      .Require(inputs.rows.batch == learner.rows.batch, "inputs.rows.batch",
               inputs.rows.batch)
      .Require(inputs.rows.num_rows == learner.rows.num_rows,
               "inputs.rows.num_rows", inputs.rows.num_rows)
      .status();
}

absl::Status Validate(const NormGateArgs& args) {
  Checker checker("NormGate");
  checker.NotNegative("num_rows", args.num_rows)
      .Positive("hidden_size", args.hidden_size);
  if (args.gate != nullptr) {
    checker.Require(args.gate_stride >= args.hidden_size, "gate_stride",
                    args.gate_stride);
  }
  return checker.status();
}

absl::Status Validate(const SwiGluArgs& args) {
  return Checker("SwiGlu")
      .NotNegative("num_rows", args.num_rows)
      .Positive("inner", args.inner)
      .status();
}

absl::Status Validate(const GemmArgs& args) {
  Checker checker("Gemm");
  checker.NotNegative("num_rows", args.num_rows)
      .NotNull("weights", args.weights);
  if (args.weights != nullptr) {
    checker.Require(args.output_stride >= args.weights->num_outputs(),
                    "output_stride", args.output_stride);
  }
  return checker.status();
}

absl::Status Validate(const GemmSwiGluArgs& args) {
  Checker checker("GemmSwiGlu");
  checker.NotNegative("num_rows", args.num_rows)
      .NotNull("weights", args.weights);
  if (args.weights != nullptr) {
    checker.Require(args.weights->num_outputs() % 2 == 0, "num_outputs",
                    args.weights->num_outputs());
  }
  return checker.status();
}

absl::Status Validate(const SaveHiddenArgs& args) {
  return Checker("SaveHidden")
      .Rows(args.rows)
      .Positive("hidden_size", args.hidden_size)
      .status();
}

absl::Status Validate(const GatherHiddenArgs& args) {
  return Checker("GatherHidden")
      .NotNegative("num_rows", args.num_rows)
      .Positive("hidden_size", args.hidden_size)
      .status();
}

absl::Status Validate(const SampleTokensArgs& args) {
  return Checker("SampleTokens")
      .NotNegative("num_rows", args.num_rows)
      .Positive("vocab_size", args.vocab_size)
      .InRange("max_candidates", args.max_candidates, 0, args.vocab_size)
      .status();
}

absl::Status Validate(const DigestStatesArgs& args) {
  Checker checker("DigestStates");
  checker.NotNegative("batch", args.batch)
      .NotNegative("num_planes", args.num_planes)
      .NotNegative("header_words", args.header_words)
      .MiniBatch(args.mini_batch);
  for (int32_t i = 0; i < args.num_planes; ++i) {
    const DigestPlane& plane = args.planes[i];
    if (plane.form == PlaneForm::kSplit) {
      checker.Require(plane.matrix_words > 0 && plane.matrix_words % 64 == 0,
                      "matrix_words", plane.matrix_words);
    }
  }
  return checker.status();
}

absl::Status ValidateWords(const DigestStatesArgs& args) {
  Checker checker("DigestStates");
  for (int32_t i = 0; i < args.num_planes; ++i) {
    const PlaneForm form = args.planes[i].form;
    checker.Require(form == PlaneForm::kWords, "form",
                    int{static_cast<uint8_t>(form)});
  }
  return checker.status();
}

absl::Status ValidateOperands(const GemmArgs& args, bool is_own, DType type) {
  if (!is_own) {
    return absl::InvalidArgumentError("Gemm: weights is of another backend");
  }
  if (args.input.type != type) {
    return absl::InvalidArgumentError(
        absl::StrCat("Gemm: input.type is ", int(args.input.type)));
  }
  return absl::OkStatus();
}

absl::Status ValidateRows(const LearnerInputsArgs& args, DType rows) {
  return Checker("LearnerInputs").RowTypes(args, rows).status();
}

absl::Status ValidateRows(const LearnerArgs& args, DType rows) {
  return Checker("Learner").RowTypes(args, rows).status();
}

absl::Status ValidateWeights(int32_t num_outputs, int32_t num_inputs) {
  return Checker("PackWeights")
      .Positive("num_outputs", num_outputs)
      .Positive("num_inputs", num_inputs)
      .status();
}

}  // namespace ttt
