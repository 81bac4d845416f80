#include "kernels/cpu/cpu_backend.h"

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

TEST(CpuBackendTest, DescribesItself) {
  const auto fast = CreateCpuBackend({.num_threads = 2}).value();
  EXPECT_EQ(fast->info().name, "cpu");
  EXPECT_EQ(fast->info().precision, Precision::kFloat32);
  EXPECT_EQ(fast->operand_type(), DType::kFloat32);
  EXPECT_THAT(fast->info().description, testing::HasSubstr("2 threads"));
}

TEST(CpuBackendTest, FingerprintTellsNumericsApartAndNotThreads) {
  const auto fingerprint = [](const CpuBackendOptions& options) {
    return CreateCpuBackend(options).value()->info().numerics_fingerprint;
  };
  EXPECT_EQ(fingerprint({.num_threads = 1}), fingerprint({.num_threads = 3}));
  EXPECT_NE(fingerprint({}), fingerprint({.reference = true}));
  if (CpuHasBFloat16()) {
    EXPECT_NE(fingerprint({}),
              fingerprint({.precision = Precision::kBFloat16}));
  }
}

TEST(CpuBackendTest, RefusesThreadsOutOfRange) {
  EXPECT_THAT(CreateCpuBackend({.num_threads = -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, "-1"));
  EXPECT_THAT(CreateCpuBackend({.num_threads = 100000}),
              StatusIs(absl::StatusCode::kInvalidArgument, "100000"));
}

TEST(CpuBackendTest, SaysWhetherTheCpuHasBFloat16) {
  const auto backend = CreateCpuBackend({.precision = Precision::kBFloat16});
  if (CpuHasBFloat16()) {
    ASSERT_THAT(backend, IsOk());
    EXPECT_EQ((*backend)->operand_type(), DType::kBFloat16);
  } else {
    EXPECT_THAT(backend, StatusIs(absl::StatusCode::kUnimplemented));
  }
}

TEST(CpuBackendTest, AllocatesZeroedAlignedMemory) {
  const auto backend = CreateCpuBackend({.num_threads = 1}).value();
  for (const int64_t size : {0, 1, 100, 4 << 20, (4 << 20) + 5}) {
    const auto buffer = backend->Allocate(size).value();
    EXPECT_EQ(buffer->size_bytes(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer->data(), buffer->data() + size,
                            [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST(CpuBackendTest, SaysWhenThereIsNotThatMuchMemory) {
  const auto backend = CreateCpuBackend({.num_threads = 1}).value();
  EXPECT_THAT(backend->Allocate(int64_t{1} << 50),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(backend->Allocate(INT64_MAX),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(backend->Allocate(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, "-1"));
}

TEST(CpuBackendTest, CopiesMemory) {
  const auto backend = CreateCpuBackend({.num_threads = 1}).value();
  Array<int32_t> from(*backend, {1, 2, 3});
  Array<int32_t> to(*backend, {0, 0, 0});
  EXPECT_THAT(backend->CopyOnDevice(to.data(), from.data(), 8), IsOk());
  EXPECT_THAT(to.Read(), testing::ElementsAre(1, 2, 0));
  EXPECT_THAT(backend->CopyOnDevice(nullptr, nullptr, 0), IsOk());
  EXPECT_THAT(backend->CopyToHost(nullptr, from.data(), -4),
              StatusIs(absl::StatusCode::kInvalidArgument, "-4"));
}

TEST(CpuBackendTest, RefusesArgsThatAreNotValid) {
  for (const bool reference : {false, true}) {
    const auto backend =
        CreateCpuBackend({.num_threads = 1, .reference = reference}).value();
    LearnerArgs args = {};
    args.num_heads = 1;
    args.head_dim = 6;
    args.mini_batch = 16;
    EXPECT_THAT(
        backend->Learner(args),
        StatusIs(absl::StatusCode::kInvalidArgument, "Learner: head_dim is 6"));
    EXPECT_THAT(backend->RmsNorm({}),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(backend->Gemm({}),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(backend->SampleTokens({}),
                StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(backend->DigestStates({}),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace ttt
