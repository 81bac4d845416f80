// The device that a benchmark runs on, and what it could do at best.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "tests/bench/ceilings.h"

namespace ttt {

struct BenchDevice {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<CeilingMeter> meter;  // must not outlive the backend
};

// `device` is cpu or cuda:N; `precision` is fp32, bf16 or auto: bf16 where the
// device multiplies it. `num_threads` of the CPU; 0: one a core.
// INVALID_ARGUMENT: neither of these. Errors of the backend.
absl::StatusOr<BenchDevice> CreateBenchDevice(absl::string_view device,
                                              absl::string_view precision,
                                              int32_t num_threads);

// What a benchmark that ended with `status` exits with, by its code: 64 for an
// argument or a config that is wrong, 65 for files that are not there or are
// damaged, 69 for what the machine has not, else 70.
int ExitCodeOf(const absl::Status& status);

// Of the flags that are defined in files of tests/bench, for --help.
std::string DescribeBenchFlags();

}  // namespace ttt
