#include "server/rpc/library_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/log.h"

namespace ttt {
namespace {

// Neither library's error is one of the daemon: it stands for one call or one
// connection at most.
LogLevel LevelOf(bool is_more_than_information) {
  return is_more_than_information ? LogLevel::kWarning : LogLevel::kInfo;
}

void LogOfGrpc(gpr_log_func_args* args) {
  Log(LevelOf(args->severity == GPR_LOG_SEVERITY_ERROR), args->message,
      {{"library", "grpc"}, {"at", absl::StrCat(args->file, ":", args->line)}});
}

// A client can have protobuf say as much as it likes (strings that are not
// UTF-8): the first line of a second stands for all, and the next one that is
// written says how many were not.
std::atomic<int64_t> last_second{0};
std::atomic<int64_t> lines_left_out{0};

void LogOfProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                   const std::string& message) {
  const int64_t second = absl::ToUnixSeconds(absl::Now());
  if (last_second.exchange(second, std::memory_order_relaxed) == second) {
    lines_left_out.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const int64_t left_out =
      lines_left_out.exchange(0, std::memory_order_relaxed);
  Log(LevelOf(level != google::protobuf::LOGLEVEL_INFO), message,
      {{"library", "protobuf"},
       {"at", absl::StrCat(file, ":", line)},
       {"left_out", absl::StrCat(left_out)}});
}

}  // namespace

void TakeLibraryLogs() {
  gpr_set_log_function(&LogOfGrpc);
  google::protobuf::SetLogHandler(&LogOfProtobuf);
}

}  // namespace ttt
