#include "server/plan.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

// Without --device_state_bytes: a quarter of the machine's memory, and not more
// than half of what is free and this; or, of a device with memory of its own,
// this part of what is free beside all else.
constexpr int64_t kMostDefaultStateBytes = int64_t{1} << 30;
constexpr double kPartOfDevice = 0.98;

// Of the machine, or of the control group if that is less.
int64_t MemoryBytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max",
                           "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t limit = 0;  // "max" leaves it at 0
    if (std::ifstream(path) >> limit && limit > 0)
      bytes = std::min(bytes, limit);
  }
  return bytes;
}

// Of these, what the kernel says that processes can still be given.
int64_t FreeMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    absl::string_view rest = line;
    int64_t kibibytes = 0;
    if (absl::ConsumePrefix(&rest, "MemAvailable:") &&
        absl::ConsumeSuffix(&rest, "kB") &&
        absl::SimpleAtoi(rest, &kibibytes)) {
      return std::min(MemoryBytes(), kibibytes * 1024);
    }
  }
  return MemoryBytes();
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(
    const ServerOptions& options) {
  absl::string_view device = options.device;
  const Precision gpu_precision =
      options.precision == "fp32" ? Precision::kFloat32 : Precision::kBFloat16;
  if (device == "auto") {
    absl::StatusOr<std::unique_ptr<Backend>> gpu =
        CreateCudaBackend(0, gpu_precision);
    const bool is_absent = absl::IsUnavailable(gpu.status()) ||
                           absl::IsUnimplemented(gpu.status());
    if (!is_absent) return gpu;
    if (!absl::IsUnimplemented(gpu.status())) {
      Log(LogLevel::kInfo, "the CPU serves, as no GPU does",
          {{"reason", std::string(gpu.status().message())}});
    }
    device = "cpu";
  }
  if (absl::ConsumePrefix(&device, "cuda:")) {
    int32_t ordinal = 0;
    if (!absl::SimpleAtoi(device, &ordinal) || ordinal < 0) {
      return BadFlag(absl::StrCat("--device is ", QuoteValue(options.device),
                                  ", must be auto, cpu or cuda:N"));
    }
    return CreateCudaBackend(ordinal, gpu_precision);
  }
  if (device != "cpu") {
    return BadFlag(absl::StrCat("--device is ", QuoteValue(options.device),
                                ", must be auto, cpu or cuda:N"));
  }
  const bool bfloat16 = options.precision == "bf16" ||
                        (options.precision == "auto" && CpuHasBFloat16());
  return CreateCpuBackend(
      {.precision = bfloat16 ? Precision::kBFloat16 : Precision::kFloat32,
       .num_threads = options.num_threads});
}

// At least for one session.
int64_t DefaultStateBytes(const Plan& plan, std::optional<int64_t> free_bytes) {
  const int64_t left = free_bytes.value_or(FreeMemoryBytes()) -
                       plan.weight_bytes - plan.workspace_bytes -
                       plan.overhead.reserve_bytes;
  const int64_t scratch_bytes =
      plan.limits.max_sequences * plan.layout.slot_bytes;
  const int64_t bytes =
      free_bytes.has_value()
          ? static_cast<int64_t>(kPartOfDevice * left) - scratch_bytes
          : std::min({MemoryBytes() / 4, (left - scratch_bytes) / 2,
                      kMostDefaultStateBytes});
  return std::max(bytes, plan.layout.slot_bytes);
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const ServerOptions& options) {
  Plan plan;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  if (!backend.ok()) {
    if (ErrorReason(backend.status()) == "BAD_FLAG") return backend.status();
    return WithReason(
        "DEVICE_UNAVAILABLE",
        absl::Status(backend.status().code(),
                     absl::StrCat("--device is ", QuoteValue(options.device),
                                  ": ", backend.status().message(),
                                  "; --device=cpu serves without a GPU")));
  }
  plan.backend = *std::move(backend);
  if (options.wrap_backend) {
    plan.backend = options.wrap_backend(std::move(plan.backend));
  }
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(options.model_dir);
  if (!config.ok()) return WithReason("BAD_MODEL", config.status());
  plan.config = *config;
  plan.layout =
      TttModel::MakeStateLayout(plan.config, plan.backend->state_forms());
  plan.limits = {.max_rows = options.max_batch_tokens,
                 .max_sequences = options.max_batch_rows,
                 .max_candidates = std::min(options.max_top_logprobs,
                                            plan.config.vocab_size)};
  const absl::StatusOr<int64_t> weight_bytes =
      TttModel::WeightBytes(plan.config, plan.backend.get());
  if (!weight_bytes.ok()) {
    return WithReason("DEVICE_UNAVAILABLE", weight_bytes.status());
  }
  plan.weight_bytes = *weight_bytes;
  plan.workspace_bytes = TttModel::WorkspaceBytes(plan.config, plan.limits,
                                                  plan.backend->state_forms());
  plan.overhead = plan.backend->overhead();
  const absl::StatusOr<std::optional<int64_t>> free_bytes =
      plan.backend->FreeBytes();
  if (!free_bytes.ok()) {
    return WithReason("DEVICE_UNAVAILABLE", free_bytes.status());
  }
  const int64_t state_bytes = options.device_state_bytes > 0
                                  ? options.device_state_bytes
                                  : DefaultStateBytes(plan, *free_bytes);
  plan.session_slots = state_bytes / plan.layout.slot_bytes;
  if (plan.session_slots < 1) {
    return BadFlag(absl::StrCat("--device_state_bytes is ", state_bytes,
                                ", and the state of one session is ",
                                plan.layout.slot_bytes, " bytes"));
  }
  const int64_t free = free_bytes->value_or(FreeMemoryBytes());
  if (plan.total_bytes() > free) {
    return WithReason(
        "DEVICE_UNAVAILABLE",
        absl::ResourceExhaustedError(absl::StrCat(
            plan.backend->info().name, " has ", free,
            " bytes free, and the plan takes ", plan.total_bytes(), ": ",
            plan.weight_bytes, " of weights, ", plan.workspace_bytes,
            " of workspace, ", plan.overhead.reserve_bytes, " of reserve, ",
            plan.pool_bytes(), " for ", plan.session_slots,
            " sessions (--device_state_bytes) and ", plan.limits.max_sequences,
            " running turns (--max_batch_rows)")));
  }
  return plan;
}

void LogPlan(const Plan& plan) {
  const DeviceInfo& device = plan.backend->info();
  Log(LogLevel::kInfo, "plan",
      {{"device", device.name},
       {"description", device.description},
       {"weight_bytes", absl::StrCat(plan.weight_bytes)},
       {"workspace_bytes", absl::StrCat(plan.workspace_bytes)},
       {"bytes_per_session", absl::StrCat(plan.layout.slot_bytes)},
       {"session_slots", absl::StrCat(plan.session_slots)},
       {"state_pool_bytes", absl::StrCat(plan.pool_bytes())},
       {"reserve_bytes", absl::StrCat(plan.overhead.reserve_bytes)},
       {"driver_bytes", absl::StrCat(plan.overhead.driver_bytes)},
       {"backend_bytes", absl::StrCat(plan.overhead.own_bytes)},
       {"pinned_host_bytes", absl::StrCat(plan.overhead.pinned_bytes)}});
}

std::string DescribePlan(const Plan& plan) {
  const DeviceInfo& device = plan.backend->info();
  return absl::StrCat(
      "device              ", device.name, " (", device.description, ")\n",
      "precision           ",
      device.precision == Precision::kBFloat16 ? "bf16" : "fp32", "\n",
      "weight_bytes        ", plan.weight_bytes, "\n", "workspace_bytes     ",
      plan.workspace_bytes, "\n", "bytes_per_session   ",
      plan.layout.slot_bytes, "\n", "session_slots       ", plan.session_slots,
      "\n", "scratch_slots       ", plan.limits.max_sequences, "\n",
      "state_pool_bytes    ", plan.pool_bytes(), "\n", "reserve_bytes       ",
      plan.overhead.reserve_bytes, " (graphs and late code, at most)\n",
      "total_bytes         ", plan.total_bytes(), "\n", "driver_bytes        ",
      plan.overhead.driver_bytes,
      " (taken already: the driver, and other processes)\n",
      "backend_bytes       ", plan.overhead.own_bytes,
      " (taken already: sums of digests)\n", "pinned_host_bytes   ",
      plan.overhead.pinned_bytes, " (of the host: staging)\n");
}

}  // namespace ttt
