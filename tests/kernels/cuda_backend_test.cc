#include "kernels/cuda/cuda_backend.h"

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using testing::AnyOf;

TEST(CudaBackendTest, SaysWhyThereIsNone) {
  EXPECT_THAT(CreateCudaBackend(0, Precision::kBFloat16),
              AnyOf(StatusIs(absl::StatusCode::kUnimplemented),
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

}  // namespace
}  // namespace ttt
