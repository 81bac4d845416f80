#include "kernels/cuda/cuda_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

TEST(CudaStatusTest, SuccessIsOk) {
  EXPECT_THAT(CudaStatus(cudaSuccess, "Learner"), IsOk());
}

// As no later call succeeds: what holds such a device must start anew.
TEST(CudaStatusTest, StickyErrorsAreUnavailable) {
  for (const cudaError_t error :
       {cudaErrorAssert, cudaErrorContained, cudaErrorECCUncorrectable,
        cudaErrorExternalDevice, cudaErrorHardwareStackError,
        cudaErrorIllegalAddress, cudaErrorIllegalInstruction,
        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc,
        cudaErrorLaunchFailure, cudaErrorLaunchTimeout,
        cudaErrorMisalignedAddress, cudaErrorMpsClientTerminated,
        cudaErrorNvlinkUncorrectable, cudaErrorUnknown}) {
    EXPECT_THAT(CudaStatus(error, "Learner"),
                StatusIs(absl::StatusCode::kUnavailable))
        << cudaGetErrorName(error);
  }
}

TEST(CudaStatusTest, ADeviceThatIsNotThereIsUnavailable) {
  for (const cudaError_t error :
       {cudaErrorDevicesUnavailable, cudaErrorInitializationError,
        cudaErrorInsufficientDriver, cudaErrorInvalidDevice,
        cudaErrorNoDevice}) {
    EXPECT_THAT(CudaStatus(error, "Learner"),
                StatusIs(absl::StatusCode::kUnavailable))
        << cudaGetErrorName(error);
  }
}

TEST(CudaStatusTest, TooLittleMemoryIsResourceExhausted) {
  EXPECT_THAT(CudaStatus(cudaErrorMemoryAllocation, "Allocate"),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(CudaStatusTest, ErrorsOfOneCallAreInternalAndSayWhich) {
  EXPECT_THAT(CudaStatus(cudaErrorInvalidValue, "Learner"),
              StatusIs(absl::StatusCode::kInternal,
                       "Learner: invalid argument (cudaErrorInvalidValue)"));
  EXPECT_THAT(CudaStatus(cudaErrorInvalidConfiguration, "Learner"),
              StatusIs(absl::StatusCode::kInternal));
}

}  // namespace
}  // namespace ttt
