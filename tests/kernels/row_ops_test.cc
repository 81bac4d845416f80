// RmsNorm, NormGate and SwiGlu against double precision, and their rows alone.
#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

// One of the ops on rows of `size` channels.
enum class RowOp { kRmsNorm, kNorm, kNormGate, kSwiGlu };
constexpr RowOp kRowOps[] = {RowOp::kRmsNorm, RowOp::kNorm, RowOp::kNormGate,
                             RowOp::kSwiGlu};
constexpr float kEpsilon = 1e-3f;  // Large enough to be seen.

// Inputs of a row: kSwiGlu has gate and up, kNormGate a gate further on.
int64_t InputSize(RowOp op, int32_t size) {
  return op == RowOp::kSwiGlu ? 2 * size : size;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Gelu(double x) {
  return x * Sigmoid(2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
}

std::vector<double> Wanted(RowOp op, const Floats& x, const Floats& weight,
                           const Floats& bias, const Floats& gate) {
  const size_t size = weight.size();
  std::vector<double> y(size);
  double mean = 0, squares = 0, variance = 0;
  for (size_t c = 0; c < size; ++c) mean += x[c] / double(size);
  for (size_t c = 0; c < size; ++c) {
    squares += double(x[c]) * x[c] / size;
    variance += (x[c] - mean) * (x[c] - mean) / size;
  }
  for (size_t c = 0; c < size; ++c) {
    const double normed =
        weight[c] * (x[c] - mean) / std::sqrt(variance + 1e-6) + bias[c];
    switch (op) {
      case RowOp::kRmsNorm:
        y[c] = weight[c] * x[c] / std::sqrt(squares + kEpsilon);
        break;
      case RowOp::kNorm:
        y[c] = normed;
        break;
      case RowOp::kNormGate:
        y[c] = normed * Gelu(gate[c]);
        break;
      case RowOp::kSwiGlu:
        y[c] = x[c] * Sigmoid(x[c]) * x[size + c];
        break;
    }
  }
  return y;
}

class RowOpsTest : public testing::TestWithParam<BackendKind> {
 protected:
  // The op on input [num_rows, InputSize], with a gate of stride 2 * size.
  template <typename T>
  std::vector<T> Run(RowOp op, int32_t size, const Floats& input,
                     const Floats& gate) {
    const std::unique_ptr<Backend> backend = MakeBackend(GetParam());
    const int32_t num_rows = int32_t(input.size() / InputSize(op, size));
    Array<float> x(*backend, input);
    Array<float> w(*backend, Weight(size));
    Array<float> b(*backend, Bias(size));
    Array<float> g(*backend, gate);
    Array<T> y(*backend, std::vector<T>(size_t(num_rows) * size + 1));
    const Operand output = {
        y.data(), sizeof(T) == 4 ? DType::kFloat32 : DType::kBFloat16};
    absl::Status status;
    if (op == RowOp::kRmsNorm) {
      status = backend->RmsNorm({.input = x.data(),
                                 .weight = w.data(),
                                 .output = output,
                                 .num_rows = num_rows,
                                 .hidden_size = size,
                                 .epsilon = kEpsilon});
    } else if (op == RowOp::kSwiGlu) {
      status = backend->SwiGlu({.gate_up = x.data(),
                                .output = output,
                                .num_rows = num_rows,
                                .inner = size});
    } else {
      status = backend->NormGate(
          {.input = x.data(),
           .weight = w.data(),
           .bias = b.data(),
           .gate = op == RowOp::kNormGate ? g.data() : nullptr,
           .gate_stride = 2 * size,
           .output = output,
           .num_rows = num_rows,
           .hidden_size = size});
    }
    EXPECT_THAT(status, IsOk());
    std::vector<T> values = y.Read();
    EXPECT_EQ(values.back(), T{}) << "wrote past the end";
    values.pop_back();
    return values;
  }

  static Floats Weight(int32_t size) { return Random(size, 1, 0.5f, 1.5f); }
  static Floats Bias(int32_t size) { return Random(size, 2); }
};

TEST_P(RowOpsTest, EqualTheFormulas) {
  for (const RowOp op : kRowOps) {
    // Rows that a GPU keeps whole, and some that it cannot.
    for (const int32_t size : {1, 15, 40, 96, 128, 344, 768, 1024, 1030, 1536,
                               2048, 2100, 4096, 4100}) {
      for (const int num_rows : {1, 5, 33}) {
        const int64_t width = InputSize(op, size);
        const Floats input = Random(num_rows * width, 3, -8.0f, 12.0f);
        const Floats gate = Random(num_rows * 2 * size, 4, -6.0f, 6.0f);
        const Floats output = Run<float>(op, size, input, gate);
        // A sum may be of one term after the other.
        const double tolerance = size <= 1024 ? 5e-6 : 1e-5;
        for (int row = 0; row < num_rows; ++row) {
          ASSERT_LE(
              MaxError(Part(output, row * size, size),
                       Wanted(op, Part(input, row * width, width), Weight(size),
                              Bias(size), Part(gate, row * 2 * size, size))),
              tolerance)
              << int(op) << ", size " << size << ", row " << row;
        }
      }
    }
  }
}

// As few as reach each form of a GPU's kernels: for its checkers of memory and
// barriers, scripts/sanitize_gpu.
TEST_P(RowOpsTest, SmallestOfEachForm) {
  for (const RowOp op : kRowOps) {
    for (const int32_t size : {15, 128, 1536, 2048, 3072}) {
      const Floats input = Random(InputSize(op, size), 3, -8.0f, 12.0f);
      const Floats gate = Random(2 * size, 4, -6.0f, 6.0f);
      EXPECT_LE(MaxError(Run<float>(op, size, input, gate),
                         Wanted(op, input, Weight(size), Bias(size),
                                Part(gate, 0, size))),
                1e-5)
          << int(op) << ", size " << size;
    }
  }
}

TEST_P(RowOpsTest, NormaliseSmallRowsWithTheirEpsilon) {
  constexpr int32_t kSize = 96;
  const Floats gate = Random(2 * kSize, 4);
  for (const auto& [op, scale] :
       {std::pair(RowOp::kRmsNorm, 0.03f), {RowOp::kNorm, 1e-3f}}) {
    const Floats input = Random(kSize, 3, -scale, scale);
    EXPECT_LE(MaxError(Run<float>(op, kSize, input, gate),
                       Wanted(op, input, Weight(kSize), Bias(kSize), gate)),
              5e-6)
        << int(op);
  }
}

TEST_P(RowOpsTest, RoundToBFloat16AtTheEnd) {
  for (const RowOp op : kRowOps) {
    for (const int32_t size : {40, 77, 256}) {
      const Floats input = Random(7 * InputSize(op, size), 3, -4.0f, 4.0f);
      const Floats gate = Random(7 * 2 * size, 4);
      EXPECT_EQ(Run<uint16_t>(op, size, input, gate),
                ToBFloat16(Run<float>(op, size, input, gate)));
    }
  }
}

TEST_P(RowOpsTest, KeepANaNInItsRow) {
  for (const RowOp op : kRowOps) {
    constexpr int32_t kSize = 256;
    const int64_t width = InputSize(op, kSize);
    Floats input = Random(3 * width, 3);
    const Floats gate = Random(3 * 2 * kSize, 4);
    const Floats sound = Run<float>(op, kSize, input, gate);
    input[width + 3] = NAN;
    const Floats output = Run<float>(op, kSize, input, gate);
    EXPECT_TRUE(std::isnan(output[kSize + 3])) << int(op);
    EXPECT_TRUE(std::isnan(
        BFloat16ToFloat(Run<uint16_t>(op, kSize, input, gate)[kSize + 3])));
    EXPECT_EQ(Bits(Part(output, 0, kSize)), Bits(Part(sound, 0, kSize)));
    EXPECT_EQ(Bits(Part(output, 2 * kSize, kSize)),
              Bits(Part(sound, 2 * kSize, kSize)));
  }
}

TEST_P(RowOpsTest, HaveTheSameBitsInEveryRow) {
  for (const RowOp op : kRowOps) {
    for (const int32_t size : {344, 768, 1024, 1536, 2048}) {
      const int64_t width = InputSize(op, size);
      const Floats row = Random(width, 3);
      const Floats gate_row = Random(2 * size, 4);
      Floats input, gate;
      for (int i = 0; i < 70; ++i) {
        input.insert(input.end(), row.begin(), row.end());
        gate.insert(gate.end(), gate_row.begin(), gate_row.end());
      }
      const auto wanted = Bits(Run<float>(op, size, row, gate_row));
      const Floats output = Run<float>(op, size, input, gate);
      for (int i = 0; i < 70; ++i) {
        ASSERT_EQ(Bits(Part(output, i * size, size)), wanted) << i;
      }
    }
  }
}

TEST_P(RowOpsTest, SaturateFarFromZero) {
  Floats input = {1e4f, -1e4f, 100.0f, -100.0f, 0.0f, -0.0f, 1e30f, -1e30f};
  const Floats ups(input.size(), 1.0f);
  Floats wanted = {1e4f, 0.0f, 100.0f, 0.0f, 0.0f, 0.0f, 1e30f, 0.0f};
  input.insert(input.end(), ups.begin(), ups.end());
  const Floats output = Run<float>(RowOp::kSwiGlu, 8, input, input);
  for (size_t i = 0; i < wanted.size() - 1; ++i) {
    EXPECT_NEAR(output[i], wanted[i], 1e-6 * std::abs(wanted[i]) + 1e-30);
  }
  EXPECT_TRUE(std::isfinite(output[7]));
}

INSTANTIATE_TEST_SUITE_P(Backends, RowOpsTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

}  // namespace
}  // namespace ttt
