#include "kernels/cuda/cuda_backend.h"

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

TEST(CudaBackendTest, SaysWhyThereIsNone) {
  const auto backend = CreateCudaBackend(0, Precision::kBFloat16);
  if (backend.ok()) {
    EXPECT_EQ((*backend)->info().name, "cuda:0");
    EXPECT_THAT((*backend)->info().description, HasSubstr("multiprocessors"));
    return;
  }
  EXPECT_THAT(backend, AnyOf(StatusIs(absl::StatusCode::kUnimplemented),
                             StatusIs(absl::StatusCode::kUnavailable)));
}

TEST(CudaBackendTest, RefusesADeviceThatCannotBe) {
  EXPECT_THAT(
      CreateCudaBackend(-1, Precision::kBFloat16),
      AnyOf(StatusIs(absl::StatusCode::kUnimplemented),
            StatusIs(absl::StatusCode::kInvalidArgument, "ordinal is -1")));
  EXPECT_THAT(CreateCudaBackend(4096, Precision::kBFloat16),
              AnyOf(StatusIs(absl::StatusCode::kUnimplemented),
                    StatusIs(absl::StatusCode::kUnavailable)));
}

// What follows needs a GPU: one parameter if there is one.
class CudaMemoryTest : public testing::TestWithParam<Precision> {
 protected:
  const std::unique_ptr<Backend> backend_ =
      CreateCudaBackend(0, GetParam()).value();
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CudaMemoryTest);

TEST_P(CudaMemoryTest, IsZeroedAndAligned) {
  const auto buffer = backend_->Allocate(1000).value();
  EXPECT_EQ(buffer->size_bytes(), 1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0);
  std::vector<uint8_t> bytes(1000, 1);
  EXPECT_THAT(backend_->CopyToHost(bytes.data(), buffer->data(), 1000), IsOk());
  EXPECT_THAT(bytes, testing::Each(0));
}

TEST_P(CudaMemoryTest, SaysWhenThereIsNotThatMuchAndGoesOn) {
  EXPECT_THAT(
      backend_->Allocate(int64_t{1} << 50),
      StatusIs(absl::StatusCode::kResourceExhausted, "1125899906842624 bytes"));
  EXPECT_THAT(backend_->Allocate(16), IsOk());
  EXPECT_THAT(backend_->Allocate(-1),
              StatusIs(absl::StatusCode::kInvalidArgument, "is -1"));
}

TEST_P(CudaMemoryTest, CopiesBetweenTheDeviceAndTheHost) {
  Array<float> from(*backend_, Random(300, 1));
  Array<float> to(*backend_, Floats(300));
  EXPECT_THAT(backend_->CopyOnDevice(to.data(), from.data(), 300 * 4), IsOk());
  EXPECT_EQ(to.Read(), Random(300, 1));
  EXPECT_THAT(backend_->CopyOnDevice(to.data(), from.data(), -1),
              StatusIs(absl::StatusCode::kInvalidArgument, "is -1"));
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, CudaMemoryTest,
    testing::ValuesIn(HasCuda() ? std::vector<Precision>{Precision::kBFloat16}
                                : std::vector<Precision>{}));

}  // namespace
}  // namespace ttt
