// ConvNorm and LearnerInputs: the formulas, and tails across steps.
#include <array>
#include <numeric>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

class ConvOpsTest : public testing::TestWithParam<BackendKind> {
 protected:
  const std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

// Two sessions of kTokens tokens each: session 0 in slot 2, session 1 in slot
// 0. What has ended has its state in the free slot.
constexpr int kTokens = 24;
constexpr int kSlots = 3;
constexpr int32_t kSlotOf[] = {2, 0};
constexpr int32_t kFreeSlot = 1;
constexpr int kEnded = -1;  // no session

// How both sessions' tokens are cut into steps: (of session 0, of session 1).
using Cut = std::vector<std::pair<int, int>>;
const Cut kCuts[] = {
    {{24, 24}},
    {{1, 0}, {1, 1}, {1, 2}, {2, 1}, {19, 20}},
    {{3, 7}, {0, 0}, {8, 7}, {13, 10}},
    {{24, 0}, {0, 24}},
};

// Calls step(sequences, rows) for each step, where rows[i] is the session and
// position of the step's row i. With rows that have ended between the others,
// or without.
template <typename Step>
void ForEachStep(const Cut& cut, bool has_ended, const Step& step) {
  int64_t positions[2] = {0, 0};
  for (const auto& [first, second] : cut) {
    std::vector<SequenceRows> sequences;
    std::vector<std::pair<int, int64_t>> rows;
    for (const int session : {kEnded, 1, kEnded, kEnded, 0, kEnded}) {
      if (session == kEnded) {
        if (!has_ended) continue;
        sequences.push_back({int32_t(rows.size()), 1, kFreeSlot, 7});
        rows.push_back({kEnded, 0});
        continue;
      }
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
    if (session == kEnded) {
      values.insert(values.end(), width, 0.5f);
      continue;
    }
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

constexpr float kEpsilon = 1e-3f;  // Large enough to be seen.

// weight * x / sqrt(mean(x^2) + epsilon), of one row.
std::vector<double> RmsNormed(const std::vector<double>& x,
                              const Floats& weight) {
  double squares = 0.0;
  for (const double value : x) squares += value * value / double(x.size());
  std::vector<double> normed(x.size());
  for (size_t c = 0; c < x.size(); ++c) {
    normed[c] = weight[c] * x[c] / std::sqrt(squares + kEpsilon);
  }
  return normed;
}

// What ConvNorm is given and gives, for two sessions.
class ConvNormRun {
 public:
  ConvNormRun(Backend& backend, int32_t width, int32_t kernel, int num_tokens)
      : backend_(backend),
        width_(width),
        kernel_(kernel),
        num_tokens_(num_tokens),
        inputs_{Random(int64_t{num_tokens} * width, 1, -2.0f, 2.0f),
                Random(int64_t{num_tokens} * width, 2, -2.0f, 2.0f)},
        conv_norm_weight_(Random(width, 3, 0.5f, 1.5f)),
        weight_(Random(int64_t{kernel} * width, 4)),
        bias_(Random(width, 5)),
        norm_weight_(Random(width, 6, 0.5f, 1.5f)) {}

  struct Results {
    Floats sum;  // [session, token, channel]
    Floats output;
    Floats tails;  // [session, kernel - 1, channel]
  };

  // With outputs of type T; what a bfloat16 holds as a float. `has_ended` as in
  // ForEachStep.
  template <typename T = float>
  Results Run(const Cut& cut, bool has_ended = false) {
    const int64_t tail_size = int64_t{kernel_ - 1} * width_;
    Results results;
    results.sum.resize(2 * num_tokens_ * width_);
    results.output = results.sum;
    Array<float> w1(backend_, conv_norm_weight_), w(backend_, weight_);
    Array<float> b(backend_, bias_), w2(backend_, norm_weight_);
    Array<float> tail(backend_, Floats(kSlots * tail_size));
    ForEachStep(cut, has_ended, [&](const auto& sequences, const auto& rows) {
      StepArrays step(backend_, sequences, kFreeSlot);
      Array<float> input(backend_, Gather(inputs_, width_, rows));
      Array<float> sum(backend_, Floats(rows.size() * width_ + 1, NAN));
      Array<T> output(backend_, std::vector<T>(rows.size() * width_ + 1));
      ASSERT_THAT(
          backend_.ConvNorm(
              {.rows = step.rows(),
               .input = input.data(),
               .conv_norm_weight = w1.data(),
               .weight = w.data(),
               .bias = b.data(),
               .tail = tail.Plane(kSlots),
               .sum = sum.data(),
               .norm_weight = w2.data(),
               .output = {output.data(),
                          sizeof(T) == 4 ? DType::kFloat32 : DType::kBFloat16},
               .hidden_size = width_,
               .kernel = kernel_,
               .epsilon = kEpsilon}),
          IsOk());
      const Floats sums = sum.Read();
      const std::vector<T> outputs = output.Read();
      EXPECT_TRUE(std::isnan(sums.back()) && outputs.back() == T{});
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].first == kEnded) continue;
        const int64_t to =
            (rows[i].first * num_tokens_ + rows[i].second) * int64_t{width_};
        for (int64_t c = 0; c < width_; ++c) {
          results.sum[to + c] = sums[i * width_ + c];
          const T value = outputs[i * width_ + c];
          if constexpr (sizeof(T) == 4) {
            results.output[to + c] = value;
          } else {
            results.output[to + c] = BFloat16ToFloat(value);
          }
        }
      }
    });
    const Floats tails = tail.Read();
    for (const int session : {0, 1}) {
      const Floats part = Part(tails, kSlotOf[session] * tail_size, tail_size);
      results.tails.insert(results.tails.end(), part.begin(), part.end());
    }
    EXPECT_EQ(Part(tails, kFreeSlot * tail_size, tail_size), Floats(tail_size))
        << "the free slot";
    return results;
  }

  struct Exact {
    std::vector<double> sum, output, tails;
  };
  // Puts a NaN into the first token of session 0.
  void SpoilFirst() { inputs_[0][3] = NAN; }

  // The same in double precision.
  Exact Wanted() const {
    Exact exact;
    for (const Floats& input : inputs_) AddWanted(input, exact);
    return exact;
  }

 private:
  void AddWanted(const Floats& input, Exact& exact) const {
    std::vector<std::vector<double>> u(kernel_ - 1,
                                       std::vector<double>(width_));
    for (int64_t p = 0; p < num_tokens_; ++p) {
      const std::vector<double> x(input.begin() + p * width_,
                                  input.begin() + (p + 1) * width_);
      u.push_back(RmsNormed(x, conv_norm_weight_));
      std::vector<double> sum(width_);
      for (int c = 0; c < width_; ++c) {
        sum[c] = x[c] + bias_[c];
        for (int j = 0; j < kernel_; ++j) {
          sum[c] += weight_[j * width_ + c] * u[p + j][c];
        }
      }
      const std::vector<double> output = RmsNormed(sum, norm_weight_);
      exact.sum.insert(exact.sum.end(), sum.begin(), sum.end());
      exact.output.insert(exact.output.end(), output.begin(), output.end());
    }
    for (size_t i = u.size() - kernel_ + 1; i < u.size(); ++i) {
      exact.tails.insert(exact.tails.end(), u[i].begin(), u[i].end());
    }
  }

  Backend& backend_;
  const int32_t width_;
  const int32_t kernel_;
  const int num_tokens_;
  std::vector<Floats> inputs_;  // [num_tokens, width] a session
  const Floats conv_norm_weight_, weight_, bias_, norm_weight_;
};

void ExpectSameBits(const ConvNormRun::Results& a,
                    const ConvNormRun::Results& b) {
  EXPECT_EQ(Bits(a.sum), Bits(b.sum));
  EXPECT_EQ(Bits(a.output), Bits(b.output));
  EXPECT_EQ(Bits(a.tails), Bits(b.tails));
}

TEST_P(ConvOpsTest, ConvNormCarriesItsHistoryAcrossEveryCut) {
  // From 200 on of more than one vector a thread of a CPU, then those that a
  // GPU has kernels of, and one that is too long for its blocks.
  for (const int32_t width :
       {1, 30, 40, 96, 200, 516, 768, 1024, 1536, 2048, 2052}) {
    for (const int32_t kernel : {2, 3, 4, 5, 8}) {
      if (kernel != 4 && width >= 768 && width <= 1536) continue;
      SCOPED_TRACE(testing::Message() << width << ", kernel " << kernel);
      ConvNormRun run(*backend_, width, kernel, kTokens);
      const auto whole = run.Run(kCuts[0]);
      const auto wanted = run.Wanted();
      EXPECT_LE(MaxError(whole.sum, wanted.sum), 1e-5);
      EXPECT_LE(MaxError(whole.output, wanted.output), 1e-5);
      EXPECT_LE(MaxError(whole.tails, wanted.tails), 1e-5);
      for (const Cut& cut : kCuts) {
        ExpectSameBits(run.Run(cut), whole);
        ExpectSameBits(run.Run(cut, /*has_ended=*/true), whole);
      }
    }
  }
}

TEST_P(ConvOpsTest, ConvNormOfManyRowsIsThatOfFew) {
  constexpr int kMany = 1500;
  const Cut in_few = {{700, 2}, {1, 1}, {2, 3}, {797, 4}, {0, 1490}};
  for (const int32_t width : {36, 256}) {
    for (const int32_t kernel : {3, 4}) {
      SCOPED_TRACE(testing::Message() << width << ", kernel " << kernel);
      ConvNormRun run(*backend_, width, kernel, kMany);
      const auto whole = run.Run({{kMany, kMany}});
      const auto wanted = run.Wanted();
      EXPECT_LE(MaxError(whole.sum, wanted.sum), 1e-5);
      EXPECT_LE(MaxError(whole.output, wanted.output), 1e-5);
      ExpectSameBits(run.Run(in_few), whole);
      ExpectSameBits(run.Run(in_few, /*has_ended=*/true), whole);
    }
  }
}

TEST_P(ConvOpsTest, ConvNormRoundsItsOutputToBFloat16AtTheEnd) {
  for (const int32_t width : {40, 77}) {
    ConvNormRun run(*backend_, width, 4, kTokens);
    const auto floats = run.Run(kCuts[1]);
    const auto halves = run.Run<uint16_t>(kCuts[1]);
    EXPECT_EQ(halves.output, ToFloats(ToBFloat16(floats.output)));
    EXPECT_EQ(Bits(halves.sum), Bits(floats.sum));
  }
}

// ConvNorm of sequences of counts[i] rows: those of `some` are as alone, and
// one that has ended keeps its tail.
void ExpectSequencesApart(Backend& backend, int32_t width,
                          const std::vector<int32_t>& counts,
                          const std::vector<int>& some,
                          std::optional<int> ended = std::nullopt) {
  constexpr int32_t kKernel = 4;
  const int32_t tail_size = (kKernel - 1) * width;
  const int32_t num_sequences = int32_t(counts.size());
  const Floats norm1 = Random(width, 3), norm2 = Random(width, 4);
  const Floats taps = Random(kKernel * width, 5), offset = Random(width, 6);
  std::vector<SequenceRows> sequences;
  int32_t num_rows = 0;
  for (int i = 0; i < num_sequences; ++i) {
    sequences.push_back({num_rows, counts[i], num_sequences - 1 - i, 5});
    num_rows += counts[i];
  }
  const Floats all = Random(num_rows * width, 1);
  const Floats tails = Random(num_sequences * tail_size, 2);
  Array<float> w1(backend, norm1), w2(backend, norm2);
  Array<float> w(backend, taps), b(backend, offset);
  // sum, output and tails after a step.
  const auto run = [&](const std::vector<SequenceRows>& step_sequences,
                       const Floats& input) {
    std::optional<int32_t> ended_slot;
    if (ended.has_value()) ended_slot = sequences[*ended].slot;
    StepArrays step(backend, step_sequences, ended_slot);
    Array<float> in(backend, input), tail(backend, tails);
    Array<float> sum(backend, input), output(backend, input);
    EXPECT_THAT(backend.ConvNorm({.rows = step.rows(),
                                  .input = in.data(),
                                  .conv_norm_weight = w1.data(),
                                  .weight = w.data(),
                                  .bias = b.data(),
                                  .tail = tail.Plane(num_sequences),
                                  .sum = sum.data(),
                                  .norm_weight = w2.data(),
                                  .output = {output.data(), DType::kFloat32},
                                  .hidden_size = width,
                                  .kernel = kKernel,
                                  .epsilon = kEpsilon}),
                IsOk());
    return std::array<Floats, 3>{sum.Read(), output.Read(), tail.Read()};
  };
  const auto [sum, output, tail] = run(sequences, all);
  for (const int i : some) {
    SequenceRows alone = sequences[i];
    const int64_t first = int64_t{alone.first_row} * width;
    const int64_t size = int64_t{alone.num_rows} * width;
    const int64_t slot = alone.slot * tail_size;
    if (size == 0 || i == ended) {
      EXPECT_EQ(Part(tail, slot, tail_size), Part(tails, slot, tail_size)) << i;
      continue;
    }
    alone.first_row = 0;
    const auto wanted = run({alone}, Part(all, first, size));
    EXPECT_EQ(Bits(Part(sum, first, size)), Bits(wanted[0])) << i;
    EXPECT_EQ(Bits(Part(output, first, size)), Bits(wanted[1])) << i;
    EXPECT_EQ(Bits(Part(tail, slot, tail_size)),
              Bits(Part(wanted[2], slot, tail_size)))
        << i;
  }
}

// Many short sequences beside long ones, some without rows.
TEST_P(ConvOpsTest, ConvNormKeepsManySequencesApart) {
  std::vector<int32_t> counts;
  for (int i = 0; i < 500; ++i) {
    counts.push_back(i == 77 ? 200 : i % 7 == 0 ? 0 : i % 6);
  }
  ExpectSequencesApart(*backend_, 64, counts,
                       {0, 1, 5, 6, 8, 10, 76, 77, 78, 400, 497, 499});
}

// As many as decode in one step, where a block of a GPU has two: all of one
// row, and some of none, two and five and one that has ended among them.
TEST_P(ConvOpsTest, ConvNormKeepsSequencesOfARowApart) {
  for (const int32_t width : {36, 768, 2048}) {
    for (const int num_sequences : {132, 133, 134, 256, 263}) {
      std::vector<int32_t> counts(num_sequences, 1);
      ExpectSequencesApart(*backend_, width, counts,
                           {0, 1, 2, 77, 131, num_sequences - 1});
      counts[2] = 0;
      counts[5] = counts[6] = counts[90] = 2;
      counts[110] = 5;
      ExpectSequencesApart(
          *backend_, width, counts,
          {0, 1, 2, 3, 4, 5, 6, 7, 8, 40, 41, 89, 90, 91, 109, 110, 111, 131},
          /*ended=*/40);
    }
  }
}

TEST_P(ConvOpsTest, ConvNormKeepsANaNInItsSequence) {
  constexpr int32_t kWidth = 96;
  ConvNormRun run(*backend_, kWidth, 4, kTokens);
  const auto sound = run.Run(kCuts[0]);
  run.SpoilFirst();
  const auto results = run.Run(kCuts[0]);
  const int64_t half = kTokens * kWidth;
  EXPECT_TRUE(std::isnan(results.output[3]));
  EXPECT_EQ(Bits(Part(results.sum, half, half)),
            Bits(Part(sound.sum, half, half)));
  EXPECT_EQ(Bits(Part(results.output, half, half)),
            Bits(Part(sound.output, half, half)));
}

struct InputsCase {
  int32_t num_heads;
  int32_t head_dim;
  int32_t mini_batch;
  int32_t kernel;
  bool share_qk;
  bool is_aligned;  // are the parts of a projection at multiples of 4 floats
  int num_tokens = kTokens;
};

constexpr float kBaseLr = 0.7f;

// What LearnerInputs is given and gives, for two sessions.
class LearnerInputsRun {
 public:
  LearnerInputsRun(Backend& backend, const InputsCase& inputs)
      : backend_(backend),
        case_(inputs),
        width_(inputs.num_heads * inputs.head_dim),
        row_stride_((3 * width_ + inputs.num_heads + 7) / 4 * 4 +
                    (inputs.is_aligned ? 0 : 1)) {
    for (const int session : {0, 1}) {
      projections.push_back(
          Random(inputs.num_tokens * row_stride_, 20 + session));
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
  std::vector<Floats> Run(const Cut& cut, bool has_ended = false) {
    const int tokens = case_.num_tokens;
    std::vector<Floats> results(4, Floats(2 * tokens * width_));
    results[3].resize(2 * tokens * case_.num_heads);
    const int64_t tail_size = int64_t{case_.kernel - 1} * width_;
    Array<float> tail(backend_, Floats(kSlots * tail_size));
    Array<float> wq(backend_, conv_q), bq(backend_, bias_q);
    Array<float> wk(backend_, conv_k), bk(backend_, bias_k);
    Array<float> rate(backend_, rate_bias), angles(backend_, rope);
    ForEachStep(cut, has_ended, [&](auto sequences, const auto& rows) {
      for (SequenceRows& sequence : sequences) {
        sequence.position += first_position;
      }
      StepArrays step(backend_, sequences, kFreeSlot);
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
          if (rows[i].first == kEnded) continue;
          std::copy_n(outputs[part].begin() + i * width, width,
                      results[part].begin() +
                          (rows[i].first * tokens + rows[i].second) * width);
        }
      }
    });
    EXPECT_EQ(Part(tail.Read(), kFreeSlot * tail_size, tail_size),
              Floats(tail_size))
        << "the free slot";
    return results;
  }

  // The same in double precision.
  std::vector<std::vector<double>> Wanted() const {
    std::vector<std::vector<double>> wanted(4);
    for (const int session : {0, 1}) {
      for (int64_t p = 0; p < case_.num_tokens; ++p) {
        AddWanted(session, p, wanted);
      }
    }
    return wanted;
  }

  std::vector<Floats> projections;
  Floats conv_q, conv_k, bias_q, bias_k, rate_bias, rope;
  int64_t first_position = 0;

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
  for (const InputsCase& inputs : {InputsCase{2, 64, 16, 4, true, false},
                                   InputsCase{2, 64, 16, 4, true, true},
                                   InputsCase{6, 96, 16, 4, true, true},
                                   InputsCase{3, 32, 5, 2, true, true},
                                   InputsCase{3, 32, 5, 4, true, true},
                                   InputsCase{1, 96, 16, 8, true, false},
                                   InputsCase{2, 64, 1, 4, false, false},
                                   InputsCase{2, 64, 1, 4, false, true},
                                   InputsCase{2, 96, 16, 4, false, true}}) {
    LearnerInputsRun run(*backend_, inputs);
    const auto wanted = run.Wanted();
    const auto whole = run.Run(kCuts[0]);
    for (int part = 0; part < 4; ++part) {
      EXPECT_LE(MaxError(whole[part], wanted[part]), 1e-6)
          << part << ", head_dim " << inputs.head_dim;
    }
    for (const Cut& cut : kCuts) {
      for (const bool has_ended : {false, true}) {
        const auto results = run.Run(cut, has_ended);
        for (int part = 0; part < 4; ++part) {
          EXPECT_EQ(Bits(results[part]), Bits(whole[part])) << part;
        }
      }
    }
  }
}

TEST_P(ConvOpsTest, LearnerInputsOfManyRowsAreThoseOfFew) {
  constexpr int kMany = 1500;
  for (const bool is_aligned : {true, false}) {
    LearnerInputsRun run(*backend_, {2, 64, 16, 4, true, is_aligned, kMany});
    const auto whole = run.Run({{kMany, kMany}});
    const auto wanted = run.Wanted();
    for (const bool has_ended : {false, true}) {
      const auto in_few =
          run.Run({{700, 2}, {1, 1}, {2, 3}, {797, 1494}}, has_ended);
      for (int part = 0; part < 4; ++part) {
        EXPECT_LE(MaxError(whole[part], wanted[part]), 1e-6) << part;
        EXPECT_EQ(Bits(in_few[part]), Bits(whole[part])) << part;
      }
    }
  }
}

TEST_P(ConvOpsTest, LearnerInputsKnowTheirPlaceAtAnyPosition) {
  for (const int mini_batch : {1, 5, 12, 16}) {
    for (const bool is_aligned : {true, false}) {
      LearnerInputsRun run(*backend_, {1, 32, mini_batch, 4, true, is_aligned});
      const auto wanted = run.Run(kCuts[1]);
      for (const int64_t mini_batches :
           {int64_t{1}, int64_t{400'000'000}, int64_t{858'993'459},
            int64_t{7'000'000'000}, int64_t{123'456'789'012'345}}) {
        run.first_position = mini_batches * mini_batch;
        const auto results = run.Run(kCuts[1]);
        for (int part = 0; part < 4; ++part) {
          EXPECT_EQ(Bits(results[part]), Bits(wanted[part]))
              << mini_batch << " * " << mini_batches << ", part " << part;
        }
      }
    }
  }
}

// LearnerInputs of sequences of counts[i] rows: those of `some` are as alone.
void ExpectInputsApart(Backend& backend, int32_t num_heads,
                       const std::vector<int32_t>& counts,
                       const std::vector<int>& some) {
  constexpr int32_t kKernel = 4;
  constexpr int32_t kHeadDim = 64;
  constexpr int32_t kMiniBatch = 16;
  const int32_t width = num_heads * kHeadDim;
  const int32_t stride = (2 * width + num_heads + 3) / 4 * 4;
  const int32_t tail_size = (kKernel - 1) * width;
  const int32_t num_sequences = int32_t(counts.size());
  std::vector<SequenceRows> sequences;
  int32_t num_rows = 0;
  for (int i = 0; i < num_sequences; ++i) {
    sequences.push_back({num_rows, counts[i], num_sequences - 1 - i, 5 + i});
    num_rows += counts[i];
  }
  const Floats all = Random(num_rows * stride, 1);
  const Floats tails = Random(num_sequences * tail_size, 2);
  Array<float> wq(backend, Random(kKernel * width, 3));
  Array<float> wk(backend, Random(kKernel * width, 4));
  Array<float> bq(backend, Random(width, 5)), bk(backend, Random(width, 6));
  Array<float> rate_bias(backend, Random(num_heads, 7));
  Array<float> rope(backend, Random(kMiniBatch * kHeadDim, 8));
  // queries, keys, targets, rates and tails after a step.
  const auto run = [&](const std::vector<SequenceRows>& step_sequences,
                       const Floats& input) {
    StepArrays step(backend, step_sequences);
    const size_t rows = input.size() / stride;
    Array<float> projections(backend, input), tail(backend, tails);
    const Floats empty(rows * width, NAN);
    RowArray q(backend, empty), k(backend, empty), t(backend, empty);
    Array<float> rates(backend, Floats(rows * num_heads, NAN));
    EXPECT_THAT(backend.LearnerInputs({.rows = step.rows(),
                                       .projections = projections.data(),
                                       .row_stride = stride,
                                       .query_offset = 0,
                                       .key_offset = 0,
                                       .value_offset = width,
                                       .rate_offset = 2 * width,
                                       .conv_q_weight = wq.data(),
                                       .conv_q_bias = bq.data(),
                                       .conv_k_weight = wk.data(),
                                       .conv_k_bias = bk.data(),
                                       .tail = tail.Plane(num_sequences),
                                       .rate_bias = rate_bias.data(),
                                       .rope = rope.data(),
                                       .queries = q.operand(),
                                       .keys = k.operand(),
                                       .targets = t.operand(),
                                       .rates = rates.data(),
                                       .num_heads = num_heads,
                                       .head_dim = kHeadDim,
                                       .mini_batch = kMiniBatch,
                                       .kernel = kKernel,
                                       .base_lr = kBaseLr}),
                IsOk());
    return std::array<Floats, 5>{q.Read(), k.Read(), t.Read(), rates.Read(),
                                 tail.Read()};
  };
  const auto together = run(sequences, all);
  for (const int i : some) {
    SequenceRows alone = sequences[i];
    const int64_t first = alone.first_row;
    const int64_t rows = alone.num_rows;
    const int64_t slot = int64_t{alone.slot} * tail_size;
    if (rows == 0) {
      EXPECT_EQ(Part(together[4], slot, tail_size),
                Part(tails, slot, tail_size))
          << i;
      continue;
    }
    alone.first_row = 0;
    const auto wanted = run({alone}, Part(all, first * stride, rows * stride));
    for (int part = 0; part < 4; ++part) {
      const int64_t size = part == 3 ? num_heads : width;
      EXPECT_EQ(Bits(Part(together[part], first * size, rows * size)),
                Bits(wanted[part]))
          << i << ", part " << part;
    }
    EXPECT_EQ(Bits(Part(together[4], slot, tail_size)),
              Bits(Part(wanted[4], slot, tail_size)))
        << i;
  }
}

TEST_P(ConvOpsTest, LearnerInputsKeepSequencesOfARowApart) {
  for (const int32_t num_heads : {3, 32}) {
    for (const int num_sequences : {132, 133, 134, 256, 263}) {
      std::vector<int32_t> counts(num_sequences, 1);
      ExpectInputsApart(*backend_, num_heads, counts,
                        {0, 1, 2, 77, 131, num_sequences - 1});
      counts[2] = 0;
      counts[5] = counts[6] = counts[90] = 2;
      counts[110] = 5;
      ExpectInputsApart(
          *backend_, num_heads, counts,
          {0, 1, 2, 3, 4, 5, 6, 7, 8, 89, 90, 91, 109, 110, 111, 131});
    }
  }
}

// As few as reach each form of a GPU's kernels: for its checkers of memory and
// barriers, scripts/sanitize_gpu. Of 528 rows a block has two or more.
TEST_P(ConvOpsTest, SmallestOfEachForm) {
  constexpr int kFew = 3;
  constexpr int kMany = 264;
  for (const auto& [width, kernel, num_tokens] :
       {std::array<int, 3>{8, 4, kFew}, {5, 3, kFew}, {8, 4, kMany}}) {
    ConvNormRun run(*backend_, width, kernel, num_tokens);
    EXPECT_LE(MaxError(run.Run({{num_tokens, num_tokens}}).output,
                       run.Wanted().output),
              1e-5);
  }
  // A block of a GPU has two sequences.
  const std::vector<int32_t> counts(134, 1);
  ExpectSequencesApart(*backend_, 8, counts, {0, 133});
  ExpectInputsApart(*backend_, 1, counts, {0, 133});
  for (const InputsCase& inputs :
       {InputsCase{1, 32, 2, 4, true, false, kFew},
        InputsCase{1, 32, 2, 4, true, true, kFew},
        InputsCase{1, 32, 2, 4, false, true, kFew},
        InputsCase{1, 32, 2, 4, true, true, kMany}}) {
    LearnerInputsRun run(*backend_, inputs);
    const auto wanted = run.Wanted();
    const auto results = run.Run({{inputs.num_tokens, inputs.num_tokens}});
    for (int part = 0; part < 4; ++part) {
      EXPECT_LE(MaxError(results[part], wanted[part]), 1e-6) << part;
    }
  }
}

// On a backend of whatever rows: those of float32, rounded at the end.
TEST(LearnerInputsTest, OfBFloat16PrecisionAreRoundedAtTheEnd) {
  std::vector<BackendKind> kinds = {BackendKind::kReference};
  if (HasCuda()) kinds.push_back(BackendKind::kCuda);
  for (const BackendKind kind : kinds) {
    const auto exact = MakeBackend(kind);
    const auto rounded = MakeBackend(kind, Precision::kBFloat16);
    const bool rounds = rounded->state_forms().rows == DType::kBFloat16;
    for (const bool is_aligned : {true, false}) {
      const InputsCase inputs = {2, 64, 16, 4, true, is_aligned};
      auto wanted = LearnerInputsRun(*exact, inputs).Run(kCuts[1]);
      const auto results = LearnerInputsRun(*rounded, inputs).Run(kCuts[1]);
      for (int part = 0; part < 4; ++part) {
        if (rounds && part < 3) {
          wanted[part] = ToFloats(ToBFloat16(wanted[part]));
        }
        EXPECT_EQ(Bits(results[part]), Bits(wanted[part])) << part;
      }
    }
  }
}

TEST_P(ConvOpsTest, ARateLogitThatIsNotANumberGivesARateThatIsNone) {
  LearnerInputsRun run(*backend_, {2, 32, 16, 4, false, true});
  run.rate_bias[1] = NAN;
  const Floats rates = run.Run(kCuts[0])[3];
  EXPECT_TRUE(std::isfinite(rates[0]));
  EXPECT_TRUE(std::isnan(rates[1]));
}

INSTANTIATE_TEST_SUITE_P(Backends, ConvOpsTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

}  // namespace
}  // namespace ttt
