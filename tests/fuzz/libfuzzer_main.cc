// The entry of a program of libFuzzer. TTT_FUZZ_FUNCTION names its target.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>

#include "tests/fuzz/fuzz_targets.h"

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // A line a string that is not UTF-8 would be most of the work.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ttt::TTT_FUZZ_FUNCTION({reinterpret_cast<const char*>(data), size});
  return 0;
}
