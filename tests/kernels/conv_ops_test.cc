// CausalConv and LearnerInputs: the formulas, and tails across steps.
#include <numeric>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

class ConvOpsTest : public testing::TestWithParam<BackendKind> {
 protected:
  const std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Two sessions of kTokens tokens each: session 0 in slot 2, session 1 in slot
// 0.
constexpr int kTokens = 24;
constexpr int kSlots = 3;
constexpr int32_t kSlotOf[] = {2, 0};

// How both sessions' tokens are cut into steps: (of session 0, of session 1).
using Cut = std::vector<std::pair<int, int>>;
const Cut kCuts[] = {
    {{24, 24}},
    {{1, 0}, {1, 1}, {1, 2}, {2, 1}, {19, 20}},
    {{3, 7}, {0, 0}, {8, 7}, {13, 10}},
    {{24, 0}, {0, 24}},
};

// Calls step(sequences, rows) for each step, where rows[i] is the session and
// position of the step's row i.
template <typename Step>
void ForEachStep(const Cut& cut, const Step& step) {
  int64_t positions[2] = {0, 0};
  for (const auto& [first, second] : cut) {
    std::vector<SequenceRows> sequences;
    std::vector<std::pair<int, int64_t>> rows;
    for (const int session : {1, 0}) {
      const int n = session == 0 ? first : second;
      sequences.push_back(
          {int32_t(rows.size()), n, kSlotOf[session], positions[session]});
      for (int i = 0; i < n; ++i) {
        rows.push_back({session, positions[session]++});
      }
    }
    step(sequences, rows);
  }
}

// One session's tokens [kTokens, width] as rows of a step.
Floats Gather(const std::vector<Floats>& sessions, int width,
              const std::vector<std::pair<int, int64_t>>& rows) {
  Floats values;
  for (const auto& [session, position] : rows) {
    const Floats row = Part(sessions[session], position * width, width);
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

// bias + sum_j weight[j] u[p - K + 1 + j].
double Convolve(const Floats& u, const Floats& weight, const Floats& bias,
                int width, int kernel, int stride, int offset, int64_t p,
                int c) {
  double sum = bias[c];
  for (int j = 0; j < kernel; ++j) {
    const int64_t at = p - kernel + 1 + j;
    if (at >= 0)
      sum += double(weight[j * width + c]) * u[at * stride + offset + c];
  }
  return sum;
}

TEST_P(ConvOpsTest, CausalConvCarriesItsHistoryAcrossEveryCut) {
  for (const int32_t width : {40, 96, 200}) {
    for (const int32_t kernel : {2, 3, 4, 5, 8}) {
      const std::vector<Floats> u = {Random(kTokens * width, 1),
                                     Random(kTokens * width, 2)};
      const std::vector<Floats> hidden = {Random(kTokens * width, 3),
                                          Random(kTokens * width, 4)};
      const Floats weight = Random(kernel * width, 5);
      const Floats bias = Random(width, 6);
      std::vector<Floats> outputs;  // by cut: both sessions, all tokens
      for (const Cut& cut : kCuts) {
        Array<float> w(*backend_, weight);
        Array<float> b(*backend_, bias);
        Array<float> tail(*backend_, Floats(kSlots * (kernel - 1) * width));
        Floats output(2 * kTokens * width);
        ForEachStep(cut, [&](const auto& sequences, const auto& rows) {
          StepArrays step(*backend_, sequences);
          Array<float> input(*backend_, Gather(u, width, rows));
          Array<float> out(*backend_, Gather(hidden, width, rows));
          ASSERT_THAT(backend_->CausalConv({.rows = step.rows(),
                                            .input = input.data(),
                                            .weight = w.data(),
                                            .bias = b.data(),
                                            .tail = tail.Plane(kSlots),
                                            .output = out.data(),
                                            .hidden_size = width,
                                            .kernel = kernel}),
                      IsOk());
          const Floats values = out.Read();
          for (size_t i = 0; i < rows.size(); ++i) {
            std::copy_n(values.begin() + i * width, width,
                        output.begin() +
                            (rows[i].first * kTokens + rows[i].second) * width);
          }
        });
        outputs.push_back(output);
        // The tail is the last inputs, bit for bit; the free slot is untouched.
        const Floats tails = tail.Read();
        const int64_t size = int64_t(kernel - 1) * width;
        for (const int session : {0, 1}) {
          EXPECT_EQ(Bits(Part(tails, kSlotOf[session] * size, size)),
                    Bits(Part(u[session], kTokens * width - size, size)));
        }
        EXPECT_EQ(Part(tails, size, size), Floats(size));
      }
      std::vector<double> wanted;
      for (const int session : {0, 1}) {
        for (int64_t p = 0; p < kTokens; ++p) {
          for (int c = 0; c < width; ++c) {
            wanted.push_back(hidden[session][p * width + c] +
                             Convolve(u[session], weight, bias, width, kernel,
                                      width, 0, p, c));
          }
        }
      }
      EXPECT_LE(MaxError(outputs[0], wanted), 1e-6) << width << ", " << kernel;
      for (const Floats& output : outputs) {
        EXPECT_EQ(Bits(output), Bits(outputs[0])) << width << ", " << kernel;
      }
    }
  }
}

struct InputsCase {
  int32_t num_heads;
  int32_t head_dim;
  int32_t mini_batch;
  int32_t kernel;
  bool share_qk;
};

constexpr float kBaseLr = 0.7f;

// What LearnerInputs is given and gives, for two sessions.
class LearnerInputsRun {
 public:
  LearnerInputsRun(Backend& backend, const InputsCase& inputs)
      : backend_(backend),
        case_(inputs),
        width_(inputs.num_heads * inputs.head_dim),
        row_stride_(3 * width_ + inputs.num_heads + 5) {
    for (const int session : {0, 1}) {
      projections.push_back(Random(kTokens * row_stride_, 20 + session));
    }
    conv_q = Random(inputs.kernel * width_, 22);
    conv_k = Random(inputs.kernel * width_, 23);
    bias_q = Random(width_, 24);
    bias_k = Random(width_, 25);
    rate_bias = Random(inputs.num_heads, 26);
    for (int t = 0; t < inputs.mini_batch; ++t) {
      for (int i = 0; i < inputs.head_dim; i += 2) {
        const double angle =
            t * std::pow(10000.0, -double(i) / inputs.head_dim);
        rope.push_back(float(std::cos(angle)));
        rope.push_back(float(std::sin(angle)));
      }
    }
  }

  int key_offset() const { return width_; }
  int value_offset() const { return 2 * width_; }
  int rate_offset() const { return 3 * width_ + 2; }

  // [4][session, token, ...]: queries, keys, targets, rates.
  std::vector<Floats> Run(const Cut& cut) {
    std::vector<Floats> results(4, Floats(2 * kTokens * width_));
    results[3].resize(2 * kTokens * case_.num_heads);
    Array<float> tail(backend_, Floats(kSlots * (case_.kernel - 1) * width_));
    Array<float> wq(backend_, conv_q), bq(backend_, bias_q);
    Array<float> wk(backend_, conv_k), bk(backend_, bias_k);
    Array<float> rate(backend_, rate_bias), angles(backend_, rope);
    ForEachStep(cut, [&](const auto& sequences, const auto& rows) {
      StepArrays step(backend_, sequences);
      Array<float> input(backend_, Gather(projections, row_stride_, rows));
      const Floats empty(rows.size() * width_, NAN);
      RowArray q(backend_, empty), k(backend_, empty), t(backend_, empty);
      Array<float> r(backend_, Floats(rows.size() * case_.num_heads, NAN));
      const bool share = case_.share_qk;
      ASSERT_THAT(backend_.LearnerInputs(
                      {.rows = step.rows(),
                       .projections = input.data(),
                       .row_stride = row_stride_,
                       .query_offset = 0,
                       .key_offset = key_offset(),
                       .value_offset = value_offset(),
                       .rate_offset = rate_offset(),
                       .conv_q_weight = share ? wq.data() : nullptr,
                       .conv_q_bias = share ? bq.data() : nullptr,
                       .conv_k_weight = share ? wk.data() : nullptr,
                       .conv_k_bias = share ? bk.data() : nullptr,
                       .tail = share ? tail.Plane(kSlots) : StatePlane{},
                       .rate_bias = rate.data(),
                       .rope = angles.data(),
                       .queries = q.operand(),
                       .keys = k.operand(),
                       .targets = t.operand(),
                       .rates = r.data(),
                       .num_heads = case_.num_heads,
                       .head_dim = case_.head_dim,
                       .mini_batch = case_.mini_batch,
                       .kernel = case_.kernel,
                       .base_lr = kBaseLr}),
                  IsOk());
      const Floats outputs[] = {q.Read(), k.Read(), t.Read(), r.Read()};
      for (int part = 0; part < 4; ++part) {
        const int width = part == 3 ? case_.num_heads : width_;
        for (size_t i = 0; i < rows.size(); ++i) {
          std::copy_n(outputs[part].begin() + i * width, width,
                      results[part].begin() +
                          (rows[i].first * kTokens + rows[i].second) * width);
        }
      }
    });
    return results;
  }

  // The same in double precision.
  std::vector<std::vector<double>> Wanted() const {
    std::vector<std::vector<double>> wanted(4);
    for (const int session : {0, 1}) {
      for (int64_t p = 0; p < kTokens; ++p) AddWanted(session, p, wanted);
    }
    return wanted;
  }

  std::vector<Floats> projections;
  Floats conv_q, conv_k, bias_q, bias_k, rate_bias, rope;

 private:
  void AddWanted(int session, int64_t p,
                 std::vector<std::vector<double>>& wanted) const {
    const Floats& input = projections[session];
    const auto at = [&](int offset, int c) -> double {
      return input[p * row_stride_ + offset + c];
    };
    const auto convolved = [&](const Floats& weight, const Floats& bias,
                               int c) {
      return Convolve(input, weight, bias, width_, case_.kernel, row_stride_, 0,
                      p, c);
    };
    const int t = int(p % case_.mini_batch);
    for (int c = 0; c < width_; c += 2) {
      const double cosine = rope[t * case_.head_dim + c % case_.head_dim];
      const double sine = rope[t * case_.head_dim + c % case_.head_dim + 1];
      double q[2], k[2];
      for (const int i : {0, 1}) {
        q[i] = case_.share_qk ? convolved(conv_q, bias_q, c + i) : at(0, c + i);
        k[i] = case_.share_qk ? convolved(conv_k, bias_k, c + i)
                              : at(key_offset(), c + i);
      }
      wanted[0].push_back(q[0] * cosine - q[1] * sine);
      wanted[0].push_back(q[1] * cosine + q[0] * sine);
      wanted[1].push_back(k[0] * cosine - k[1] * sine);
      wanted[1].push_back(k[1] * cosine + k[0] * sine);
      for (const int i : {0, 1}) {
        wanted[2].push_back(at(value_offset(), c + i) -
                            wanted[1][wanted[1].size() - 2 + i]);
      }
    }
    for (int head = 0; head < case_.num_heads; ++head) {
      const double logit = at(rate_offset(), head) + rate_bias[head];
      wanted[3].push_back(kBaseLr / (1 + std::exp(-logit)) / case_.head_dim);
    }
  }

  Backend& backend_;
  const InputsCase case_;
  const int width_;
  const int row_stride_;
};

TEST_P(ConvOpsTest, LearnerInputsEqualTheFormulasForEveryCut) {
  for (const InputsCase& inputs :
       {InputsCase{2, 64, 16, 4, true}, InputsCase{3, 32, 5, 2, true},
        InputsCase{1, 96, 16, 8, true}, InputsCase{2, 64, 1, 4, false},
        InputsCase{2, 96, 16, 4, false}}) {
    LearnerInputsRun run(*backend_, inputs);
    const auto wanted = run.Wanted();
    const auto whole = run.Run(kCuts[0]);
    for (int part = 0; part < 4; ++part) {
      EXPECT_LE(MaxError(whole[part], wanted[part]), 1e-6)
          << part << ", head_dim " << inputs.head_dim;
    }
    for (const Cut& cut : kCuts) {
      const auto results = run.Run(cut);
      for (int part = 0; part < 4; ++part) {
        EXPECT_EQ(Bits(results[part]), Bits(whole[part])) << part;
      }
    }
  }
}

TEST_P(ConvOpsTest, ARateLogitThatIsNotANumberGivesARateThatIsNone) {
  LearnerInputsRun run(*backend_, {2, 32, 16, 4, false});
  run.rate_bias[1] = NAN;
  const Floats rates = run.Run(kCuts[0])[3];
  EXPECT_TRUE(std::isfinite(rates[0]));
  EXPECT_TRUE(std::isnan(rates[1]));
}

INSTANTIATE_TEST_SUITE_P(Backends, ConvOpsTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

}  // namespace
}  // namespace ttt
