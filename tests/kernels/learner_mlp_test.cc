// The learner of two layers in bfloat16 precision, which a GPU alone has: near
// the primal form in double precision, and the same bits however sessions are
// cut into steps and put together.
#include <algorithm>
#include <numeric>

#include "tests/kernels/learner_oracle.h"
#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

// Outputs are of the order of 1; operands have 8 bits.
constexpr double kOutputTolerance = 1.5e-2;
// What a mini-batch adds to fast weights of the order of 0.1.
constexpr double kWeightsTolerance = 1e-3;

std::unique_ptr<Backend> MakeGpu() {
  return MakeBackend(BackendKind::kCuda, Precision::kBFloat16);
}

struct Dims {
  int32_t num_heads;
  int32_t head_dim;
  int32_t mini_batch;

  int32_t width() const { return num_heads * head_dim; }
  int32_t inner() const { return 4 * head_dim; }
  int32_t matrix() const { return head_dim * inner(); }
};

std::string Describe(const Dims& dims) {
  return "head_dim " + std::to_string(dims.head_dim) + ", mini_batch " +
         std::to_string(dims.mini_batch);
}

Floats Rounded(const Floats& values) { return ToFloats(ToBFloat16(values)); }

constexpr int kMaxTokens = 80;

// What the tokens of a session bring, and its first weights.
struct SessionInput {
  SessionInput(const Dims& dims, int session)
      : SessionInput(dims, 100 * (session + 1), 0.2f) {}
  SessionInput(const Dims& dims, int seed, float scale)
      : queries(Rounded(Random(kMaxTokens * dims.width(), seed))),
        keys(Rounded(Random(kMaxTokens * dims.width(), seed + 1))),
        targets(Rounded(Random(kMaxTokens * dims.width(), seed + 2))),
        rates(Random(kMaxTokens * dims.num_heads, seed + 3, 0.0f,
                     1.0f / dims.head_dim)),
        w1(Random(dims.width() * dims.inner(), seed + 4, -scale, scale)),
        b1(Random(dims.num_heads * dims.inner(), seed + 5)),
        w2(Random(dims.width() * dims.inner(), seed + 6, -scale, scale)),
        b2(Random(dims.width(), seed + 7)) {}

  Floats queries, keys, targets, rates, w1, b1, w2, b2;
};

Floats TokenScale(const Dims& dims) {
  Floats scale;
  for (int t = 0; t < dims.mini_batch; ++t) scale.push_back(1.2f / (t + 1));
  if (dims.mini_batch > 3) scale[2] = 0.0f;  // As a clamped one.
  return scale;
}
Floats NormWeight(const Dims& dims) {
  return Random(dims.width(), 11, 0.5f, 1.5f);
}
Floats NormBias(const Dims& dims) {
  return Random(dims.width(), 12, -0.2f, 0.2f);
}

// All that is valid of the state of a session.
struct State {
  std::vector<uint16_t> matrices;  // w1, w2: split
  Floats biases;                   // b1, b2
  Floats pending;                  // keys, targets and rates

  bool operator==(const State& other) const {
    return matrices == other.matrices && Bits(biases) == Bits(other.biases) &&
           Bits(pending) == Bits(other.pending);
  }
};

// Sessions on the GPU, each with all its tokens to come. Slots are in reverse
// order.
class Learners {
 public:
  Learners(const Dims& dims, int num_sessions)
      : outputs(num_sessions),
        dims_(dims),
        gpu_(MakeGpu()),
        token_scale_(*gpu_, TokenScale(dims)),
        norm_weight_(*gpu_, NormWeight(dims)),
        norm_bias_(*gpu_, NormBias(dims)),
        positions_(num_sessions, 0) {
    Floats w1, b1, w2, b2;
    const auto append = [](const Floats& from, Floats& to) {
      to.insert(to.end(), from.begin(), from.end());
    };
    for (int session = 0; session < num_sessions; ++session) {
      inputs_.emplace_back(dims, session);
    }
    for (int slot = 0; slot < num_sessions; ++slot) {
      const SessionInput& input = inputs_[SlotOfSession(slot)];
      append(input.w1, w1);
      append(input.b1, b1);
      append(input.w2, w2);
      append(input.b2, b2);
    }
    w1_.emplace(*gpu_, ToSplit(w1, dims.matrix()));
    w2_.emplace(*gpu_, ToSplit(w2, dims.matrix()));
    b1_.emplace(*gpu_, b1);
    b2_.emplace(*gpu_, b2);
    // What is not valid must not be read: NaN.
    const Floats rows(num_sessions * (dims.mini_batch - 1) * dims.width(), NAN);
    pending_keys_.emplace(*gpu_, rows);
    pending_targets_.emplace(*gpu_, rows);
    pending_rates_.emplace(
        *gpu_,
        Floats(num_sessions * (dims.mini_batch - 1) * dims.num_heads, NAN));
  }

  SessionInput& input(int session) { return inputs_[session]; }

  // Runs the next num_tokens[i] tokens of each session i in one step, the rows
  // of the sessions in the given order.
  void Step(const std::vector<int>& num_tokens, std::vector<int> order = {}) {
    if (order.empty()) {
      order.resize(num_tokens.size());
      std::iota(order.begin(), order.end(), 0);
    }
    std::vector<SequenceRows> sequences;
    int32_t num_rows = 0;
    Floats queries, keys, targets, rates;
    for (const int session : order) {
      const int n = num_tokens[session];
      const int64_t position = positions_[session];
      sequences.push_back({num_rows, n, SlotOfSession(session), position});
      num_rows += n;
      const SessionInput& input = inputs_[session];
      const auto append = [&](const Floats& from, int width, Floats& to) {
        to.insert(to.end(), from.begin() + position * width,
                  from.begin() + (position + n) * width);
      };
      append(input.queries, dims_.width(), queries);
      append(input.keys, dims_.width(), keys);
      append(input.targets, dims_.width(), targets);
      append(input.rates, dims_.num_heads, rates);
    }
    const Floats output = Run(sequences, queries, keys, targets, rates);
    for (const SequenceRows& sequence : sequences) {
      const int session = SlotOfSession(sequence.slot);
      const Floats part = Part(output, sequence.first_row * dims_.width(),
                               sequence.num_rows * dims_.width());
      outputs[session].insert(outputs[session].end(), part.begin(), part.end());
      positions_[session] += sequence.num_rows;
    }
  }

  State StateOf(int session) const {
    State state;
    const int slot = SlotOfSession(session);
    const auto append = [&](const auto& all, auto& to) {
      const size_t size = all.size() / positions_.size();
      to.insert(to.end(), all.begin() + slot * size,
                all.begin() + (slot + 1) * size);
    };
    append(w1_->Read(), state.matrices);
    append(w2_->Read(), state.matrices);
    append(b1_->Read(), state.biases);
    append(b2_->Read(), state.biases);
    const int64_t rows = dims_.mini_batch - 1;
    const int64_t valid = positions_[session] % dims_.mini_batch;
    const auto append_rows = [&](const Floats& all, int64_t width) {
      for (int head = 0; head < dims_.num_heads; ++head) {
        const Floats part = Part(
            all, (slot * dims_.num_heads + head) * rows * width, valid * width);
        state.pending.insert(state.pending.end(), part.begin(), part.end());
      }
    };
    append_rows(pending_keys_->Read(), dims_.head_dim);
    append_rows(pending_targets_->Read(), dims_.head_dim);
    append_rows(pending_rates_->Read(), 1);
    return state;
  }

  // w1, b1, w2, b2 of a session.
  Floats FastWeights(int session) const {
    const State state = StateOf(session);
    const Floats matrices = FromSplit(state.matrices, dims_.matrix());
    const size_t half = matrices.size() / 2;
    Floats all = Part(matrices, 0, half);
    const auto append = [&](const Floats& values) {
      all.insert(all.end(), values.begin(), values.end());
    };
    append(Part(state.biases, 0, dims_.num_heads * dims_.inner()));
    append(Part(matrices, half, half));
    append(Part(state.biases, dims_.num_heads * dims_.inner(), dims_.width()));
    return all;
  }

 private:
  // And the other way round.
  int SlotOfSession(int session) const {
    return int(positions_.size()) - 1 - session;
  }

  Floats Run(const std::vector<SequenceRows>& sequences, const Floats& queries,
             const Floats& keys, const Floats& targets, const Floats& rates) {
    StepArrays rows(*gpu_, sequences);
    RowArray q(*gpu_, queries);
    RowArray k(*gpu_, keys);
    RowArray t(*gpu_, targets);
    Array<float> r(*gpu_, rates);
    Array<float> output(*gpu_, Floats(queries.size(), NAN));
    const auto slots = int64_t(positions_.size());
    EXPECT_THAT(
        gpu_->Learner({.rows = rows.rows(),
                       .queries = q.operand(),
                       .keys = k.operand(),
                       .targets = t.operand(),
                       .rates = r.data(),
                       .token_scale = token_scale_.data(),
                       .norm_weight = norm_weight_.data(),
                       .norm_bias = norm_bias_.data(),
                       .w1 = w1_->Plane(slots),
                       .b1 = b1_->Plane(slots),
                       .w2 = w2_->Plane(slots),
                       .b2 = b2_->Plane(slots),
                       .pending_keys = pending_keys_->Plane(slots),
                       .pending_targets = pending_targets_->Plane(slots),
                       .pending_rates = pending_rates_->Plane(slots),
                       .output = output.data(),
                       .is_mlp = true,
                       .num_heads = dims_.num_heads,
                       .head_dim = dims_.head_dim,
                       .mini_batch = dims_.mini_batch}),
        IsOk());
    return output.Read();
  }

 public:
  std::vector<Floats> outputs;  // by session, all tokens so far

 private:
  const Dims dims_;
  const std::unique_ptr<Backend> gpu_;
  Array<float> token_scale_;
  Array<float> norm_weight_;
  Array<float> norm_bias_;
  std::vector<SessionInput> inputs_;  // by session
  std::optional<Array<uint16_t>> w1_, w2_;
  std::optional<Array<float>> b1_, b2_;
  std::optional<RowArray> pending_keys_, pending_targets_;
  std::optional<Array<float>> pending_rates_;
  std::vector<int64_t> positions_;
};

// Output and fast weights of a session's first num_tokens tokens.
struct OracleResult {
  std::vector<double> output;
  std::vector<double> fast_weights;
};
OracleResult RunOracle(const Dims& dims, int session, int num_tokens) {
  const SessionInput input(dims, session);
  const int d = dims.head_dim;
  const int e = dims.inner();
  using Vector = LearnerOracle::Vector;
  const auto part = [](const Floats& values, size_t begin, size_t size) {
    return Vector(values.begin() + begin, values.begin() + begin + size);
  };
  OracleResult result;
  result.output.resize(num_tokens * dims.width());
  std::vector<LearnerOracle> heads(dims.num_heads);
  for (int head = 0; head < dims.num_heads; ++head) {
    LearnerOracle& oracle = heads[head];
    oracle.w1 = part(input.w1, head * d * e, d * e);
    oracle.b1 = part(input.b1, head * e, e);
    oracle.w2 = part(input.w2, head * d * e, d * e);
    oracle.b2 = part(input.b2, head * d, d);
    oracle.norm_weight = part(NormWeight(dims), head * d, d);
    oracle.norm_bias = part(NormBias(dims), head * d, d);
    oracle.token_scale = part(TokenScale(dims), 0, dims.mini_batch);
    for (int t = 0; t < num_tokens; ++t) {
      const size_t at = (t * dims.num_heads + head) * d;
      const Vector z = oracle.Next(
          part(input.queries, at, d), part(input.keys, at, d),
          part(input.targets, at, d), input.rates[t * dims.num_heads + head]);
      std::copy(z.begin(), z.end(), result.output.begin() + at);
    }
  }
  for (Vector LearnerOracle::*member :
       {&LearnerOracle::w1, &LearnerOracle::b1, &LearnerOracle::w2,
        &LearnerOracle::b2}) {
    for (const LearnerOracle& oracle : heads) {
      result.fast_weights.insert(result.fast_weights.end(),
                                 (oracle.*member).begin(),
                                 (oracle.*member).end());
    }
  }
  return result;
}

class LearnerMlpTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasCuda()) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(LearnerMlpTest, CudaIsNearThePrimalForm) {
  for (const int32_t head_dim : {32, 64, 96}) {
    for (const int32_t mini_batch : {1, 5, 16}) {
      const Dims dims = {2, head_dim, mini_batch};
      for (const int num_tokens : {1, 9, mini_batch, mini_batch + 1, 40}) {
        Learners learners(dims, 1);
        learners.Step({num_tokens});
        const OracleResult wanted = RunOracle(dims, 0, num_tokens);
        EXPECT_LE(MaxError(learners.outputs[0], wanted.output),
                  kOutputTolerance)
            << Describe(dims) << ", " << num_tokens << " tokens";
        EXPECT_LE(MaxError(learners.FastWeights(0), wanted.fast_weights),
                  kWeightsTolerance)
            << Describe(dims) << ", " << num_tokens << " tokens";
      }
    }
  }
}

TEST_F(LearnerMlpTest, CudaHasTheSameBitsForEveryChunking) {
  constexpr int kTokens = 41;
  for (const Dims& dims :
       {Dims{2, 64, 16}, Dims{1, 64, 5}, Dims{1, 64, 1}, Dims{1, 96, 16},
        Dims{1, 96, 7}, Dims{1, 32, 16}, Dims{3, 32, 3}}) {
    Learners whole(dims, 1);
    whole.Step({kTokens});
    for (int chunk = 1; chunk <= 40; ++chunk) {
      Learners cut(dims, 1);
      for (int done = 0; done < kTokens; done += chunk) {
        cut.Step({std::min(chunk, kTokens - done)});
      }
      ASSERT_EQ(Bits(cut.outputs[0]), Bits(whole.outputs[0]))
          << Describe(dims) << ", chunks of " << chunk;
      ASSERT_TRUE(cut.StateOf(0) == whole.StateOf(0))
          << Describe(dims) << ", chunks of " << chunk;
    }
  }
}

TEST_F(LearnerMlpTest, CudaHasTheSameBitsInEveryBatch) {
  const Dims dims = {2, 64, 16};
  constexpr int kSessions = 4;
  std::vector<std::unique_ptr<Learners>> alone;
  for (int session = 0; session < kSessions; ++session) {
    alone.push_back(std::make_unique<Learners>(dims, kSessions));
    for (const int n : {3 * session, 20, 1, 5}) {
      std::vector<int> num_tokens(kSessions, 0);
      num_tokens[session] = n;
      alone.back()->Step(num_tokens);
    }
  }
  Learners together(dims, kSessions);
  together.Step({0, 3, 6, 9}, {2, 0, 3, 1});
  together.Step({20, 20, 20, 20}, {3, 2, 1, 0});
  together.Step({6, 6, 6, 6});
  for (int session = 0; session < kSessions; ++session) {
    ASSERT_EQ(Bits(together.outputs[session]),
              Bits(alone[session]->outputs[session]));
    ASSERT_TRUE(together.StateOf(session) == alone[session]->StateOf(session));
  }
}

TEST_F(LearnerMlpTest, CudaLeavesEarlierTokensOfAMiniBatchAlone) {
  for (const int32_t head_dim : {32, 64, 96}) {
    const Dims dims = {1, head_dim, 16};
    Learners sound(dims, 1);
    sound.Step({16});
    for (const int row : {3, 9}) {
      Learners broken(dims, 1);
      broken.input(0).keys[row * dims.width() + 3] = INFINITY;
      broken.Step({16});
      EXPECT_EQ(Bits(Part(broken.outputs[0], 0, row * dims.width())),
                Bits(Part(sound.outputs[0], 0, row * dims.width())));
      for (int t = row; t < 16; ++t) {
        EXPECT_TRUE(std::isnan(broken.outputs[0][t * dims.width()]));
      }
      // And they stay broken.
      broken.Step({1});
      EXPECT_TRUE(std::isnan(broken.outputs[0][16 * dims.width()]));
    }
  }
}

// Weights whose high halves are above them, below, and of the other sign of a
// low half; the values are exact, as the step that is taken is zero.
TEST_F(LearnerMlpTest, CudaCommitsEveryBitOfTheWeights) {
  const Dims dims = {1, 64, 4};
  Learners learners(dims, 1);
  learners.input(0).rates.assign(kMaxTokens, 0.0f);
  const State before = learners.StateOf(0);
  learners.Step({4});
  EXPECT_TRUE(learners.StateOf(0) == before);
}

TEST_F(LearnerMlpTest, CudaLeavesOtherSlotsAlone) {
  const Dims dims = {2, 32, 4};
  Learners learners(dims, 3);
  const State before0 = learners.StateOf(0);
  const State before2 = learners.StateOf(2);
  learners.Step({0, 9, 0});
  EXPECT_TRUE(learners.StateOf(0) == before0);
  EXPECT_TRUE(learners.StateOf(2) == before2);
}

TEST_F(LearnerMlpTest, CudaDoesNothingForAnEmptyBatch) {
  const Dims dims = {1, 32, 4};
  Learners learners(dims, 1);
  const State before = learners.StateOf(0);
  learners.Step({});
  learners.Step({0});
  EXPECT_TRUE(learners.StateOf(0) == before);
}

}  // namespace
}  // namespace ttt
