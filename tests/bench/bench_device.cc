#include "tests/bench/bench_device.h"

#include <algorithm>
#include <map>
#include <thread>
#include <utility>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "server/base/status_macros.h"

namespace ttt {

absl::StatusOr<BenchDevice> CreateBenchDevice(absl::string_view device,
                                              absl::string_view precision,
                                              int32_t num_threads) {
  if (precision != "auto" && precision != "fp32" && precision != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("precision is ", precision, ": auto, fp32 or bf16"));
  }
  BenchDevice result;
  if (device == "cpu") {
    const bool is_bf16 =
        precision == "bf16" || (precision == "auto" && CpuHasBFloat16());
    if (num_threads == 0) {
      num_threads = std::max(1u, std::thread::hardware_concurrency());
    }
    TTT_ASSIGN_OR_RETURN(
        result.backend,
        CreateCpuBackend(
            {.precision = is_bf16 ? Precision::kBFloat16 : Precision::kFloat32,
             .num_threads = num_threads}));
    TTT_ASSIGN_OR_RETURN(result.meter, CreateCpuCeilingMeter(num_threads));
    return result;
  }
  int32_t ordinal = 0;
  if (!absl::ConsumePrefix(&device, "cuda:") ||
      !absl::SimpleAtoi(device, &ordinal)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", device, ": cpu or cuda:N"));
  }
  TTT_ASSIGN_OR_RETURN(
      result.backend,
      CreateCudaBackend(ordinal, precision == "fp32" ? Precision::kFloat32
                                                     : Precision::kBFloat16));
  TTT_ASSIGN_OR_RETURN(result.meter,
                       CreateDeviceCeilingMeter(result.backend.get()));
  return result;
}

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return 64;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
      return 65;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kResourceExhausted:
      return 69;
    default:
      return 70;
  }
}

std::string DescribeBenchFlags() {
  std::map<absl::string_view, const absl::CommandLineFlag*> flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StrContains(flag->Filename(), "tests/bench/")) {
      flags[name] = flag;
    }
  }
  std::string text;
  for (const auto& [name, flag] : flags) {
    absl::StrAppend(&text, "  --", name, "=", flag->DefaultValue(),
                    "\n        ", flag->Help(), "\n");
  }
  return text;
}

}  // namespace ttt
