#include "kernels/validate.h"

#include <cmath>

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

MATCHER_P(Refuses, text, "") {
  const absl::Status status = Validate(arg);
  *result_listener << status.ToString();
  return status.code() == absl::StatusCode::kInvalidArgument &&
         status.message() == text;
}
MATCHER(Accepts, "") { return Validate(arg).ok(); }

// args with one field set to another value.
template <typename Args, typename Field, typename Value>
Args With(Args args, Field Args::*field, Value value) {
  args.*field = value;
  return args;
}

class FakeWeights : public GemmWeights {
 public:
  int64_t bytes() const override { return 0; }
  int32_t num_outputs() const override { return 10; }
  int32_t num_inputs() const override { return 20; }
};

const float kFloat = 0.0f;
constexpr StepRows kNoRows = {nullptr, nullptr, 0, 0};
constexpr StepRows kRowsOfNone = {nullptr, nullptr, 0, 3};
constexpr StepRows kNegativeBatch = {nullptr, nullptr, -1, 0};
constexpr StepRows kNegativeRows = {nullptr, nullptr, 1, -2};

TEST(ValidateTest, Learner) {
  LearnerArgs args = {};
  args.rows = kNoRows;
  args.num_heads = 2;
  args.head_dim = 64;
  args.mini_batch = 16;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &LearnerArgs::head_dim, 32), Accepts());
  EXPECT_THAT(With(args, &LearnerArgs::head_dim, 96), Accepts());
  EXPECT_THAT(With(args, &LearnerArgs::mini_batch, 1), Accepts());
  EXPECT_THAT(With(args, &LearnerArgs::head_dim, 6),
              Refuses("Learner: head_dim is 6"));
  EXPECT_THAT(With(args, &LearnerArgs::head_dim, 128),
              Refuses("Learner: head_dim is 128"));
  EXPECT_THAT(With(args, &LearnerArgs::num_heads, 0),
              Refuses("Learner: num_heads is 0"));
  EXPECT_THAT(With(args, &LearnerArgs::mini_batch, 0),
              Refuses("Learner: mini_batch is 0"));
  EXPECT_THAT(With(args, &LearnerArgs::mini_batch, 17),
              Refuses("Learner: mini_batch is 17"));
  EXPECT_THAT(With(args, &LearnerArgs::rows, kNegativeBatch),
              Refuses("Learner: batch is -1"));
  EXPECT_THAT(With(args, &LearnerArgs::rows, kNegativeRows),
              Refuses("Learner: num_rows is -2"));
  EXPECT_THAT(With(args, &LearnerArgs::rows, kRowsOfNone),
              Refuses("Learner: batch is 0"));
}

TEST(ValidateTest, LearnerInputs) {
  LearnerInputsArgs args = {};
  args.rows = kNoRows;
  args.row_stride = 3 * 64 + 2;
  args.query_offset = 0;
  args.key_offset = 64;
  args.value_offset = 2 * 64;
  args.rate_offset = 3 * 64;
  args.num_heads = 2;
  args.head_dim = 32;
  args.mini_batch = 16;
  args.base_lr = 1.0f;
  EXPECT_THAT(args, Accepts());  // kernel is unread without share_qk.
  EXPECT_THAT(With(args, &LearnerInputsArgs::rate_offset, 3 * 64 + 1),
              Refuses("LearnerInputs: rate_offset is 193"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::key_offset, -1),
              Refuses("LearnerInputs: key_offset is -1"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::value_offset, 131),
              Refuses("LearnerInputs: value_offset is 131"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::base_lr, -0.5f),
              Refuses("LearnerInputs: base_lr is -0.5"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::base_lr, NAN),
              Refuses("LearnerInputs: base_lr is nan"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::head_dim, 48),
              Refuses("LearnerInputs: head_dim is 48"));
  args.conv_q_weight = args.conv_q_bias = &kFloat;
  args.conv_k_weight = args.conv_k_bias = &kFloat;
  args.kernel = 4;
  args.key_offset = -1;  // Unread with share_qk.
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &LearnerInputsArgs::kernel, 1),
              Refuses("LearnerInputs: kernel is 1"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::kernel, 9),
              Refuses("LearnerInputs: kernel is 9"));
  EXPECT_THAT(With(args, &LearnerInputsArgs::conv_k_bias, nullptr),
              Refuses("LearnerInputs: conv_k_bias is null"));
}

TEST(ValidateTest, LearnerOfProjections) {
  LearnerOfProjectionsArgs args = {};
  args.inputs.rows = args.learner.rows = {nullptr, nullptr, 1, 1};
  args.inputs.row_stride = 3 * 64 + 2;
  args.inputs.key_offset = 64;
  args.inputs.value_offset = 2 * 64;
  args.inputs.rate_offset = 3 * 64;
  args.inputs.num_heads = args.learner.num_heads = 2;
  args.inputs.head_dim = args.learner.head_dim = 32;
  args.inputs.mini_batch = args.learner.mini_batch = 16;
  args.inputs.base_lr = 1.0f;
  EXPECT_THAT(args, Accepts());
  LearnerOfProjectionsArgs other = args;
  other.learner.num_heads = 3;
  EXPECT_THAT(other, Refuses("LearnerOfProjections: inputs.num_heads is 2"));
  other = args;
  other.learner.head_dim = 64;
  EXPECT_THAT(other, Refuses("LearnerOfProjections: inputs.head_dim is 32"));
  other = args;
  other.learner.mini_batch = 8;
  EXPECT_THAT(other, Refuses("LearnerOfProjections: inputs.mini_batch is 16"));
  other = args;
  other.learner.rows.batch = 2;
  EXPECT_THAT(other, Refuses("LearnerOfProjections: inputs.rows.batch is 1"));
  other = args;
  other.learner.rows.num_rows = 2;
  EXPECT_THAT(other,
              Refuses("LearnerOfProjections: inputs.rows.num_rows is 1"));
  other = args;
  other.learner.mini_batch = 17;
  EXPECT_THAT(other, Refuses("Learner: mini_batch is 17"));
}

TEST(ValidateTest, ConvNorm) {
  ConvNormArgs args = {};
  args.rows = kNoRows;
  args.hidden_size = 8;
  args.kernel = 8;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &ConvNormArgs::kernel, 9),
              Refuses("ConvNorm: kernel is 9"));
  EXPECT_THAT(With(args, &ConvNormArgs::kernel, 1),
              Refuses("ConvNorm: kernel is 1"));
  EXPECT_THAT(With(args, &ConvNormArgs::hidden_size, 0),
              Refuses("ConvNorm: hidden_size is 0"));
  EXPECT_THAT(With(args, &ConvNormArgs::epsilon, -1.0f),
              Refuses("ConvNorm: epsilon is -1"));
  float values[8];
  args.input = values;
  EXPECT_THAT(With(args, &ConvNormArgs::sum, values),
              Refuses("ConvNorm: sum is the input"));
}

TEST(ValidateTest, EndSequences) {
  EndSequencesArgs args = {};
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &EndSequencesArgs::batch, -1),
              Refuses("EndSequences: batch is -1"));
}

TEST(ValidateTest, EmbedTokens) {
  EmbedTokensArgs args = {};
  args.rows = kNoRows;
  args.vocab_size = 1;
  args.hidden_size = 1;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &EmbedTokensArgs::vocab_size, 0),
              Refuses("EmbedTokens: vocab_size is 0"));
  EXPECT_THAT(With(args, &EmbedTokensArgs::hidden_size, -3),
              Refuses("EmbedTokens: hidden_size is -3"));
  args.rows.batch = 3;
  args.rows.num_rows = 2;
  EXPECT_THAT(args, Accepts());
  uint8_t ended[3] = {};
  EXPECT_THAT(With(args, &EmbedTokensArgs::ended, ended),
              Refuses("EmbedTokens: num_rows is 2"));
}

TEST(ValidateTest, RowOps) {
  RmsNormArgs norm = {};
  norm.hidden_size = 1;
  EXPECT_THAT(norm, Accepts());
  EXPECT_THAT(With(norm, &RmsNormArgs::num_rows, -1),
              Refuses("RmsNorm: num_rows is -1"));
  EXPECT_THAT(With(norm, &RmsNormArgs::hidden_size, 0),
              Refuses("RmsNorm: hidden_size is 0"));
  EXPECT_THAT(With(norm, &RmsNormArgs::epsilon, -1.0f),
              Refuses("RmsNorm: epsilon is -1"));

  NormGateArgs gate = {};
  gate.hidden_size = 8;
  EXPECT_THAT(gate, Accepts());
  EXPECT_THAT(With(gate, &NormGateArgs::num_rows, -1),
              Refuses("NormGate: num_rows is -1"));
  gate.gate = &kFloat;
  gate.gate_stride = 7;
  EXPECT_THAT(gate, Refuses("NormGate: gate_stride is 7"));

  SwiGluArgs swi_glu = {};
  EXPECT_THAT(swi_glu, Refuses("SwiGlu: inner is 0"));
  EXPECT_THAT(With(swi_glu, &SwiGluArgs::inner, 1), Accepts());
}

TEST(ValidateTest, Gemm) {
  const FakeWeights weights;
  GemmArgs args = {};
  EXPECT_THAT(args, Refuses("Gemm: weights is null"));
  args.weights = &weights;
  args.output_stride = 10;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &GemmArgs::output_stride, 9),
              Refuses("Gemm: output_stride is 9"));
  EXPECT_THAT(With(args, &GemmArgs::num_rows, -1),
              Refuses("Gemm: num_rows is -1"));
}

TEST(ValidateTest, GemmSwiGlu) {
  const FakeWeights weights;
  GemmSwiGluArgs args = {};
  EXPECT_THAT(args, Refuses("GemmSwiGlu: weights is null"));
  args.weights = &weights;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &GemmSwiGluArgs::num_rows, -1),
              Refuses("GemmSwiGlu: num_rows is -1"));
}

TEST(ValidateTest, HiddenVectors) {
  SaveHiddenArgs save = {};
  save.rows = kNoRows;
  save.hidden_size = 1;
  EXPECT_THAT(save, Accepts());
  EXPECT_THAT(With(save, &SaveHiddenArgs::hidden_size, 0),
              Refuses("SaveHidden: hidden_size is 0"));
  GatherHiddenArgs gather = {};
  gather.hidden_size = 1;
  EXPECT_THAT(gather, Accepts());
  EXPECT_THAT(With(gather, &GatherHiddenArgs::num_rows, -1),
              Refuses("GatherHidden: num_rows is -1"));
}

TEST(ValidateTest, SampleTokens) {
  SampleTokensArgs args = {};
  args.vocab_size = 10;
  args.max_candidates = 10;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &SampleTokensArgs::max_candidates, 11),
              Refuses("SampleTokens: max_candidates is 11"));
  EXPECT_THAT(With(args, &SampleTokensArgs::max_candidates, -1),
              Refuses("SampleTokens: max_candidates is -1"));
  EXPECT_THAT(With(args, &SampleTokensArgs::vocab_size, 0),
              Refuses("SampleTokens: vocab_size is 0"));
}

TEST(ValidateTest, DigestStates) {
  DigestStatesArgs args = {};
  args.mini_batch = 16;
  EXPECT_THAT(args, Accepts());
  EXPECT_THAT(With(args, &DigestStatesArgs::mini_batch, 17),
              Refuses("DigestStates: mini_batch is 17"));
  EXPECT_THAT(With(args, &DigestStatesArgs::batch, -1),
              Refuses("DigestStates: batch is -1"));
  EXPECT_THAT(With(args, &DigestStatesArgs::header_words, -1),
              Refuses("DigestStates: header_words is -1"));
  EXPECT_THAT(With(args, &DigestStatesArgs::num_planes, -1),
              Refuses("DigestStates: num_planes is -1"));

  DigestPlane plane = {.form = PlaneForm::kSplit};
  args.planes = &plane;
  args.num_planes = 1;
  EXPECT_THAT(args, Refuses("DigestStates: matrix_words is 0"));
  plane.matrix_words = 96;
  EXPECT_THAT(args, Refuses("DigestStates: matrix_words is 96"));
  plane.matrix_words = 128;
  EXPECT_THAT(args, Accepts());
  EXPECT_EQ(ValidateWords(args).message(), "DigestStates: form is 1");
  plane.form = PlaneForm::kWords;
  EXPECT_THAT(ValidateWords(args), IsOk());
}

TEST(ValidateTest, RowTypes) {
  LearnerArgs learner = {};
  EXPECT_THAT(ValidateRows(learner, DType::kFloat32), IsOk());
  EXPECT_EQ(ValidateRows(learner, DType::kBFloat16).message(),
            "Learner: queries.type is 0");
  learner.keys.type = DType::kBFloat16;
  EXPECT_EQ(ValidateRows(learner, DType::kFloat32).message(),
            "Learner: keys.type is 1");
  LearnerInputsArgs inputs = {};
  EXPECT_THAT(ValidateRows(inputs, DType::kFloat32), IsOk());
  inputs.targets.type = DType::kBFloat16;
  EXPECT_EQ(ValidateRows(inputs, DType::kFloat32).message(),
            "LearnerInputs: targets.type is 1");
}

}  // namespace
}  // namespace ttt
