#include "kernels/cuda/cuda_backend.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

// Of no name by which `ctest -L gpu` finds tests of a GPU.
TEST(WhereThereMayBeNoGpuTest, SaysWhyThereIsNone) {
  const auto backend = CreateCudaBackend(0, Precision::kBFloat16);
  if (backend.ok()) {
    EXPECT_EQ((*backend)->info().name, "cuda:0");
    EXPECT_THAT((*backend)->info().description, HasSubstr("multiprocessors"));
    return;
  }
  EXPECT_THAT(backend, AnyOf(StatusIs(absl::StatusCode::kUnimplemented),
                             StatusIs(absl::StatusCode::kUnavailable)));
}

TEST(WhereThereMayBeNoGpuTest, RefusesADeviceThatCannotBe) {
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

TEST_P(CudaMemoryTest, SaysHowMuchIsFree) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const auto free_bytes = [this] { return *backend_->FreeBytes().value(); };
  const int64_t before = free_bytes();
  EXPECT_GT(before, 0);
  auto buffer = backend_->Allocate(kBytes).value();
  EXPECT_LE(free_bytes(), before - kBytes);
  buffer.reset();
  EXPECT_GT(free_bytes(), before - kBytes);
}

TEST_P(CudaMemoryTest, CountsWhatItCopiesAndRuns) {
  Array<float> array(*backend_, Floats(300));
  const DeviceCounts before = backend_->counts();
  Floats host(300);
  EXPECT_THAT(backend_->CopyToDevice(array.data(), host.data(), 400), IsOk());
  EXPECT_THAT(backend_->CopyToHost(host.data(), array.data(), 800), IsOk());
  EXPECT_EQ(backend_->counts().bytes_to_device - before.bytes_to_device, 400);
  EXPECT_EQ(backend_->counts().bytes_to_host - before.bytes_to_host, 800);
  EXPECT_EQ(backend_->counts().recordings_run, before.recordings_run);
}

TEST_P(CudaMemoryTest, CopiesBesideTheOpsInTheOrderOfWhatWasQueued) {
  constexpr int64_t kFloats = 4 << 20;
  constexpr int64_t kBytes = kFloats * 4;
  Array<float> a(*backend_, Random(kFloats, 1));
  Array<float> b(*backend_, Floats(kFloats));
  const auto host = backend_->AllocateHost(2 * kBytes).value();
  float* const first = host->as<float>();
  float* const second = first + kFloats;
  const Floats values = Random(kFloats, 1);
  for (int round = 0; round < 20; ++round) {
    // Reads what was queued before it, and is overtaken by what comes after.
    ASSERT_THAT(backend_->CopyOnDevice(b.data(), a.data(), kBytes), IsOk());
    const DeviceCopy out =
        backend_->StartCopyToHost(first, b.data(), kBytes).value();
    EXPECT_EQ(out.number, round + 1);
    ASSERT_THAT(backend_->Wait(out), IsOk());
    EXPECT_TRUE(backend_->HasEnded(out).value());
    ASSERT_TRUE(std::equal(values.begin(), values.end(), first));
    // Comes back before what is told to await it.
    std::memcpy(second, first, kBytes);
    second[round] += 1.0f;
    const DeviceCopy back =
        backend_->StartCopyToDevice(b.data(), second, kBytes).value();
    ASSERT_THAT(backend_->QueueAfter(back), IsOk());
    Floats read(kFloats);
    ASSERT_THAT(backend_->CopyToHost(read.data(), b.data(), kBytes), IsOk());
    ASSERT_TRUE(std::equal(read.begin(), read.end(), second));
    EXPECT_TRUE(backend_->HasEnded(back).value());
  }
  EXPECT_TRUE(backend_->HasEnded(DeviceCopy{}).value());
  EXPECT_THAT(backend_->StartCopyToHost(first, b.data(), -1),
              StatusIs(absl::StatusCode::kInvalidArgument, "is -1"));
}

TEST_P(CudaMemoryTest, ManyCopiesBesideTheOpsEndInTheirOrder) {
  constexpr int kCopies = 50;
  constexpr int64_t kFloats = 1 << 16;
  Array<float> array(*backend_, Random(kCopies * kFloats, 2));
  const auto host = backend_->AllocateHost(kCopies * kFloats * 4).value();
  std::vector<DeviceCopy> copies;
  for (int i = 0; i < kCopies; ++i) {
    copies.push_back(backend_
                         ->StartCopyToHost(host->as<float>() + i * kFloats,
                                           array.data() + i * kFloats,
                                           kFloats * 4)
                         .value());
  }
  ASSERT_THAT(backend_->Wait(copies[30]), IsOk());
  for (int i = 0; i <= 30; ++i) {
    EXPECT_TRUE(backend_->HasEnded(copies[i]).value()) << i;
  }
  ASSERT_THAT(backend_->Wait(copies.back()), IsOk());
  const Floats values = array.Read();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), host->as<float>()));
}

// In a process of its own, as none can use the device after that.
TEST_P(CudaMemoryTest, SaysWhenTheDeviceIsLost) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto lose = [this] {
    Array<float> input(*backend_, Floats(64));
    Array<float> weight(*backend_, Floats(64));
    float* const nowhere = reinterpret_cast<float*>(uintptr_t{1} << 46);
    static_cast<void>(backend_->RmsNorm({.input = input.data(),
                                         .weight = weight.data(),
                                         .output = {nowhere, DType::kFloat32},
                                         .num_rows = 1,
                                         .hidden_size = 64,
                                         .epsilon = 1e-6f}));
    const absl::Status lost = backend_->Synchronize();
    const absl::Status still = backend_->Synchronize();
    std::fprintf(stderr, "%s\n", lost.ToString().c_str());
    std::exit(absl::IsUnavailable(lost) && absl::IsUnavailable(still) ? 0 : 1);
  };
  EXPECT_EXIT(lose(), testing::ExitedWithCode(0), "cudaErrorIllegalAddress");
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, CudaMemoryTest,
    testing::ValuesIn(HasCuda() ? std::vector<Precision>{Precision::kBFloat16}
                                : std::vector<Precision>{}));

}  // namespace
}  // namespace ttt
