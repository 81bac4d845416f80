// The command line of tttd.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/options.h"

namespace ttt {

struct Flags {
  ServerOptions server;
  absl::Duration drain_time;  // for running turns, after the first signal
  bool is_dry_run = false;    // only tell the plan
};

// Of the arguments without the program's name, and the file that --config
// names. INVALID_ARGUMENT (BAD_FLAG), naming the flag and its value. Sets the
// flags of the process: once, before other threads.
absl::StatusOr<Flags> ParseFlags(const std::vector<std::string>& args);

// Each flag with its default and what it is for, as lines for --help.
std::string DescribeFlags();

}  // namespace ttt
