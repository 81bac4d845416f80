#include "server/rpc/library_log.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace ttt {
namespace {

using ::testing::MatchesRegex;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

TEST(LibraryLogTest, LinesOfGrpcAreLinesOfOurs) {
  TakeLibraryLogs();
  grpc_init();  // Before it, gRPC says nothing.
  CaptureStderr();
  gpr_log(GPR_ERROR, "no socket %d\nfor you", 7);
  EXPECT_THAT(GetCapturedStderr(),
              MatchesRegex("[0-9T:.-]+Z WARN no socket 7\\\\nfor you "
                           "library=grpc at=.*library_log_test.cc:[0-9]+\n"));
  grpc_shutdown();
}

// What protobuf's lines come to, of which the last has been written: said
// until it is, as a second has one line at most.
std::string SayUntilWritten(int* said) {
  std::string lines;
  while (lines.empty()) {
    CaptureStderr();
    GOOGLE_LOG(ERROR) << "not UTF-8";
    ++*said;
    lines = GetCapturedStderr();
  }
  return lines;
}

TEST(LibraryLogTest, LinesOfProtobufAreLinesOfOurs) {
  TakeLibraryLogs();
  int said = 0;
  EXPECT_THAT(SayUntilWritten(&said),
              MatchesRegex("[0-9T:.-]+Z WARN not UTF-8 library=protobuf "
                           "at=.*library_log_test.cc:[0-9]+ "
                           "left_out=[0-9]+\n"));
}

TEST(LibraryLogTest, AClientCannotFillTheLogThroughProtobuf) {
  TakeLibraryLogs();
  int said = 0;
  SayUntilWritten(&said);
  CaptureStderr();
  for (said = 0; said < 10000; ++said) GOOGLE_LOG(ERROR) << "not UTF-8";
  std::string lines = GetCapturedStderr();
  lines += SayUntilWritten(&said);
  const int64_t written = std::count(lines.begin(), lines.end(), '\n');
  EXPECT_LT(written, 100);  // A second or more may have passed.
  int64_t left_out = 0;
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(" left_out=", 1));
    int64_t more = 0;
    if (absl::SimpleAtoi(parts.second, &more)) left_out += more;
  }
  EXPECT_EQ(written + left_out, said);
}

}  // namespace
}  // namespace ttt
