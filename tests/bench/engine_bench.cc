// The engine's speed without gRPC, beside what the machine can do at best.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/base/status_macros.h"
#include "tests/bench/bench_device.h"
#include "tests/bench/capacity_bench.h"
#include "tests/bench/engine_arms.h"
#include "tests/bench/engine_cases.h"
#include "tests/bench/engine_report.h"
#include "tests/bench/engine_workload.h"
#include "tests/bench/park_bench.h"

ABSL_FLAG(std::string, model, "", "folder with a config.json");
ABSL_FLAG(std::string, load_format, "dummy", "dummy (random weights) or auto");
ABSL_FLAG(std::string, device, "cpu", "cpu or cuda:N");
ABSL_FLAG(std::string, precision, "auto", "auto, fp32 or bf16");
ABSL_FLAG(int32_t, threads, 0, "of the CPU; 0: one a core");
ABSL_FLAG(
    std::string, mode, "decode,prefill,mixed,fork,digest,breakdown",
    "what to time: of these, position, arms, capacity and park; breakdown "
    "is of decode and prefill");
ABSL_FLAG(std::string, batch, "1,4,16", "sequences that decode");
ABSL_FLAG(std::string, streams, "8", "that arms batch in several ways");
ABSL_FLAG(std::string, prefill, "1x512,16x256", "sequences x tokens");
ABSL_FLAG(std::string, mixed, "8x64", "decoding sequences x prompt tokens");
ABSL_FLAG(std::string, positions, "1000,10000,100000,1000000",
          "tokens that a session has read when it decodes");
ABSL_FLAG(bool, set_position, false,
          "claim the position instead of reading that many tokens");
ABSL_FLAG(int64_t, sessions, 0,
          "that capacity holds; 0: as many as fit, on a GPU alone");
ABSL_FLAG(int32_t, states, 64, "that park has under way at once");
ABSL_FLAG(bool, lookahead, true,
          "begin a step before the last is finished, as the engine does on a "
          "GPU");
ABSL_FLAG(int32_t, steps_per_launch, 1,
          "of decode: 1, 2 or 4; with more than one the sequences read what "
          "they choose");
ABSL_FLAG(int32_t, rounds, 5, "of all cases in turn; medians are reported");
ABSL_FLAG(bool, json, false, "one JSON object a line");

namespace ttt {
namespace {

struct Shape {
  int32_t sequences;
  int32_t tokens;
};

struct Plan {
  std::vector<std::string> modes;
  std::vector<int64_t> batches;
  std::vector<int64_t> streams;
  std::vector<Shape> prefills;
  std::vector<Shape> mixed;
  std::vector<int64_t> positions;
  EngineWorkload::Options workload;

  bool Has(absl::string_view mode) const {
    return std::find(modes.begin(), modes.end(), mode) != modes.end();
  }
};

absl::StatusOr<std::vector<int64_t>> Numbers(const std::string& list,
                                             char separator) {
  std::vector<int64_t> numbers;
  for (const auto part : absl::StrSplit(list, separator, absl::SkipEmpty())) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1 || number > 1 << 30) {
      return absl::InvalidArgumentError(
          absl::StrCat("not a number of 1 to 2^30: ", part));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<std::vector<Shape>> Shapes(const std::string& list) {
  std::vector<Shape> shapes;
  for (const auto part : absl::StrSplit(list, ',', absl::SkipEmpty())) {
    TTT_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes,
                         Numbers(std::string(part), 'x'));
    if (sizes.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat("not NxT: ", part));
    }
    shapes.push_back(
        {static_cast<int32_t>(sizes[0]), static_cast<int32_t>(sizes[1])});
  }
  return shapes;
}

// The flags, and how much room their cases need.
absl::StatusOr<Plan> ReadFlags() {
  Plan plan;
  plan.modes =
      absl::StrSplit(absl::GetFlag(FLAGS_mode), ',', absl::SkipEmpty());
  for (const std::string& mode : plan.modes) {
    if (mode != "decode" && mode != "prefill" && mode != "mixed" &&
        mode != "position" && mode != "fork" && mode != "digest" &&
        mode != "breakdown" && mode != "arms" && mode != "capacity" &&
        mode != "park") {
      return absl::InvalidArgumentError(absl::StrCat("no such mode: ", mode));
    }
  }
  if (absl::GetFlag(FLAGS_model).empty()) {
    return absl::InvalidArgumentError(
        "--model=DIR is needed, a folder with a config.json");
  }
  const std::string format = absl::GetFlag(FLAGS_load_format);
  if (format != "dummy" && format != "auto") {
    return absl::InvalidArgumentError(
        absl::StrCat("load_format is ", format, ": dummy or auto"));
  }
  if (absl::GetFlag(FLAGS_rounds) < 1) {
    return absl::InvalidArgumentError("rounds must be at least 1");
  }
  if (absl::GetFlag(FLAGS_sessions) < 0 || absl::GetFlag(FLAGS_states) < 2) {
    return absl::InvalidArgumentError("sessions: 0 or more; states: 2 or more");
  }
  const int32_t steps = absl::GetFlag(FLAGS_steps_per_launch);
  static_assert(TttModel::kMostSteps == 4);
  if (steps != 1 && steps != 2 && steps != 4) {
    return absl::InvalidArgumentError("steps_per_launch: 1, 2 or 4");
  }
  TTT_ASSIGN_OR_RETURN(plan.batches, Numbers(absl::GetFlag(FLAGS_batch), ','));
  TTT_ASSIGN_OR_RETURN(plan.streams,
                       Numbers(absl::GetFlag(FLAGS_streams), ','));
  for (const int64_t streams : plan.streams) {
    if (streams < 2) return absl::InvalidArgumentError("streams: 2 or more");
  }
  TTT_ASSIGN_OR_RETURN(plan.prefills, Shapes(absl::GetFlag(FLAGS_prefill)));
  TTT_ASSIGN_OR_RETURN(plan.mixed, Shapes(absl::GetFlag(FLAGS_mixed)));
  TTT_ASSIGN_OR_RETURN(plan.positions,
                       Numbers(absl::GetFlag(FLAGS_positions), ','));
  // Positions are reached in steps of 512 tokens.
  int64_t rows = 512;
  int64_t sequences = kForkSlots;
  for (const int64_t batch : plan.batches) {
    rows = std::max(rows, batch);
    sequences = std::max(sequences, batch);
  }
  if (plan.Has("arms")) {
    for (const int64_t streams : plan.streams) {
      rows = std::max(rows, streams);
      sequences = std::max(sequences, streams);
    }
  }
  for (const Shape& shape : plan.prefills) {
    rows = std::max<int64_t>(rows, int64_t{shape.sequences} * shape.tokens);
    sequences = std::max<int64_t>(sequences, shape.sequences);
  }
  for (const Shape& shape : plan.mixed) {
    rows = std::max<int64_t>(rows, int64_t{shape.sequences} + shape.tokens);
    sequences = std::max<int64_t>(sequences, shape.sequences + 1);
  }
  plan.workload.model_dir = absl::GetFlag(FLAGS_model);
  plan.workload.is_dummy = format == "dummy";
  plan.workload.max_rows = static_cast<int32_t>(rows);
  plan.workload.max_sequences = static_cast<int32_t>(sequences);
  plan.workload.lookahead = absl::GetFlag(FLAGS_lookahead);
  plan.workload.num_slots =
      static_cast<int32_t>(sequences + plan.positions.size());
  return plan;
}

// Leaves in the last slots the states after each of the positions.
absl::Status ReachPositions(const Plan& plan, EngineWorkload& workload) {
  std::vector<int64_t> order = plan.positions;
  std::sort(order.begin(), order.end());
  TTT_RETURN_IF_ERROR(workload.Restart(0, 0));
  int64_t position = 0;
  for (const int64_t wanted : order) {
    if (!absl::GetFlag(FLAGS_set_position)) {
      TTT_RETURN_IF_ERROR(workload.ReadOn(0, position, wanted));
    }
    position = wanted;
    for (size_t i = 0; i < plan.positions.size(); ++i) {
      if (plan.positions[i] != wanted) continue;
      TTT_RETURN_IF_ERROR(workload.Fork(
          plan.workload.max_sequences + static_cast<int32_t>(i), 0));
    }
  }
  return absl::OkStatus();
}

std::vector<BenchCase> MakeCases(const Plan& plan, EngineWorkload& workload) {
  std::vector<BenchCase> cases;
  const bool breaks_down = plan.Has("breakdown");
  if (plan.Has("decode") || breaks_down) {
    for (const int64_t batch : plan.batches) {
      cases.push_back(DecodeCase(workload, static_cast<int32_t>(batch),
                                 absl::GetFlag(FLAGS_steps_per_launch)));
    }
  }
  if (plan.Has("prefill") || breaks_down) {
    for (const Shape& shape : plan.prefills) {
      cases.push_back(PrefillCase(workload, shape.sequences, shape.tokens));
    }
  }
  if (plan.Has("mixed")) {
    for (const Shape& shape : plan.mixed) {
      cases.push_back(MixedCase(workload, shape.sequences, shape.tokens));
    }
  }
  if (plan.Has("position")) {
    for (size_t i = 0; i < plan.positions.size(); ++i) {
      cases.push_back(
          PositionCase(workload, plan.positions[i],
                       plan.workload.max_sequences + static_cast<int32_t>(i)));
    }
  }
  if (plan.Has("arms")) {
    for (const int64_t streams : plan.streams) {
      for (const Arm arm : kArms) {
        cases.push_back(ArmCase(workload, arm, static_cast<int32_t>(streams)));
      }
    }
  }
  if (plan.Has("fork")) cases.push_back(ForkCase(workload));
  if (plan.Has("digest")) {
    for (const int32_t batch : {1, 16}) {
      cases.push_back(DigestCase(workload, batch));
    }
  }
  return cases;
}

absl::Status RunTimedCases(const Plan& plan, const BenchDevice& device) {
  TimingBackend backend(device.backend.get());
  TTT_ASSIGN_OR_RETURN(const std::unique_ptr<EngineWorkload> workload,
                       EngineWorkload::Create(plan.workload, &backend));
  if (plan.Has("position")) {
    TTT_RETURN_IF_ERROR(ReachPositions(plan, *workload));
  }
  if (plan.Has("arms")) {
    for (const int64_t streams : plan.streams) {
      TTT_RETURN_IF_ERROR(CheckArms(*workload, static_cast<int32_t>(streams)));
    }
    if (!absl::GetFlag(FLAGS_json)) {
      std::printf(
          "arms: digests of all streams are equal in every way, and two "
          "swapped slots show\n");
    }
  }
  const std::vector<BenchCase> cases = MakeCases(plan, *workload);
  TTT_ASSIGN_OR_RETURN(
      const std::vector<BenchResult> results,
      RunCases(cases, absl::GetFlag(FLAGS_rounds), backend, *device.meter));
  const ReportOptions options = {.json = absl::GetFlag(FLAGS_json),
                                 .operand_type = backend.operand_type(),
                                 .streamed_bytes = workload->streamed_bytes(),
                                 .ceilings = device.meter->best()};
  ReportMachine(plan.workload.model_dir, backend.info().description, options);
  for (size_t i = 0; i < cases.size(); ++i) {
    ReportResult(cases[i], results[i], options);
  }
  if (plan.Has("arms")) ReportArms(cases, results, options);
  if (!plan.Has("breakdown")) return absl::OkStatus();
  for (size_t i = 0; i < cases.size(); ++i) {
    if (cases[i].streams_weights) {
      ReportBreakdown(cases[i], results[i], options);
    }
  }
  return absl::OkStatus();
}

// Modes "park" and "capacity".
absl::Status RunStateModes(const Plan& plan, Backend* backend) {
  if (!plan.Has("park") && !plan.Has("capacity")) return absl::OkStatus();
  const int32_t states = absl::GetFlag(FLAGS_states);
  int64_t count = absl::GetFlag(FLAGS_sessions);
  if (count == 0 && !plan.Has("capacity")) count = states + kParkStepRows;
  TTT_ASSIGN_OR_RETURN(
      const std::unique_ptr<ResidentSessions> sessions,
      ResidentSessions::Create({.model_dir = plan.workload.model_dir,
                                .max_rows = kDecodeRows * kMostPromptTokens,
                                .scratch_slots = kDecodeRows,
                                .sessions = count},
                               backend));
  if (plan.Has("park")) {
    TTT_RETURN_IF_ERROR(RunPark({.states = states,
                                 .rounds = absl::GetFlag(FLAGS_rounds),
                                 .json = absl::GetFlag(FLAGS_json)},
                                sessions.get(), backend));
  }
  if (!plan.Has("capacity")) return absl::OkStatus();
  return RunCapacity(absl::GetFlag(FLAGS_json), *sessions, backend);
}

absl::Status Run(const Plan& plan) {
  TTT_ASSIGN_OR_RETURN(BenchDevice device,
                       CreateBenchDevice(absl::GetFlag(FLAGS_device),
                                         absl::GetFlag(FLAGS_precision),
                                         absl::GetFlag(FLAGS_threads)));
  const auto is_case = [](const std::string& mode) {
    return mode != "capacity" && mode != "park";
  };
  if (std::any_of(plan.modes.begin(), plan.modes.end(), is_case)) {
    TTT_RETURN_IF_ERROR(RunTimedCases(plan, device));
  }
  device.meter.reset();  // All memory is for states now.
  return RunStateModes(plan, device.backend.get());
}

int Main() {
  const absl::StatusOr<Plan> plan = ReadFlags();
  const absl::Status status = plan.ok() ? Run(*plan) : plan.status();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) {
  constexpr char kUsage[] =
      "ttt_engine_bench --model=DIR: the engine without gRPC";
  if (argc > 1 && absl::string_view(argv[1]) == "--help") {
    std::printf("%s\n\n%s", kUsage, ttt::DescribeBenchFlags().c_str());
    return 0;
  }
  absl::SetProgramUsageMessage(kUsage);
  absl::ParseCommandLine(argc, argv);
  return ttt::Main();
}
