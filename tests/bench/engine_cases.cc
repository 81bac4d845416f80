#include "tests/bench/engine_cases.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "tests/bench/stopwatch.h"

namespace ttt {
namespace {

using Sequence = EngineWorkload::Sequence;
using Sequences = std::shared_ptr<std::vector<Sequence>>;

// Sequences of one token a step in slots 0 .. batch - 1, each somewhere in its
// mini-batch.
absl::Status StartRagged(EngineWorkload& workload, int32_t batch,
                         std::vector<Sequence>& sequences) {
  sequences.clear();
  for (int32_t slot = 0; slot < batch; ++slot) {
    const int64_t tokens = workload.RaggedStart();
    TTT_RETURN_IF_ERROR(workload.Restart(slot, tokens));
    sequences.push_back({slot, 1, tokens, slot});
  }
  return absl::OkStatus();
}

BenchCase StepCase(EngineWorkload& workload, const Sequences& sequences,
                   int32_t steps = 1) {
  BenchCase result;
  result.streams_weights = true;
  result.steps = steps;
  result.run = [&workload, sequences, steps] {
    return workload.Step(*sequences, steps);
  };
  result.finish = [&workload] { return workload.Finish(); };
  return result;
}

}  // namespace

BenchCase DecodeCase(EngineWorkload& workload, int32_t batch, int32_t steps) {
  const auto sequences = std::make_shared<std::vector<Sequence>>();
  BenchCase result = StepCase(workload, sequences, steps);
  result.mode = "decode";
  result.name = absl::StrCat("batch ", batch);
  if (steps > 1) absl::StrAppend(&result.name, ", ", steps, " a launch");
  result.tokens = batch;
  result.operations = workload.config().mini_batch_size / steps;
  // So that the first step, which the device waits for, counts for little.
  if (workload.backend().is_asynchronous()) result.trains = 8;
  result.prepare = [&workload, sequences, batch] {
    return StartRagged(workload, batch, *sequences);
  };
  return result;
}

BenchCase PrefillCase(EngineWorkload& workload, int32_t batch, int32_t tokens) {
  const auto sequences = std::make_shared<std::vector<Sequence>>();
  BenchCase result = StepCase(workload, sequences);
  result.mode = "prefill";
  result.name = absl::StrCat(batch, " x ", tokens);
  result.tokens = double(batch) * tokens;
  result.prepare = [&workload, sequences, batch, tokens]() -> absl::Status {
    sequences->clear();
    for (int32_t slot = 0; slot < batch; ++slot) {
      TTT_RETURN_IF_ERROR(workload.Restart(slot, 0));
      sequences->push_back({slot, tokens, 0, slot});
    }
    return absl::OkStatus();
  };
  return result;
}

BenchCase MixedCase(EngineWorkload& workload, int32_t batch, int32_t tokens) {
  const auto sequences = std::make_shared<std::vector<Sequence>>();
  BenchCase result = StepCase(workload, sequences);
  result.mode = "mixed";
  result.name = absl::StrCat(batch, " + ", tokens, " of a prompt");
  result.tokens = double(batch) + tokens;
  result.operations = workload.config().mini_batch_size;
  result.prepare = [&workload, sequences, batch, tokens]() -> absl::Status {
    TTT_RETURN_IF_ERROR(StartRagged(workload, batch, *sequences));
    TTT_RETURN_IF_ERROR(workload.Restart(batch, 0));
    sequences->push_back({batch, tokens, 0, batch});
    return absl::OkStatus();
  };
  return result;
}

BenchCase PositionCase(EngineWorkload& workload, int64_t position,
                       int32_t from) {
  const auto sequences = std::make_shared<std::vector<Sequence>>();
  BenchCase result = StepCase(workload, sequences);
  result.mode = "position";
  result.name = absl::StrCat("after ", position);
  result.tokens = 1;
  // Steps are short in the models that this is asked of.
  result.operations = 64 * workload.config().mini_batch_size;
  result.prepare = [&workload, sequences, position, from]() -> absl::Status {
    TTT_RETURN_IF_ERROR(workload.Fork(0, from));
    *sequences = {{0, 1, position}};
    return absl::OkStatus();
  };
  return result;
}

BenchCase ForkCase(EngineWorkload& workload) {
  // In turn over so many slots that few sources are still in a cache.
  const auto next = std::make_shared<int32_t>(0);
  BenchCase result;
  result.mode = "fork";
  result.name = absl::StrCat(workload.slot_bytes(), " bytes");
  result.operations = 64;
  result.prepare = [&workload] { return workload.Restart(0, 17); };
  result.run = [&workload, next] {
    const int32_t from = *next;
    *next = (from + 1) % kForkSlots;
    return workload.Fork((from + kForkSlots / 2) % kForkSlots, from);
  };
  return result;
}

BenchCase DigestCase(EngineWorkload& workload, int32_t batch) {
  constexpr int64_t kTokens = 31;  // all pending rows are valid
  BenchCase result;
  result.mode = "digest";
  result.name = absl::StrCat("batch ", batch);
  result.operations = 8;
  result.prepare = [&workload, batch]() -> absl::Status {
    for (int32_t slot = 0; slot < batch; ++slot) {
      TTT_RETURN_IF_ERROR(workload.Restart(slot, kTokens));
    }
    return absl::OkStatus();
  };
  std::vector<int32_t> slots;
  for (int32_t slot = 0; slot < batch; ++slot) slots.push_back(slot);
  result.run = [&workload, slots] { return workload.Digest(slots, kTokens); };
  return result;
}

namespace {

// As many operations, and their end.
absl::Status RunTrain(const BenchCase& one, int32_t operations) {
  for (int32_t n = 0; n < operations; ++n) TTT_RETURN_IF_ERROR(one.run());
  return one.finish ? one.finish() : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<BenchResult>> RunCases(
    const std::vector<BenchCase>& cases, int32_t rounds, TimingBackend& backend,
    CeilingMeter& meter) {
  std::vector<BenchResult> results(cases.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    TTT_RETURN_IF_ERROR(cases[i].prepare());
    for (int32_t n = 0; n < cases[i].operations; ++n) {
      backend.StartRecording();
      TTT_RETURN_IF_ERROR(RunTrain(cases[i], 1));
      results[i].calls.push_back(backend.StopRecording());
      for (const OpCall& call : results[i].calls.back()) {
        const int32_t steps = cases[i].operations * cases[i].steps;
        results[i].cost.bytes += call.cost.bytes / steps;
        results[i].cost.flops += call.cost.flops / steps;
      }
    }
  }
  for (int32_t round = 0; round < rounds; ++round) {
    TTT_RETURN_IF_ERROR(meter.Measure());
    for (size_t k = 0; k < cases.size(); ++k) {
      // Each is first once: what comes after the ceilings finds cold caches.
      const size_t i = (k + round) % cases.size();
      TTT_RETURN_IF_ERROR(cases[i].prepare());
      TTT_RETURN_IF_ERROR(RunTrain(cases[i], 1));
      const int32_t operations = cases[i].operations * cases[i].trains;
      absl::Status status;
      const double seconds =
          TimeToRun([&] { status = RunTrain(cases[i], operations); });
      TTT_RETURN_IF_ERROR(status);
      results[i].seconds.push_back(seconds / (operations * cases[i].steps));
    }
  }
  return results;
}

}  // namespace ttt
