// The entry of a program of libFuzzer. TTT_FUZZ_FUNCTION names its target.
#include <google/protobuf/stubs/logging.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

#include "server/base/check.h"
#include "tests/fuzz/fuzz_targets.h"

namespace {

// An input that takes longer is a finding. The fuzzer's own limit is of the
// time on the wall, which a busy machine spends on others.
constexpr double kMaxSeconds = 10;

double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) +
         static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // A line a string that is not UTF-8 would be most of the work.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const double before = CpuSeconds();
  ttt::TTT_FUZZ_FUNCTION({reinterpret_cast<const char*>(data), size});
  TTT_CHECK(CpuSeconds() - before < kMaxSeconds);
  return 0;
}
