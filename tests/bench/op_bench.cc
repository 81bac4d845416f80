// One benchmark an op of the backend: time, bytes, FLOPs, and the shares of
// what the machine can do, measured in the same process.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
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
ABSL_FLAG(int32_t, calls, 1,
          "of an op an iteration, one after the other, recorded if the device "
          "can: with many, the time of a call is that within a step");

namespace ttt {
namespace {

void RunCase(benchmark::State& state, const OpCase& op_case, Backend* backend,
             const Ceilings& best) {
  OpInputs inputs(backend);
  const PreparedOp op = op_case.prepare(inputs);
  const int32_t calls = absl::GetFlag(FLAGS_calls);
  const auto call = [&] {
    absl::Status status;
    for (int32_t i = 0; i < calls; ++i) status.Update(op.call());
    return status;
  };
  absl::Status status = op.call();
  std::unique_ptr<Recording> recording;
  // Digests and copies to the host cannot be recorded.
  if (calls > 1 && op_case.kind != OpKind::kDigestStates) {
    absl::StatusOr<std::unique_ptr<Recording>> made = backend->Record(call);
    status.Update(made.status());
    if (made.ok()) recording = *std::move(made);
  }
  for (auto _ : state) {
    status.Update(recording ? backend->Run(*recording) : call());
    status.Update(backend->Synchronize());
  }
  if (!status.ok()) {
    state.SkipWithError(status.ToString().c_str());
    return;
  }
  using benchmark::Counter;
  const auto share = [calls](double amount, double ceiling) {
    return ceiling > 0 ? Counter(calls * amount / ceiling,
                                 Counter::kIsIterationInvariantRate)
                       : Counter(0);
  };
  state.counters["time_of_a_call"] =
      Counter(calls, Counter::kIsIterationInvariantRate | Counter::kInvert);
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
