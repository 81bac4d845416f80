// LearnerOfProjections has the bits of LearnerInputs and then Learner.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

struct Model {
  int32_t num_heads;
  int32_t head_dim;
  int32_t mini_batch;
  int32_t kernel = 4;
  bool share_qk = true;
  bool is_mlp = false;
  int padding = 0;  // floats after a projection

  int width() const { return num_heads * head_dim; }
  int inner() const { return is_mlp ? 4 * head_dim : head_dim; }
  int stride() const { return (3 * width() + num_heads + 3) / 4 * 4 + padding; }
};

std::string Describe(const Model& model) {
  return testing::PrintToString(std::vector<int>{
      model.num_heads, model.head_dim, model.mini_batch, model.kernel,
      model.share_qk, model.is_mlp, model.padding});
}

// What both ways begin with, and what they leave, on one backend.
class Layer {
 public:
  Layer(Backend& backend, const Model& model, int num_slots)
      : backend_(backend),
        model_(model),
        slots_(num_slots),
        conv_q_(backend, Random(model.kernel * model.width(), 1)),
        conv_q_bias_(backend, Random(model.width(), 2)),
        conv_k_(backend, Random(model.kernel * model.width(), 3)),
        conv_k_bias_(backend, Random(model.width(), 4)),
        rate_bias_(backend, Random(model.num_heads, 5)),
        rope_(backend, Random(model.mini_batch * model.head_dim, 6)),
        token_scale_(backend, Random(model.mini_batch, 7, 0.1f, 1.0f)),
        norm_weight_(backend, Random(model.width(), 8, 0.5f, 1.5f)),
        norm_bias_(backend, Random(model.width(), 9)),
        tail_(backend, Random(slots_ * (model.kernel - 1) * model.width(), 10)),
        w1_(backend, Random(slots_ * matrices(), 11, -0.2f, 0.2f),
            size_t(model.head_dim) * model.inner()),
        b1_(backend, Random(slots_ * model.num_heads * model.inner(), 12)),
        w2_(backend, Random(slots_ * matrices(), 13, -0.2f, 0.2f),
            size_t(model.head_dim) * model.inner()),
        b2_(backend, Random(slots_ * model.width(), 14)),
        pending_keys_(backend, Random(pending() * model.head_dim, 15)),
        pending_targets_(backend, Random(pending() * model.head_dim, 16)),
        pending_rates_(backend, Random(pending(), 17, 0.0f, 0.02f)) {}

  // The outputs of a step.
  Floats Step(const std::vector<SequenceRows>& sequences,
              const Floats& projections, bool is_one_op) {
    const int64_t n = int64_t(projections.size()) / model_.stride();
    StepArrays rows(backend_, sequences);
    Array<float> input(backend_, projections);
    const Floats empty(n * model_.width(), NAN);
    RowArray q(backend_, empty), k(backend_, empty), t(backend_, empty);
    Array<float> rates(backend_, Floats(n * model_.num_heads, NAN));
    Array<float> output(backend_, empty);
    const bool share = model_.share_qk;
    const LearnerInputsArgs inputs = {
        .rows = rows.rows(),
        .projections = input.data(),
        .row_stride = model_.stride(),
        .query_offset = 0,
        .key_offset = model_.width(),
        .value_offset = 2 * model_.width(),
        .rate_offset = 3 * model_.width(),
        .conv_q_weight = share ? conv_q_.data() : nullptr,
        .conv_q_bias = share ? conv_q_bias_.data() : nullptr,
        .conv_k_weight = share ? conv_k_.data() : nullptr,
        .conv_k_bias = share ? conv_k_bias_.data() : nullptr,
        .tail = share ? tail_.Plane(slots_) : StatePlane{},
        .rate_bias = rate_bias_.data(),
        .rope = rope_.data(),
        .queries = q.operand(),
        .keys = k.operand(),
        .targets = t.operand(),
        .rates = rates.data(),
        .num_heads = model_.num_heads,
        .head_dim = model_.head_dim,
        .mini_batch = model_.mini_batch,
        .kernel = model_.kernel,
        .base_lr = 0.9f};
    const LearnerArgs learner = {
        .rows = rows.rows(),
        .queries = q.operand(),
        .keys = k.operand(),
        .targets = t.operand(),
        .rates = rates.data(),
        .token_scale = token_scale_.data(),
        .norm_weight = norm_weight_.data(),
        .norm_bias = norm_bias_.data(),
        .w1 = w1_.Plane(slots_),
        .b1 = b1_.Plane(slots_),
        .w2 = w2_.Plane(slots_),
        .b2 = b2_.Plane(slots_),
        .pending_keys = pending_keys_.Plane(slots_),
        .pending_targets = pending_targets_.Plane(slots_),
        .pending_rates = pending_rates_.Plane(slots_),
        .output = output.data(),
        .is_mlp = model_.is_mlp,
        .num_heads = model_.num_heads,
        .head_dim = model_.head_dim,
        .mini_batch = model_.mini_batch};
    if (is_one_op) {
      EXPECT_THAT(
          backend_.LearnerOfProjections({.inputs = inputs, .learner = learner}),
          IsOk());
    } else {
      EXPECT_THAT(backend_.LearnerInputs(inputs), IsOk());
      EXPECT_THAT(backend_.Learner(learner), IsOk());
    }
    return output.Read();
  }

  // All of it, what is not valid too: it was the same at first.
  std::vector<Floats> State() const {
    return {tail_.Read(),
            w1_.Read(),
            b1_.Read(),
            w2_.Read(),
            b2_.Read(),
            pending_keys_.Read(),
            pending_targets_.Read(),
            pending_rates_.Read()};
  }

 private:
  size_t matrices() const { return size_t(model_.width()) * model_.inner(); }
  size_t pending() const {
    return slots_ * model_.num_heads * (model_.mini_batch - 1);
  }

  Backend& backend_;
  const Model model_;
  const size_t slots_;
  Array<float> conv_q_, conv_q_bias_, conv_k_, conv_k_bias_, rate_bias_, rope_;
  Array<float> token_scale_, norm_weight_, norm_bias_, tail_;
  MatrixArray w1_;
  Array<float> b1_;
  MatrixArray w2_;
  Array<float> b2_;
  RowArray pending_keys_, pending_targets_;
  Array<float> pending_rates_;
};

// Of what is no number nobody asks which.
auto BitsOf(Floats values) {
  for (float& value : values) {
    if (std::isnan(value)) value = NAN;
  }
  return Bits(values);
}

struct Case {
  BackendKind kind;
  Precision precision;
};

class LearnerOfProjectionsTest : public testing::TestWithParam<Case> {
 protected:
  // Steps in which sequence i has num_rows(step, i) rows. From `broken_step` on
  // sequence 1 has read what is no number.
  template <typename NumRows>
  void ExpectSameBits(const Model& model, int num_sequences, int num_steps,
                      const NumRows& num_rows, int broken_step = -1) {
    SCOPED_TRACE(Describe(model));
    const std::unique_ptr<Backend> backend =
        MakeBackend(GetParam().kind, GetParam().precision);
    const int num_slots = num_sequences + 1;
    Layer one(*backend, model, num_slots);
    Layer two(*backend, model, num_slots);
    std::vector<int64_t> positions;
    for (int i = 0; i < num_sequences; ++i) positions.push_back(7 * i);
    for (int step = 0; step < num_steps; ++step) {
      std::vector<SequenceRows> sequences;
      int32_t all_rows = 0;
      for (int i = 0; i < num_sequences; ++i) {
        const int n = num_rows(step, i);
        sequences.push_back({all_rows, n, num_sequences - i, positions[i]});
        positions[i] += n;
        all_rows += n;
      }
      Floats projections =
          Random(size_t(all_rows) * model.stride(), 100 + step);
      if (step == broken_step) {  // A value of the first head.
        projections[sequences[1].first_row * model.stride() +
                    2 * model.width()] = NAN;
      }
      const Floats output = one.Step(sequences, projections, true);
      ASSERT_EQ(BitsOf(output), BitsOf(two.Step(sequences, projections, false)))
          << "step " << step;
      for (int i = 0; i < num_sequences; ++i) {
        const bool is_broken = i == 1 && broken_step >= 0 &&
                               step >= broken_step && sequences[i].num_rows > 0;
        const auto begin =
            output.begin() + int64_t{sequences[i].first_row} * model.width();
        EXPECT_EQ(
            std::all_of(begin,
                        begin + int64_t{sequences[i].num_rows} * model.width(),
                        [](float x) { return std::isfinite(x); }),
            !is_broken)
            << "step " << step << ", sequence " << i;
      }
    }
    const std::vector<Floats> state = one.State();
    const std::vector<Floats> wanted = two.State();
    for (size_t i = 0; i < state.size(); ++i) {
      ASSERT_EQ(BitsOf(state[i]), BitsOf(wanted[i])) << "part " << i;
    }
  }
};

TEST_P(LearnerOfProjectionsTest, SmallestOfEachForm) {
  for (const bool is_mlp : {false, true}) {
    for (const int32_t head_dim : {32, 64, 96}) {
      const Model model = {1, head_dim, 2, 4, true, is_mlp};
      ExpectSameBits(model, 1, 3, [](int, int) { return 1; });
      ExpectSameBits(model, 2, 2, [](int, int i) { return i == 0 ? 2 : 0; });
    }
  }
}

TEST_P(LearnerOfProjectionsTest, HasTheBitsOfBothOpsOneAfterTheOther) {
  for (const Model& model :
       {Model{3, 64, 16}, Model{2, 96, 16}, Model{5, 32, 16}, Model{2, 64, 5},
        Model{2, 64, 1}, Model{1, 96, 7}, Model{3, 64, 16, 4, true, true},
        Model{2, 96, 16, 4, true, true}, Model{5, 32, 16, 4, true, true},
        Model{2, 64, 5, 4, true, true}, Model{2, 64, 1, 4, true, true},
        Model{1, 96, 7, 4, true, true}, Model{2, 64, 16, 4, true, false, 2},
        // What a GPU makes of both ops, one after the other.
        Model{2, 64, 16, 3}, Model{2, 64, 16, 4, false},
        Model{2, 64, 16, 3, true, true}, Model{2, 64, 16, 4, true, false, 1},
        Model{2, 64, 16, 4, true, true, 1}}) {
    ExpectSameBits(model, 5, 36, [](int, int) { return 1; });
  }
}

// About as many heads as a GPU has a place for at once, where it goes over from
// one way to another.
TEST_P(LearnerOfProjectionsTest, OfHeadsAboutTheLimit) {
  for (const Model& model : {Model{52, 64, 16}, Model{53, 64, 16},
                             Model{26, 96, 16}, Model{27, 96, 16}}) {
    ExpectSameBits(model, 5, 4, [](int, int) { return 1; });
  }
}

TEST_P(LearnerOfProjectionsTest, WhatIsNoNumberStaysInItsSequence) {
  for (const bool is_mlp : {false, true}) {
    for (const int32_t head_dim : {32, 64, 96}) {
      ExpectSameBits(
          {1, head_dim, 16, 4, true, is_mlp}, 3, 20, [](int, int) { return 1; },
          2);
    }
  }
}

// No more rows than sequences, so that a GPU takes it for decoding.
TEST_P(LearnerOfProjectionsTest, OfSequencesWithoutRowsAndWithMany) {
  for (const Model& model :
       {Model{3, 64, 16}, Model{2, 96, 5}, Model{1, 32, 16},
        Model{3, 64, 16, 4, true, true}, Model{2, 96, 5, 4, true, true},
        Model{1, 32, 16, 4, true, true}}) {
    ExpectSameBits(model, 6, 30, [](int step, int i) {
      return i == step % 6 ? step % 7 : i == (step + 2) % 6 ? 0 : step % 3 / 2;
    });
  }
}

TEST_P(LearnerOfProjectionsTest, OfManyRowsASequence) {
  ExpectSameBits({2, 64, 16}, 2, 4,
                 [](int step, int i) { return 5 * step + i; });
}

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const BackendKind kind : AllBackendKinds()) {
    cases.push_back({kind, Precision::kFloat32});
  }
  if (HasCuda()) cases.push_back({BackendKind::kCuda, Precision::kBFloat16});
  return cases;
}
std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return BackendKindName({info.param.kind, info.index}) +
         (info.param.precision == Precision::kBFloat16 ? "BFloat16" : "");
}

INSTANTIATE_TEST_SUITE_P(Backends, LearnerOfProjectionsTest,
                         testing::ValuesIn(AllCases()), CaseName);

}  // namespace
}  // namespace ttt
