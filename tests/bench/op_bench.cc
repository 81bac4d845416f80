// One benchmark an op of the backend: time, bytes, FLOPs, and the shares of
// what the machine can do, measured in the same process.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_format.h"
#include "tests/bench/bench_device.h"
#include "tests/bench/op_bench_cases.h"

ABSL_FLAG(std::string, device, "cpu", "cpu or cuda:N");
ABSL_FLAG(std::string, precision, "", "fp32 or bf16; empty: both");
ABSL_FLAG(int32_t, threads, 0, "of the CPU; 0: one a core");

namespace ttt {
namespace {

void RunCase(benchmark::State& state, const OpCase& op_case, Backend* backend,
             const Ceilings& best) {
  OpInputs inputs(backend);
  const PreparedOp op = op_case.prepare(inputs);
  absl::Status status = op.call();
  for (auto _ : state) {
    status.Update(op.call());
    status.Update(backend->Synchronize());
  }
  if (!status.ok()) {
    state.SkipWithError(status.ToString().c_str());
    return;
  }
  using benchmark::Counter;
  const auto share = [](double amount, double ceiling) {
    return ceiling > 0
               ? Counter(amount / ceiling, Counter::kIsIterationInvariantRate)
               : Counter(0);
  };
  state.counters["bytes"] = op.cost.bytes;
  state.counters["FLOPs"] = op.cost.flops;
  state.counters["share_of_bandwidth"] =
      share(op.cost.bytes, best.read_bytes_per_second);
  // The learner and all small ops compute in float32 whatever the operands.
  const DType type =
      op_case.kind == OpKind::kGemm ? backend->operand_type() : DType::kFloat32;
  state.counters["share_of_flops"] = share(
      op.cost.flops, best.flops(type) > 0 ? best.flops(type) : best.bf16_flops);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  absl::SetProgramUsageMessage(
      "ttt_op_bench: one benchmark an op; takes --benchmark_... too");
  absl::ParseCommandLine(argc, argv);
  std::vector<std::string> precisions = {"fp32", "bf16"};
  if (!absl::GetFlag(FLAGS_precision).empty()) {
    precisions = {absl::GetFlag(FLAGS_precision)};
  }
  std::vector<BenchDevice> devices;
  for (const std::string& precision : precisions) {
    absl::StatusOr<BenchDevice> device = CreateBenchDevice(
        absl::GetFlag(FLAGS_device), precision, absl::GetFlag(FLAGS_threads));
    if (!device.ok()) {
      std::fprintf(stderr, "%s: %s\n", precision.c_str(),
                   device.status().ToString().c_str());
      // A CPU without bfloat16 still has the other.
      if (absl::IsUnimplemented(device.status()) && precisions.size() > 1) {
        continue;
      }
      return 69;
    }
    devices.push_back(*std::move(device));
  }
  for (const BenchDevice& device : devices) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      if (const absl::Status status = device.meter->Measure(); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        return 70;
      }
    }
    const Ceilings best = device.meter->best();
    Backend* const backend = device.backend.get();
    const bool is_fp32 = backend->operand_type() == DType::kFloat32;
    benchmark::AddCustomContext(
        is_fp32 ? "fp32" : "bf16",
        absl::StrFormat("%s; reads %.1f GB/s, products %.0f (fp32) and %.0f "
                        "(bf16) GFLOP/s",
                        backend->info().description,
                        best.read_bytes_per_second / 1e9, best.fp32_flops / 1e9,
                        best.bf16_flops / 1e9));
    for (const OpKind kind : kAllOpKinds) {
      for (const OpCase& op_case : CasesOf(kind)) {
        benchmark::RegisterBenchmark(
            (op_case.name + (is_fp32 ? "/fp32" : "/bf16")).c_str(),
            [op_case, backend, best](benchmark::State& state) {
              RunCase(state, op_case, backend, best);
            })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) { return ttt::Main(argc, argv); }
