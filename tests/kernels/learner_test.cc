// Learner: near the primal form, and the same bits however sessions are cut
// into steps and put together.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/learner_oracle.h"
#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

struct Dims {
  int32_t num_heads;
  int32_t head_dim;
  int32_t mini_batch;
  bool is_mlp;
  float output_scale = 1.0f;  // of the weights that give the learner's output
  float rate_scale = 1.0f;

  int32_t width() const { return num_heads * head_dim; }
  int32_t inner() const { return is_mlp ? 4 * head_dim : head_dim; }
};

std::string Describe(const Dims& dims) {
  return std::string(dims.is_mlp ? "mlp" : "linear") + ", head_dim " +
         std::to_string(dims.head_dim) + ", mini_batch " +
         std::to_string(dims.mini_batch);
}

constexpr int kMaxTokens = 80;

// A learner under test, and how far it may be from double precision. Of a GPU
// in bfloat16 the operands of products have 8 bits.
struct Learner {
  BackendKind kind;
  Precision precision = Precision::kFloat32;

  bool is_bfloat16() const { return precision == Precision::kBFloat16; }
  double output_tolerance() const { return is_bfloat16() ? 1.5e-2 : 2e-5; }
  double weights_tolerance() const { return is_bfloat16() ? 2e-3 : 2e-5; }
};

bool AllFinite(const Floats& values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); });
}

Floats Rounded(const Floats& values) { return ToFloats(ToBFloat16(values)); }

// What the tokens of a session bring, and its first weights.
struct SessionInput {
  SessionInput(const Dims& dims, int seed)
      : queries(Rounded(Random(kMaxTokens * dims.width(), seed))),
        keys(Rounded(Random(kMaxTokens * dims.width(), seed + 1))),
        targets(Rounded(Random(kMaxTokens * dims.width(), seed + 2))),
        rates(Random(kMaxTokens * dims.num_heads, seed + 3, 0.0f,
                     dims.rate_scale / dims.head_dim)),
        w1(Random(dims.width() * dims.inner(), seed + 4, -0.2f, 0.2f)),
        b1(Random(dims.num_heads * dims.inner(), seed + 5)),
        w2(Random(dims.width() * dims.inner(), seed + 6, -0.2f, 0.2f)),
        b2(Random(dims.width(), seed + 7)) {
    for (float& x : dims.is_mlp ? w2 : w1) x *= dims.output_scale;
    for (float& x : dims.is_mlp ? b2 : b1) x *= dims.output_scale;
  }

  Floats queries, keys, targets, rates, w1, b1, w2, b2;
};

// Sessions on one backend, each with all its tokens to come.
class Learners {
 public:
  Learners(Learner learner, const Dims& dims, int num_sessions,
           int32_t num_threads = 2)
      : dims_(dims),
        backend_(MakeBackend(learner.kind, learner.precision, num_threads)),
        token_scale_(*backend_, TokenScale(dims)),
        norm_weight_(*backend_, NormWeight(dims)),
        norm_bias_(*backend_, NormBias(dims)),
        outputs(num_sessions),
        positions_(num_sessions, 0) {
    Floats w1, b1, w2, b2;
    for (int slot = 0; slot < num_sessions; ++slot) {
      inputs_.emplace_back(dims, 100 * (SessionOfSlot(slot) + 1));
      const SessionInput& input = inputs_.back();
      w1.insert(w1.end(), input.w1.begin(), input.w1.end());
      b1.insert(b1.end(), input.b1.begin(), input.b1.end());
      w2.insert(w2.end(), input.w2.begin(), input.w2.end());
      b2.insert(b2.end(), input.b2.begin(), input.b2.end());
    }
    std::reverse(inputs_.begin(), inputs_.end());  // By session.
    const size_t matrix = size_t{1} * dims.head_dim * dims.inner();
    w1_.emplace(*backend_, w1, matrix);
    b1_.emplace(*backend_, b1);
    w2_.emplace(*backend_, w2, matrix);
    b2_.emplace(*backend_, b2);
    // What is not valid must not be read: NaN.
    const int32_t rows = num_sessions * (dims.mini_batch - 1);
    pending_keys_.emplace(*backend_, Floats(rows * dims.width(), NAN));
    pending_targets_.emplace(*backend_, Floats(rows * dims.width(), NAN));
    pending_rates_.emplace(*backend_, Floats(rows * dims.num_heads, NAN));
  }

  static Floats TokenScale(const Dims& dims) {
    Floats scale;
    for (int t = 0; t < dims.mini_batch; ++t) scale.push_back(1.2f / (t + 1));
    if (dims.mini_batch > 3) scale[2] = 0.0f;  // As a clamped one.
    return scale;
  }
  static Floats NormWeight(const Dims& dims) {
    return Random(dims.width(), 11, 0.5f, 1.5f);
  }
  static Floats NormBias(const Dims& dims) {
    return Random(dims.width(), 12, -0.2f, 0.2f);
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
    Floats queries, keys, targets, rates;
    int32_t num_rows = 0;
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
      const int session = SessionOfSlot(sequence.slot);
      const Floats part = Part(output, sequence.first_row * dims_.width(),
                               sequence.num_rows * dims_.width());
      outputs[session].insert(outputs[session].end(), part.begin(), part.end());
      positions_[session] += sequence.num_rows;
    }
  }

  // w1, b1, w2, b2 of a session.
  Floats FastWeights(int session) const {
    Floats weights;
    for (const Floats& all :
         {w1_->Read(), b1_->Read(), w2_->Read(), b2_->Read()}) {
      const size_t size = all.size() / positions_.size();
      const Floats part = Part(all, SlotOfSession(session) * size, size);
      weights.insert(weights.end(), part.begin(), part.end());
    }
    return weights;
  }
  // All that is valid of the state of a session.
  Floats State(int session) const {
    Floats values = FastWeights(session);
    const int64_t rows = dims_.mini_batch - 1;
    const int64_t valid = positions_[session] % dims_.mini_batch;
    const auto append = [&](const Floats& all, int64_t width) {
      for (int head = 0; head < dims_.num_heads; ++head) {
        const int64_t first =
            (SlotOfSession(session) * dims_.num_heads + head) * rows * width;
        const Floats part = Part(all, first, valid * width);
        values.insert(values.end(), part.begin(), part.end());
      }
    };
    append(pending_keys_->Read(), dims_.head_dim);
    append(pending_targets_->Read(), dims_.head_dim);
    append(pending_rates_->Read(), 1);
    return values;
  }

 private:
  int SlotOfSession(int session) const {
    return int(positions_.size()) - 1 - session;
  }
  int SessionOfSlot(int slot) const { return SlotOfSession(slot); }

  Floats Run(const std::vector<SequenceRows>& sequences, const Floats& queries,
             const Floats& keys, const Floats& targets, const Floats& rates) {
    StepArrays rows(*backend_, sequences);
    RowArray q(*backend_, queries);
    RowArray k(*backend_, keys);
    RowArray t(*backend_, targets);
    Array<float> r(*backend_, rates);
    Array<float> output(*backend_, Floats(queries.size(), NAN));
    const int slots = int(positions_.size());
    EXPECT_THAT(
        backend_->Learner({.rows = rows.rows(),
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
                           .is_mlp = dims_.is_mlp,
                           .num_heads = dims_.num_heads,
                           .head_dim = dims_.head_dim,
                           .mini_batch = dims_.mini_batch}),
        IsOk());
    return output.Read();
  }

  const Dims dims_;
  const std::unique_ptr<Backend> backend_;
  Array<float> token_scale_;
  Array<float> norm_weight_;
  Array<float> norm_bias_;
  std::vector<SessionInput> inputs_;  // by session
  std::optional<MatrixArray> w1_, w2_;
  std::optional<Array<float>> b1_, b2_;
  std::optional<RowArray> pending_keys_, pending_targets_;
  std::optional<Array<float>> pending_rates_;

 public:
  std::vector<Floats> outputs;  // by session, all tokens so far

 private:
  std::vector<int64_t> positions_;
};

// Output and fast weights of a session's first num_tokens tokens.
struct OracleResult {
  std::vector<double> output;
  std::vector<double> fast_weights;
};
OracleResult RunOracle(const Dims& dims, int session, int num_tokens) {
  const SessionInput input(dims, 100 * (session + 1));
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
    if (dims.is_mlp) {
      oracle.w2 = part(input.w2, head * d * e, d * e);
      oracle.b2 = part(input.b2, head * d, d);
    }
    oracle.norm_weight = part(Learners::NormWeight(dims), head * d, d);
    oracle.norm_bias = part(Learners::NormBias(dims), head * d, d);
    oracle.token_scale = part(Learners::TokenScale(dims), 0, dims.mini_batch);
    for (int t = 0; t < num_tokens; ++t) {
      const size_t at = (t * dims.num_heads + head) * d;
      const Vector z = oracle.Next(
          part(input.queries, at, d), part(input.keys, at, d),
          part(input.targets, at, d), input.rates[t * dims.num_heads + head]);
      std::copy(z.begin(), z.end(), result.output.begin() + at);
    }
  }
  const auto append = [&](Vector LearnerOracle::*member) {
    for (const LearnerOracle& oracle : heads) {
      result.fast_weights.insert(result.fast_weights.end(),
                                 (oracle.*member).begin(),
                                 (oracle.*member).end());
    }
  };
  append(&LearnerOracle::w1);
  append(&LearnerOracle::b1);
  if (dims.is_mlp) {
    append(&LearnerOracle::w2);
    append(&LearnerOracle::b2);
  }
  return result;
}

class LearnerTest : public testing::TestWithParam<Learner> {};

TEST_P(LearnerTest, IsNearThePrimalForm) {
  for (const bool is_mlp : {false, true}) {
    for (const int32_t head_dim : {32, 64, 96}) {
      for (const int32_t mini_batch : {1, 2, 5, 15, 16}) {
        const Dims dims = {2, head_dim, mini_batch, is_mlp};
        for (const int num_tokens :
             {1, mini_batch - 1, mini_batch, mini_batch + 1, 40}) {
          Learners learners(GetParam(), dims, 1);
          learners.Step({num_tokens});
          const OracleResult wanted = RunOracle(dims, 0, num_tokens);
          EXPECT_LE(MaxError(learners.outputs[0], wanted.output),
                    GetParam().output_tolerance())
              << Describe(dims) << ", " << num_tokens << " tokens";
          const Floats weights =
              Part(learners.FastWeights(0), 0, wanted.fast_weights.size());
          EXPECT_LE(MaxError(weights, wanted.fast_weights),
                    GetParam().weights_tolerance())
              << Describe(dims) << ", " << num_tokens << " tokens";
        }
      }
    }
  }
}

// As few as reach each form of a GPU's kernels: for its checkers of memory and
// barriers, scripts/sanitize_gpu.
TEST_P(LearnerTest, SmallestOfEachForm) {
  const auto expect_oracle = [](const Learners& learners, const Dims& dims,
                                int session) {
    const int num_tokens = int(learners.outputs[session].size()) / dims.width();
    EXPECT_LE(MaxError(learners.outputs[session],
                       RunOracle(dims, session, num_tokens).output),
              GetParam().output_tolerance())
        << Describe(dims) << ", session " << session;
  };
  for (const int32_t head_dim : {32, 64, 96}) {
    for (const bool is_mlp : {false, true}) {
      const Dims dims = {1, head_dim, 2, is_mlp};
      Learners learners(GetParam(), dims, 1);
      learners.Step({9});
      for (int i = 0; i < 2; ++i) learners.Step({1});
      expect_oracle(learners, dims, 0);
      // Decoding with more pending rows than half a tile, to the commit.
      const Dims full = {1, head_dim, 16, is_mlp};
      Learners decoding(GetParam(), full, 1);
      for (const int num_tokens : {23, 1, 1, 6, 1, 1}) {
        decoding.Step({num_tokens});
      }
      expect_oracle(decoding, full, 0);
    }
    if (!GetParam().is_bfloat16()) continue;
    // 1,064 heads: more than a GPU spreads out, or has a block for each of.
    constexpr int kSessions = 133;
    for (const int32_t mini_batch : {2, 16}) {
      const Dims dims = {8, head_dim, mini_batch, false};
      Learners learners(GetParam(), dims, kSessions);
      for (const int num_tokens : {mini_batch + 7, 1, 1}) {
        learners.Step(std::vector<int>(kSessions, num_tokens));
      }
      for (const int session : {0, kSessions - 1}) {
        expect_oracle(learners, dims, session);
      }
    }
  }
}

TEST_P(LearnerTest, NormalisesSmallOutputsWithTheEpsilonOfTheModel) {
  for (const bool is_mlp : {false, true}) {
    // The variance of a first output is about 1e-6.
    const Dims dims = {1, 64, 16, is_mlp, 1e-3f};
    Learners learners(GetParam(), dims, 1);
    learners.Step({1});
    const OracleResult wanted = RunOracle(dims, 0, 1);
    EXPECT_LE(MaxError(learners.outputs[0], wanted.output),
              GetParam().output_tolerance())
        << Describe(dims);
  }
}

TEST_P(LearnerTest, HasTheSameBitsForEveryChunking) {
  constexpr int kTokens = 41;
  std::vector<Dims> all = {{3, 64, 16, false}, {1, 64, 16, true},
                           {1, 96, 16, false}, {2, 32, 7, false},
                           {1, 32, 3, true},   {1, 64, 1, false},
                           {1, 64, 5, false}};
  if (GetParam().is_bfloat16()) {
    for (const Dims& dims : {Dims{1, 96, 16, true}, Dims{1, 96, 5, true},
                             Dims{2, 64, 5, true}, Dims{1, 64, 1, true}}) {
      all.push_back(dims);
    }
  }
  for (const Dims& dims : all) {
    Learners whole(GetParam(), dims, 1);
    whole.Step({kTokens});
    for (int chunk = 1; chunk <= 40; ++chunk) {
      Learners cut(GetParam(), dims, 1);
      for (int done = 0; done < kTokens; done += chunk) {
        cut.Step({std::min(chunk, kTokens - done)});
      }
      ASSERT_EQ(Bits(cut.outputs[0]), Bits(whole.outputs[0]))
          << Describe(dims) << ", chunks of " << chunk;
      ASSERT_EQ(Bits(cut.State(0)), Bits(whole.State(0)))
          << Describe(dims) << ", chunks of " << chunk;
    }
  }
}

TEST_P(LearnerTest, HasTheSameBitsInEveryBatchAndWithEveryNumberOfThreads) {
  const Dims dims = {2, 64, 16, GetParam().kind != BackendKind::kReference};
  constexpr int kSessions = 4;
  std::vector<std::unique_ptr<Learners>> alone;
  for (int session = 0; session < kSessions; ++session) {
    alone.push_back(std::make_unique<Learners>(GetParam(), dims, kSessions, 1));
    for (const int n : {3 * session, 20, 1, 5}) {
      std::vector<int> num_tokens(kSessions, 0);
      num_tokens[session] = n;
      alone.back()->Step(num_tokens);
    }
  }
  for (const int num_threads : {1, 2, 3}) {
    Learners together(GetParam(), dims, kSessions, num_threads);
    together.Step({0, 3, 6, 9}, {2, 0, 3, 1});
    together.Step({20, 20, 20, 20}, {3, 2, 1, 0});
    together.Step({6, 6, 6, 6});
    for (int session = 0; session < kSessions; ++session) {
      ASSERT_EQ(Bits(together.outputs[session]),
                Bits(alone[session]->outputs[session]));
      ASSERT_EQ(Bits(together.State(session)),
                Bits(alone[session]->State(session)));
    }
  }
}

// Of no more rows than sequences, which a GPU runs as if each had one: rows
// that end a mini-batch, and rows of the next.
TEST_P(LearnerTest, HasTheSameBitsWhereOneSequenceHasTheRowsOfOthers) {
  constexpr int kSessions = 6;
  std::vector<Dims> all = {{3, 64, 16, false}, {2, 96, 16, false},
                           {2, 32, 5, false},  {1, 64, 3, false},
                           {1, 64, 1, false},  {1, 96, 7, false}};
  if (GetParam().kind == BackendKind::kCuda) {
    // So many heads that it runs them another way, one or two heads a block.
    all.insert(all.end(), {{90, 64, 16, false},
                           {181, 64, 16, false},
                           {90, 96, 5, false},
                           {181, 32, 16, false}});
  }
  for (const Dims& dims : all) {
    Learners whole(GetParam(), dims, kSessions);
    Learners cut(GetParam(), dims, kSessions);
    std::vector<int> num_tokens(kSessions, 0);
    for (int step = 0; step < 5 * kSessions; ++step) {
      std::vector<int> rows(kSessions, 0);
      rows[step % kSessions] = step % kSessions;
      rows[(step + 1) % kSessions] = 1;
      for (int i = 0; i < kSessions; ++i) num_tokens[i] += rows[i];
      cut.Step(rows, {5, 0, 3, 1, 4, 2});
    }
    whole.Step(num_tokens);
    for (int i = 0; i < kSessions; ++i) {
      ASSERT_EQ(Bits(cut.outputs[i]), Bits(whole.outputs[i]))
          << Describe(dims) << ", session " << i;
      ASSERT_EQ(Bits(cut.State(i)), Bits(whole.State(i)))
          << Describe(dims) << ", session " << i;
    }
  }
}

// A decoded row that is not finite, and those after it.
TEST_P(LearnerTest, DecodedTokensAfterABrokenOneAreBroken) {
  std::vector<Dims> all = {{2, 64, 16, false}};
  // So many heads that a GPU runs them another way.
  if (GetParam().is_bfloat16()) all.push_back({531, 64, 16, false});
  for (const Dims& dims : all) {
    for (const int broken_token : {2, 6, 7, 15}) {
      Learners sound(GetParam(), dims, 1);
      Learners broken(GetParam(), dims, 1);
      broken.input(0).targets[broken_token * dims.width() + 3] = INFINITY;
      for (int t = 0; t < 20; ++t) {
        sound.Step({1});
        broken.Step({1});
      }
      EXPECT_EQ(Bits(Part(broken.outputs[0], 0, broken_token * dims.width())),
                Bits(Part(sound.outputs[0], 0, broken_token * dims.width())));
      for (int t = broken_token; t < 20; ++t) {
        EXPECT_TRUE(std::isnan(broken.outputs[0][t * dims.width()]))
            << broken_token << ", token " << t;
      }
    }
  }
}

// So many heads that a GPU runs them another way than a few.
TEST_P(LearnerTest, HasTheSameBitsAmongManySessions) {
  const bool is_cuda = GetParam().kind == BackendKind::kCuda;
  const int num_sessions = is_cuda ? 84 : 3;
  constexpr int kSteps = 20;
  std::vector<Dims> all = {
      {8, 64, 16, false}, {8, 96, 16, false}, {8, 32, 5, false}};
  if (is_cuda) {
    // More heads than run at once.
    all.push_back({21, 64, 16, true});
    all.push_back({6, 96, 16, true});
    all.push_back({21, 32, 16, true});
    // About the most that share a way with one.
    all.push_back({3, 64, 16, false});
    all.push_back({1, 96, 16, false});
    all.push_back({21, 64, 16, false});  // an odd number, two heads a block
    all.push_back({21, 32, 16, false});
  }
  if (GetParam().is_bfloat16()) {
    for (const Dims& dims :
         {Dims{2, 96, 16, true}, Dims{3, 64, 5, true}, Dims{2, 32, 16, true}}) {
      all.push_back(dims);
    }
  }
  for (const Dims& dims : all) {
    const auto num_first = [](int session) { return 7 * session % 17; };
    Learners together(GetParam(), dims, num_sessions);
    std::vector<int> num_tokens(num_sessions);
    for (int i = 0; i < num_sessions; ++i) num_tokens[i] = num_first(i);
    together.Step(num_tokens);
    for (int step = 0; step < kSteps; ++step) {
      together.Step(std::vector<int>(num_sessions, 1));
    }
    for (const bool is_third : {true, false}) {  // Others are idle.
      for (int i = 0; i < num_sessions; ++i) {
        num_tokens[i] = (i % 3 == 0) == is_third;
      }
      together.Step(num_tokens);
    }
    Learners whole(GetParam(), dims, num_sessions);
    for (int i = 0; i < num_sessions; ++i) {
      num_tokens[i] = num_first(i) + kSteps + 1;
    }
    whole.Step(num_tokens);
    for (int i = 0; i < num_sessions; ++i) {
      // A sequence that neither way looks at leaves its outputs as they were.
      ASSERT_TRUE(AllFinite(whole.outputs[i]))
          << Describe(dims) << ", session " << i;
      ASSERT_EQ(Bits(together.outputs[i]), Bits(whole.outputs[i]))
          << Describe(dims) << ", session " << i;
      if (i % 10 != 0) continue;
      ASSERT_EQ(Bits(together.State(i)), Bits(whole.State(i)))
          << Describe(dims) << ", session " << i;
    }
  }
}

// So few rows for all sessions that a GPU takes it for decoding.
TEST_P(LearnerTest, HasTheSameBitsForSomeRowsOfOneAmongIdleSessions) {
  constexpr int kTokens = 36;
  constexpr int kSessions = 4;
  for (const Dims& dims :
       {Dims{2, 64, 16, true}, Dims{1, 96, 16, true}, Dims{1, 64, 5, true},
        Dims{1, 32, 1, true}, Dims{2, 64, 16, false}}) {
    Learners whole(GetParam(), dims, kSessions);
    whole.Step({0, kTokens, 0, 0});
    for (const int chunk : {2, 3, 4}) {
      Learners cut(GetParam(), dims, kSessions);
      for (int done = 0; done < kTokens; done += chunk) {
        cut.Step({0, chunk, 0, 0});
      }
      ASSERT_EQ(Bits(cut.outputs[1]), Bits(whole.outputs[1]))
          << Describe(dims) << ", chunks of " << chunk;
      ASSERT_EQ(Bits(cut.State(1)), Bits(whole.State(1)))
          << Describe(dims) << ", chunks of " << chunk;
    }
  }
}

// It may stand beside the keys, but none of them sees it.
TEST_P(LearnerTest, BrokenQueryLeavesOtherOutputsAndTheStateAlone) {
  constexpr int kTokens = 20;
  for (const bool is_mlp : {false, true}) {
    for (const int32_t mini_batch : {5, 16}) {
      for (const int at : {0, 4, 7, 15}) {
        const Dims dims = {1, 64, mini_batch, is_mlp};
        Learners sound(GetParam(), dims, 1);
        Learners broken(GetParam(), dims, 1);
        broken.input(0).queries[at * dims.width() + 3] = INFINITY;
        for (int t = 0; t < kTokens; ++t) {
          sound.Step({1});
          broken.Step({1});
        }
        EXPECT_FALSE(AllFinite(
            Part(broken.outputs[0], at * dims.width(), dims.width())));
        for (int t = 0; t < kTokens; ++t) {
          if (t == at) continue;
          ASSERT_EQ(
              Bits(Part(broken.outputs[0], t * dims.width(), dims.width())),
              Bits(Part(sound.outputs[0], t * dims.width(), dims.width())))
              << Describe(dims) << ", row " << t << ", broken " << at;
        }
        ASSERT_EQ(Bits(broken.State(0)), Bits(sound.State(0)))
            << Describe(dims) << ", broken " << at;
      }
    }
  }
}

TEST_P(LearnerTest, StepsOfZeroLeaveEveryBitOfTheWeights) {
  for (const bool is_mlp : {false, true}) {
    const Dims dims = {1, 64, 4, is_mlp};
    Learners learners(GetParam(), dims, 1);
    learners.input(0).rates.assign(kMaxTokens, 0.0f);
    const Floats before = learners.State(0);
    learners.Step({8});
    EXPECT_EQ(Bits(learners.State(0)), Bits(before)) << Describe(dims);
  }
}

// Each far below the eighth bit of a weight.
TEST_P(LearnerTest, SmallStepsAddUp) {
  for (const bool is_mlp : {false, true}) {
    const Dims dims = {1, 64, 4, is_mlp, 1.0f, 1e-3f};
    Learners learners(GetParam(), dims, 1);
    const Floats before = learners.FastWeights(0);
    for (int i = 0; i < kMaxTokens; ++i) learners.Step({1});
    const OracleResult wanted = RunOracle(dims, 0, kMaxTokens);
    const Floats after =
        Part(learners.FastWeights(0), 0, wanted.fast_weights.size());
    double error = 0.0;
    double step = 0.0;
    for (size_t i = 0; i < after.size(); ++i) {
      error = std::max(error, std::abs(after[i] - wanted.fast_weights[i]));
      step = std::max(step, std::abs(before[i] - wanted.fast_weights[i]));
    }
    EXPECT_GT(step, 1e-5);
    EXPECT_LE(error, 0.05 * step) << Describe(dims);
  }
}

TEST_P(LearnerTest, LaterTokensOfAMiniBatchLeaveEarlierOnesAlone) {
  for (const bool is_mlp : {false, true}) {
    const Dims dims = {1, 64, 16, is_mlp};
    Learners sound(GetParam(), dims, 1);
    sound.Step({16});
    Learners broken(GetParam(), dims, 1);
    broken.input(0).keys[9 * dims.width() + 3] = INFINITY;
    broken.Step({16});
    broken.Step({16});
    EXPECT_EQ(Bits(Part(broken.outputs[0], 0, 9 * dims.width())),
              Bits(Part(sound.outputs[0], 0, 9 * dims.width())));
    for (int t = 9; t < 32; ++t) {
      EXPECT_TRUE(std::isnan(broken.outputs[0][t * dims.width()]));
    }
  }
}

TEST_P(LearnerTest, LeavesOtherSlotsAlone) {
  const Dims dims = {1, 32, 4, false};
  Learners learners(GetParam(), dims, 3);
  const Floats before0 = learners.FastWeights(0);
  const Floats before2 = learners.FastWeights(2);
  learners.Step({0, 9, 0});
  EXPECT_EQ(Bits(learners.FastWeights(0)), Bits(before0));
  EXPECT_EQ(Bits(learners.FastWeights(2)), Bits(before2));
}

TEST_P(LearnerTest, DoesNothingForAnEmptyBatch) {
  const Dims dims = {1, 32, 4, false};
  Learners learners(GetParam(), dims, 1);
  const Floats before = learners.FastWeights(0);
  learners.Step({});
  learners.Step({0});
  EXPECT_EQ(Bits(learners.FastWeights(0)), Bits(before));
}

std::vector<Learner> AllLearners() {
  std::vector<Learner> learners;
  for (const BackendKind kind : AllBackendKinds()) learners.push_back({kind});
  if (HasCuda()) {
    learners.push_back({BackendKind::kCuda, Precision::kBFloat16});
  }
  return learners;
}
std::string LearnerName(const testing::TestParamInfo<Learner>& info) {
  return BackendKindName({info.param.kind, info.index}) +
         (info.param.is_bfloat16() ? "BFloat16" : "");
}

INSTANTIATE_TEST_SUITE_P(Backends, LearnerTest,
                         testing::ValuesIn(AllLearners()), LearnerName);

}  // namespace
}  // namespace ttt
