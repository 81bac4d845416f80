#include "server/rpc/library_log.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

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

TEST(LibraryLogTest, LinesOfProtobufAreLinesOfOurs) {
  TakeLibraryLogs();
  CaptureStderr();
  GOOGLE_LOG(ERROR) << "not UTF-8";
  EXPECT_THAT(
      GetCapturedStderr(),
      MatchesRegex("[0-9T:.-]+Z WARN not UTF-8 "
                   "library=protobuf at=.*library_log_test.cc:[0-9]+\n"));
}

TEST(LibraryLogTest, AClientCannotFillTheLogThroughProtobuf) {
  TakeLibraryLogs();
  CaptureStderr();
  for (int i = 0; i < 10000; ++i) GOOGLE_LOG(ERROR) << "not UTF-8";
  const std::string said = GetCapturedStderr();
  // A second or more may have passed.
  EXPECT_LT(std::count(said.begin(), said.end(), '\n'), 100);
}

}  // namespace
}  // namespace ttt
