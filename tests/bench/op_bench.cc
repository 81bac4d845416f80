// One benchmark an op of the backend: time, bytes, FLOPs, and the shares of
// what the machine can do, measured in the same process.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_format.h"
#include "tests/bench/bench_device.h"
#include "tests/bench/op_bench_cases.h"
#include "tests/bench/stopwatch.h"

ABSL_FLAG(std::string, device, "cpu", "cpu or cuda:N");
ABSL_FLAG(std::string, precision, "", "fp32 or bf16; empty: both");
ABSL_FLAG(int32_t, threads, 0, "of the CPU; 0: one a core");

namespace ttt {
namespace {

// Of ops that a device can record: one after the other without its host.
constexpr int kRecordedCalls = 32;

// A case with its inputs. They are kept from one run of it to the next.
struct PreparedCase {
  PreparedCase(const OpCase& op_case, Backend* backend)
      : inputs(backend), op(op_case.prepare(inputs)) {
    status = op.call();
    if (op_case.kind == OpKind::kDigestStates || op_case.kind == OpKind::kCopy)
      return;  // They wait for the device.
    auto made = backend->Record([&] {
      absl::Status calls;
      for (int i = 0; i < kRecordedCalls; ++i) calls.Update(op.call());
      return calls;
    });
    if (made.ok()) recording = *std::move(made);
  }

  OpInputs inputs;
  PreparedOp op;
  absl::Status status;
  std::unique_ptr<Recording> recording;  // of kRecordedCalls, or null
};

void RunCase(benchmark::State& state, OpKind kind, PreparedCase& prepared,
             Backend* backend, const Ceilings& best) {
  const PreparedOp& op = prepared.op;
  absl::Status status = prepared.status;
  status.Update(backend->Synchronize());
  const int calls = prepared.recording != nullptr ? kRecordedCalls : 1;
  double all_seconds = 0;
  for (auto _ : state) {
    const double seconds = TimeToRun([&] {
      status.Update(prepared.recording != nullptr
                        ? backend->Run(*prepared.recording)
                        : op.call());
      status.Update(backend->Synchronize());
    });
    state.SetIterationTime(seconds / calls);
    all_seconds += seconds / calls;
  }
  if (!status.ok()) {
    state.SkipWithError(status.ToString().c_str());
    return;
  }
  const double seconds = all_seconds / static_cast<double>(state.iterations());
  const auto share = [seconds](double amount, double ceiling) {
    return ceiling > 0 ? amount / seconds / ceiling : 0.0;
  };
  const auto rate = [](double amount) {
    return benchmark::Counter(amount,
                              benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["bytes"] = rate(op.cost.bytes);
  state.counters["FLOPs"] = rate(op.cost.flops);
  state.counters["share_of_bandwidth"] =
      share(op.cost.bytes, best.read_bytes_per_second);
  // The learner and all small ops compute in float32 whatever the operands.
  const DType type =
      kind == OpKind::kGemm ? backend->operand_type() : DType::kFloat32;
  state.counters["share_of_flops"] = share(
      op.cost.flops, best.flops(type) > 0 ? best.flops(type) : best.bf16_flops);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv, [] {
    std::printf("ttt_op_bench: one benchmark an op\n\n%s\n",
                DescribeBenchFlags().c_str());
    benchmark::PrintDefaultHelp();
  });
  absl::SetProgramUsageMessage("ttt_op_bench: one benchmark an op");
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
      return ExitCodeOf(device.status());
    }
    devices.push_back(*std::move(device));
  }
  const bool is_cpu = absl::GetFlag(FLAGS_device) == "cpu";
  std::string prepared_name;
  std::unique_ptr<PreparedCase> prepared;
  for (const BenchDevice& device : devices) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      if (const absl::Status status = device.meter->Measure(); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        return ExitCodeOf(status);
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
        if (op_case.is_large && is_cpu) continue;
        const std::string name = op_case.name + (is_fp32 ? "/fp32" : "/bf16");
        const auto run = [=, &prepared_name,
                          &prepared](benchmark::State& state) {
          if (prepared_name != name) {
            prepared = nullptr;  // Its memory is needed.
            prepared = std::make_unique<PreparedCase>(op_case, backend);
            prepared_name = name;
          }
          RunCase(state, op_case.kind, *prepared, backend, best);
        };
        benchmark::RegisterBenchmark(name.c_str(), run)
            ->UseManualTime()
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
