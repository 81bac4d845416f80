// Gemm: right, and each row's bits the same whatever is around it.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

struct GemmCase {
  BackendKind kind;
  Precision precision;
};

std::vector<GemmCase> GemmCases() {
  std::vector<GemmCase> cases = {
      {BackendKind::kReference, Precision::kFloat32},
      {BackendKind::kReference, Precision::kBFloat16},
      {FastBackendKinds().back(), Precision::kFloat32}};
  if (CpuHasBFloat16()) {
    cases.push_back({BackendKind::kAvx512, Precision::kBFloat16});
  }
  if (HasCuda()) {
    cases.push_back({BackendKind::kCuda, Precision::kFloat32});
    cases.push_back({BackendKind::kCuda, Precision::kBFloat16});
  }
  return cases;
}

std::string GemmCaseName(const testing::TestParamInfo<GemmCase>& info) {
  const BackendKind kind = info.param.kind;
  return std::string(kind == BackendKind::kReference ? "Reference"
                     : kind == BackendKind::kCuda    ? "Cuda"
                                                     : "Fast") +
         (info.param.precision == Precision::kFloat32 ? "Float32" : "BFloat16");
}

struct Shape {
  int32_t num_outputs;
  int32_t num_inputs;
};

// Across slabs, within one, odd everywhere, and as small models have them.
constexpr Shape kShapes[] = {{300, 192}, {128, 64}, {12, 96},   {1, 1},
                             {77, 40},   {40, 344}, {160, 2048}};

class GemmTest : public testing::TestWithParam<GemmCase> {
 protected:
  GemmTest() : backend_(Make(2)) {}

  static std::unique_ptr<Backend> Make(int32_t num_threads) {
    return MakeBackend(GetParam().kind, GetParam().precision, num_threads);
  }
  bool is_float() const { return GetParam().precision == Precision::kFloat32; }
  // What the backend makes of values.
  Floats Round(const Floats& values) const {
    return is_float() ? values : ToFloats(ToBFloat16(values));
  }

  // input [num_rows, num_inputs] times weights^T, onto `output`.
  Floats Multiply(Backend& backend, const GemmWeights& weights,
                  const Floats& input, Floats output, bool accumulate,
                  int64_t stride) {
    const int32_t num_rows = int32_t(input.size() / weights.num_inputs());
    Array<float> floats(backend, input);
    Array<uint16_t> halves(backend, ToBFloat16(input));
    Array<float> out(backend, std::move(output));
    EXPECT_THAT(
        backend.Gemm({.input = {is_float() ? static_cast<void*>(floats.data())
                                           : halves.data(),
                                backend.operand_type()},
                      .weights = &weights,
                      .output = out.data(),
                      .output_stride = stride,
                      .num_rows = num_rows,
                      .accumulate = accumulate}),
        IsOk());
    return out.Read();
  }
  Floats Multiply(Backend& backend, const GemmWeights& weights,
                  const Floats& input) {
    const int32_t num_outputs = weights.num_outputs();
    return Multiply(backend, weights, input,
                    Floats(input.size() / weights.num_inputs() * num_outputs),
                    false, num_outputs);
  }

  // And that these are near the product.
  void ExpectRowsHaveTheBitsOfOneRow(const Shape& shape,
                                     const std::vector<int>& row_counts);
  // Is near the product.
  void ExpectProduct(const Shape& shape, int32_t num_rows);
  // GemmSwiGlu has the bits of Gemm and then SwiGlu.
  void ExpectGated(const Shape& shape, int32_t num_rows);

  const std::unique_ptr<Backend> backend_;
};

TEST_P(GemmTest, MultipliesByTheTransposedWeights) {
  for (const Shape& shape : kShapes) {
    const Floats weights =
        Random(size_t(shape.num_outputs) * shape.num_inputs, 1);
    const auto packed =
        backend_
            ->PackWeights(weights.data(), shape.num_outputs, shape.num_inputs)
            .value();
    EXPECT_EQ(packed->num_outputs(), shape.num_outputs);
    EXPECT_EQ(packed->num_inputs(), shape.num_inputs);
    EXPECT_GE(packed->bytes(), int64_t(weights.size() * (is_float() ? 4 : 2)));
    const int num_rows = 21;
    const Floats input = Random(size_t(num_rows) * shape.num_inputs, 2);
    const Floats w = Round(weights);
    const Floats x = Round(input);
    std::vector<double> wanted;
    for (int row = 0; row < num_rows; ++row) {
      for (int n = 0; n < shape.num_outputs; ++n) {
        double sum = 0.0;
        for (int k = 0; k < shape.num_inputs; ++k) {
          sum += double(x[row * shape.num_inputs + k]) *
                 w[n * shape.num_inputs + k];
        }
        wanted.push_back(sum);
      }
    }
    EXPECT_LE(MaxError(Multiply(*backend_, *packed, input), wanted), 1e-4)
        << shape.num_outputs << " x " << shape.num_inputs;
  }
}

TEST_P(GemmTest, AddsToTheOutputAndLeavesWhatIsBetweenItsRows) {
  struct Product {
    Shape shape;
    int num_rows;
    int gap;  // between rows of the output
  };
  std::vector<Product> products = {{{140, 64}, 5, 10}, {{77, 40}, 3, 1}};
  if (GetParam().kind == BackendKind::kCuda) {
    // Each of its forms, with outputs in fours, in pairs and one by one.
    for (const Shape& shape :
         {Shape{77, 64}, Shape{1000, 1344}, Shape{2907, 520}, Shape{4240, 600},
          Shape{4243, 72}, Shape{7003, 72}}) {
      for (const int num_rows : {1, 20, 50, 100, 129, 200, 256, 300, 700}) {
        for (const int gap : {0, 3, 4}) {
          products.push_back({shape, num_rows, gap});
        }
      }
    }
  }
  for (const auto& [shape, num_rows, gap] : products) {
    const Floats weights =
        Random(size_t(shape.num_outputs) * shape.num_inputs, 1);
    const auto packed =
        backend_
            ->PackWeights(weights.data(), shape.num_outputs, shape.num_inputs)
            .value();
    const Floats input = Random(size_t(num_rows) * shape.num_inputs, 2);
    const Floats product = Multiply(*backend_, *packed, input);
    const int stride = shape.num_outputs + gap;
    const Floats before = Random(size_t(num_rows) * stride, 3);
    Floats added = before;
    Floats written = before;
    for (int row = 0; row < num_rows; ++row) {
      for (int n = 0; n < shape.num_outputs; ++n) {
        added[row * stride + n] += product[row * shape.num_outputs + n];
        written[row * stride + n] = product[row * shape.num_outputs + n];
      }
    }
    for (const bool accumulate : {false, true}) {
      ASSERT_EQ(
          Bits(Multiply(*backend_, *packed, input, before, accumulate, stride)),
          Bits(accumulate ? added : written))
          << num_rows << " rows, " << shape.num_outputs << " x "
          << shape.num_inputs << " and " << gap;
    }
  }
}

TEST_P(GemmTest, RowsHaveTheSameBitsForEveryNumberOfRowsAndThreads) {
  constexpr int kMaxRows = 70;
  // The reference has one thread whatever it is asked for.
  const std::vector<int> thread_counts =
      GetParam().kind == BackendKind::kReference ? std::vector<int>{1}
                                                 : std::vector<int>{1, 2, 3};
  for (const Shape& shape : {kShapes[0], kShapes[4], kShapes[6]}) {
    const Floats weights =
        Random(size_t(shape.num_outputs) * shape.num_inputs, 1);
    const Floats input = Random(size_t(kMaxRows) * shape.num_inputs, 2);
    Floats wanted;  // row by row
    for (const int num_threads : thread_counts) {
      const std::unique_ptr<Backend> backend = Make(num_threads);
      const auto packed =
          backend
              ->PackWeights(weights.data(), shape.num_outputs, shape.num_inputs)
              .value();
      if (wanted.empty()) {
        for (int row = 0; row < kMaxRows; ++row) {
          const Floats one =
              Multiply(*backend, *packed,
                       Part(input, row * shape.num_inputs, shape.num_inputs));
          wanted.insert(wanted.end(), one.begin(), one.end());
        }
      }
      for (int num_rows = 1; num_rows <= kMaxRows; ++num_rows) {
        const Floats output =
            Multiply(*backend, *packed,
                     Part(input, 0, size_t(num_rows) * shape.num_inputs));
        ASSERT_EQ(Bits(output),
                  Bits(Part(wanted, 0, size_t(num_rows) * shape.num_outputs)))
            << num_rows << " rows, " << num_threads << " threads";
      }
    }
  }
}

// Across every form that a backend chooses by the number of rows and the shape.
TEST_P(GemmTest, RowsOfLargeProductsHaveTheBitsOfOneRow) {
  if (GetParam().kind == BackendKind::kReference) return;  // It has one form.
  ExpectRowsHaveTheBitsOfOneRow({2080, 344}, {16, 20, 33, 100, 250, 1000});
}

TEST_P(GemmTest, RowsOfEveryFormHaveTheBitsOfOneRow) {
  if (GetParam().kind != BackendKind::kCuda) return;
  const std::vector<int> rows = {1,   2,   8,   9,   15,  16,  17,  31,  32,
                                 33,  48,  63,  64,  65,  96,  127, 128, 129,
                                 200, 255, 256, 257, 300, 384, 513, 800, 2500};
  for (const Shape& shape :
       {Shape{16, 64}, Shape{8, 512}, Shape{96, 1344}, Shape{768, 768},
        Shape{2048, 1032}, Shape{2048, 4168}, Shape{2080, 600},
        Shape{4096, 520}, Shape{4099, 520}, Shape{6176, 2048}, Shape{12000, 72},
        Shape{34000, 72}}) {
    ExpectRowsHaveTheBitsOfOneRow(shape, rows);
  }
}

// As many as a server can be told to read in a step.
TEST_P(GemmTest, RowsOfTheLargestStepsHaveTheBitsOfOneRow) {
  if (GetParam().kind != BackendKind::kCuda || is_float()) return;
  ExpectRowsHaveTheBitsOfOneRow({200, 136}, {32768});
}

// Where all rows are those of one cluster, the tiles have the width that fills
// the GPU: of each width, of two for a block, and in cut matrices.
TEST_P(GemmTest, RowsOfOneClusterHaveTheBitsOfOneRow) {
  if (GetParam().kind != BackendKind::kCuda) return;
  for (const Shape& shape :
       {Shape{4100, 200}, Shape{6176, 2048}, Shape{8000, 136}, Shape{11008, 72},
        Shape{12003, 72}, Shape{16100, 72}, Shape{16640, 72}, Shape{17000, 136},
        Shape{2048, 2048}, Shape{1999, 1376}, Shape{3001, 520},
        Shape{4096, 584}}) {
    ExpectRowsHaveTheBitsOfOneRow(
        shape, {128, 129, 130, 160, 191, 192, 193, 255, 256, 257});
  }
}

// Few enough for the checkers of a GPU's memory and barriers, which take a
// thousand times as long: scripts/sanitize_gpu. Which form a product takes goes
// by its outputs a multiprocessor, of which a GPU is expected to have 120 to
// 132, in as many fours of blocks.
TEST_P(GemmTest, SmallestOfEachForm) {
  ExpectProduct({12, 41}, 3);
  ExpectGated({2 * 24, 64}, 1);
  if (GetParam().kind != BackendKind::kCuda || is_float()) return;
  constexpr int32_t kStrip = 16;
  constexpr int32_t kCut = 512;  // inputs that are cut
  for (const int32_t strips : {2, 3, 4, 6, 8}) {
    for (const int32_t num_rows : {1, 33, 65}) {
      ExpectProduct({strips * kStrip * 124, 8}, num_rows);
    }
    for (const int32_t num_rows : {1, 33, 65}) {
      ExpectProduct({strips * kStrip * 30, kCut}, num_rows);
    }
  }
  for (const int32_t num_rows : {33, 65}) {  // Nine strips on 29 to 31.
    ExpectProduct({4096, kCut}, num_rows);
  }
  for (const int32_t strips : {4, 6, 7, 8, 11, 12, 16}) {
    ExpectProduct({strips * kStrip * 62, 8}, 129);
  }
  for (const int32_t strips : {2, 3, 4, 6, 8, 9}) {
    ExpectProduct({strips * kStrip * 14, kCut}, 129);
  }
  for (const int32_t strips : {3, 4}) {
    ExpectProduct({strips * kStrip * 62, kCut}, 129);
  }
  for (const int32_t num_rows : {33, 65, 129}) {
    ExpectGated({4096, kCut}, num_rows);
  }
  ExpectProduct({12 * kStrip * 124, 8}, 1);
  for (const int32_t num_rows : {9, 17}) {
    ExpectProduct({3 * kStrip * 124, 8}, num_rows);
    ExpectProduct({kStrip * 30, kCut}, num_rows);
  }
  ExpectProduct({16 * kStrip * 124, 8}, 33);
  // More inputs than are on their way at a time.
  ExpectProduct({16 * kStrip * 124, 600}, 1);
  ExpectProduct({8 * kStrip * 124, 1000}, 17);
  ExpectProduct({kStrip * 30, 2048}, 9);
  ExpectProduct({11 * kStrip * 62, 488}, 129);
  ExpectProduct({8 * kStrip * 14, 2048}, 129);
  for (const int32_t num_rows : {33, 65, 129}) {
    ExpectProduct({kStrip, 5504}, num_rows);
  }
  // Two tiles a block.
  ExpectProduct({16 * kStrip * 65, 72}, 129);
  ExpectProduct({11 * kStrip * 97, 72}, 129);
  for (const int32_t strips : {20, 180, 320, 450}) {
    ExpectProduct({strips * kStrip, 8}, 257);
  }
  for (const int32_t strips : {20, 130, 220}) {
    ExpectProduct({strips * kStrip, kCut}, 513);
  }
  for (const int32_t num_rows : {1, 9, 17, 33, 129, 257}) {
    ExpectGated({2 * 24, 64}, num_rows);
    ExpectGated({2 * 24, kCut}, num_rows);
  }
  // Strips in fours, also where some are beyond the matrix.
  ExpectGated({2 * 1000, 8}, 700);
  ExpectGated({2 * 5480, 8}, 700);
  ExpectGated({2 * 2736, 8}, 129);
  // Onto what is there, in fours and one by one.
  for (const int32_t num_outputs : {1000, 1001}) {
    const Floats weights = Random(size_t(num_outputs) * 8, 1);
    const auto packed =
        backend_->PackWeights(weights.data(), num_outputs, 8).value();
    const Floats input = Random(129 * 8, 2);
    const Floats product = Multiply(*backend_, *packed, input);
    Floats doubled = product;
    for (float& sum : doubled) sum += sum;
    EXPECT_EQ(
        Bits(Multiply(*backend_, *packed, input, product, true, num_outputs)),
        Bits(doubled));
  }
}

void GemmTest::ExpectProduct(const Shape& shape, int32_t num_rows) {
  const int32_t num_outputs = shape.num_outputs;
  const int32_t num_inputs = shape.num_inputs;
  const Floats weights = Random(size_t(num_outputs) * num_inputs, 1);
  const auto packed =
      backend_->PackWeights(weights.data(), num_outputs, num_inputs).value();
  const Floats input = Random(size_t(num_rows) * num_inputs, 2);
  const Floats output = Multiply(*backend_, *packed, input);
  const Floats w = Round(weights);
  const Floats x = Round(input);
  for (const int32_t row : {0, num_rows / 2, num_rows - 1}) {
    std::vector<double> wanted;
    for (int32_t n = 0; n < num_outputs; ++n) {
      double sum = 0.0;
      for (int32_t k = 0; k < num_inputs; ++k) {
        sum += double(x[row * num_inputs + k]) * w[n * num_inputs + k];
      }
      wanted.push_back(sum);
    }
    EXPECT_LE(
        MaxError(Part(output, size_t(row) * num_outputs, num_outputs), wanted),
        1e-4)
        << "row " << row << " of " << num_rows << ", " << num_outputs << " x "
        << num_inputs;
  }
}

void GemmTest::ExpectRowsHaveTheBitsOfOneRow(
    const Shape& shape, const std::vector<int>& row_counts) {
  const int32_t num_outputs = shape.num_outputs;
  const int32_t num_inputs = shape.num_inputs;
  const Floats weights = Random(size_t(num_outputs) * num_inputs, 1);
  const auto packed =
      backend_->PackWeights(weights.data(), num_outputs, num_inputs).value();
  const int most = *std::max_element(row_counts.begin(), row_counts.end());
  const Floats input = Random(size_t(most) * num_inputs, 2);
  const Floats w = Round(weights);
  const Floats x = Round(input);
  std::map<int, Floats> rows;  // alone
  const auto one_row = [&](int row) {
    if (const auto known = rows.find(row); known != rows.end()) {
      return Bits(known->second);
    }
    const Floats alone =
        Multiply(*backend_, *packed, Part(input, row * num_inputs, num_inputs));
    std::vector<double> wanted;
    for (int n = 0; n < num_outputs; ++n) {
      double sum = 0.0;
      for (int k = 0; k < num_inputs; ++k) {
        sum += double(x[row * num_inputs + k]) * w[n * num_inputs + k];
      }
      wanted.push_back(sum);
    }
    EXPECT_LE(MaxError(alone, wanted), 1e-4) << "row " << row;
    return Bits(rows[row] = alone);
  };
  for (const int num_rows : row_counts) {
    const Floats output = Multiply(
        *backend_, *packed, Part(input, 0, size_t(num_rows) * num_inputs));
    for (int row = num_rows - 1; row >= 0; row -= 61) {
      ASSERT_EQ(Bits(Part(output, row * num_outputs, num_outputs)),
                one_row(row))
          << "row " << row << " of " << num_rows << ", " << num_outputs << " x "
          << num_inputs;
    }
  }
}

TEST_P(GemmTest, RowsHaveTheSameBitsAtEveryIndex) {
  const Shape shape = {130, 256};
  constexpr int kRows = 67;
  const Floats weights =
      Random(size_t(shape.num_outputs) * shape.num_inputs, 1);
  const auto packed =
      backend_->PackWeights(weights.data(), shape.num_outputs, shape.num_inputs)
          .value();
  const Floats input = Random(size_t(kRows) * shape.num_inputs, 2);
  const Floats wanted = Multiply(*backend_, *packed, input);
  std::vector<int> order(kRows);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(3));
  Floats shuffled;
  for (const int row : order) {
    const Floats one = Part(input, row * shape.num_inputs, shape.num_inputs);
    shuffled.insert(shuffled.end(), one.begin(), one.end());
  }
  const Floats output = Multiply(*backend_, *packed, shuffled);
  for (int i = 0; i < kRows; ++i) {
    ASSERT_EQ(
        Bits(Part(output, i * shape.num_outputs, shape.num_outputs)),
        Bits(Part(wanted, order[i] * shape.num_outputs, shape.num_outputs)));
  }
}

TEST_P(GemmTest, OneRowThatIsNotFiniteLeavesTheOthersAlone) {
  const Floats weights = Random(64 * 64, 1);
  const auto packed = backend_->PackWeights(weights.data(), 64, 64).value();
  Floats input = Random(20 * 64, 2);
  const Floats wanted = Multiply(*backend_, *packed, input);
  input[7 * 64 + 5] = NAN;
  const Floats output = Multiply(*backend_, *packed, input);
  for (int row = 0; row < 20; ++row) {
    if (row == 7) continue;
    EXPECT_EQ(Bits(Part(output, row * 64, 64)),
              Bits(Part(wanted, row * 64, 64)));
  }
  EXPECT_TRUE(std::isnan(output[7 * 64]));
}

TEST_P(GemmTest, ReadsNothingPastItsInput) {
  // Guard pages are the host's; on a GPU compute-sanitizer watches every read.
  if (GetParam().kind == BackendKind::kCuda) return;
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::byte* const pages =
      static_cast<std::byte*>(mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(pages), MAP_FAILED);
  ASSERT_EQ(mprotect(pages + page, page, PROT_NONE), 0);
  const Floats weights = Random(64 * 64, 1);
  const auto packed = backend_->PackWeights(weights.data(), 64, 64).value();
  Array<float> output(*backend_, Floats(3 * 64));
  for (const int32_t num_rows : {1, 2, 3}) {
    const int64_t bytes = num_rows * 64 * (is_float() ? 4 : 2);
    EXPECT_THAT(backend_->Gemm(
                    {.input = {pages + page - bytes, backend_->operand_type()},
                     .weights = packed.get(),
                     .output = output.data(),
                     .output_stride = 64,
                     .num_rows = num_rows,
                     .accumulate = false}),
                IsOk());
  }
  munmap(pages, 2 * page);
}

TEST_P(GemmTest, GatedProductsHaveTheBitsOfAProductAndThenSwiGlu) {
  // In pairs of eights, and where a backend has to do one after the other.
  std::vector<Shape> shapes = {{2 * 24, 64}, {2 * 20, 64}, {2 * 16, 41}};
  std::vector<int> row_counts = {1, 3};
  if (GetParam().kind == BackendKind::kCuda) {
    shapes.insert(
        shapes.end(),
        {{4096, 768}, {2 * 2736, 1032}, {2 * 1000, 200}, {2 * 5504, 136}});
    row_counts = {0, 1, 16, 17, 33, 64, 100, 128, 129, 200, 256, 257, 700};
  }
  for (const Shape& shape : shapes) {
    for (const int num_rows : row_counts) ExpectGated(shape, num_rows);
  }
}

void GemmTest::ExpectGated(const Shape& shape, int32_t num_rows) {
  const int32_t inner = shape.num_outputs / 2;
  const Floats weights =
      Random(size_t(shape.num_outputs) * shape.num_inputs, 1);
  const auto packed =
      backend_->PackWeights(weights.data(), shape.num_outputs, shape.num_inputs)
          .value();
  const auto gate_up =
      backend_->PackGateUp(weights.data(), shape.num_outputs, shape.num_inputs)
          .value();
  const Floats input = Random(size_t(num_rows) * shape.num_inputs, 2);
  Array<float> sums(*backend_, Multiply(*backend_, *packed, input));
  Array<float> floats(*backend_, input);
  Array<uint16_t> halves(*backend_, ToBFloat16(input));
  Array<float> scratch(*backend_, Floats(sums.size()));
  // As bits of either type.
  const std::vector<uint16_t> nothing(size_t(num_rows) * inner *
                                      (is_float() ? 2 : 1));
  Array<uint16_t> wanted(*backend_, nothing);
  Array<uint16_t> output(*backend_, nothing);
  ASSERT_THAT(
      backend_->SwiGlu({.gate_up = sums.data(),
                        .output = {wanted.data(), backend_->operand_type()},
                        .num_rows = num_rows,
                        .inner = inner}),
      IsOk());
  ASSERT_THAT(backend_->GemmSwiGlu(
                  {.input = {is_float() ? static_cast<void*>(floats.data())
                                        : halves.data(),
                             backend_->operand_type()},
                   .weights = gate_up.get(),
                   .scratch = scratch.data(),
                   .output = {output.data(), backend_->operand_type()},
                   .num_rows = num_rows}),
              IsOk());
  EXPECT_EQ(output.Read(), wanted.Read())
      << num_rows << " rows, " << shape.num_outputs << " x "
      << shape.num_inputs;
}

TEST_P(GemmTest, RefusesWeightsThatItCannotRead) {
  if (GetParam().kind != BackendKind::kCuda || is_float()) return;
  const Floats weights = Random(32 * 64, 1);
  const auto gate_up = backend_->PackGateUp(weights.data(), 32, 64).value();
  Array<float> values(*backend_, Floats(64));
  EXPECT_THAT(backend_->Gemm({.input = {values.data(), DType::kBFloat16},
                              .weights = gate_up.get(),
                              .output = values.data(),
                              .output_stride = 32,
                              .num_rows = 1,
                              .accumulate = false}),
              StatusIs(absl::StatusCode::kInvalidArgument, "of PackGateUp"));
}

TEST_P(GemmTest, DoesNothingForNoRows) {
  const Floats weights = Random(64 * 64, 1);
  const auto packed = backend_->PackWeights(weights.data(), 64, 64).value();
  EXPECT_THAT(Multiply(*backend_, *packed, {}), testing::IsEmpty());
}

TEST_P(GemmTest, RefusesTheWrongOperandAndEmptyWeights) {
  const Floats weights = Random(16 * 16, 1);
  const auto packed = backend_->PackWeights(weights.data(), 16, 16).value();
  Array<float> values(*backend_, Floats(256));
  const GemmArgs args = {
      .input = {values.data(), is_float() ? DType::kBFloat16 : DType::kFloat32},
      .weights = packed.get(),
      .output = values.data(),
      .output_stride = 16,
      .num_rows = 1,
      .accumulate = false};
  EXPECT_THAT(backend_->Gemm(args),
              StatusIs(absl::StatusCode::kInvalidArgument, "input.type"));
  EXPECT_THAT(backend_->PackWeights(weights.data(), 0, 16),
              StatusIs(absl::StatusCode::kInvalidArgument, "num_outputs is 0"));
  EXPECT_THAT(backend_->PackWeights(weights.data(), 16, -1),
              StatusIs(absl::StatusCode::kInvalidArgument, "num_inputs is -1"));
}

INSTANTIATE_TEST_SUITE_P(Backends, GemmTest, testing::ValuesIn(GemmCases()),
                         GemmCaseName);

}  // namespace
}  // namespace ttt
