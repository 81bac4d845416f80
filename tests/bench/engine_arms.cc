#include "tests/bench/engine_arms.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"

namespace ttt {
namespace {

using Sequence = EngineWorkload::Sequence;
using Sequences = std::vector<Sequence>;

// Tokens before the first that is timed; of different streams different places
// of a mini-batch.
int64_t Start(const EngineWorkload& workload, Arm arm, int32_t stream) {
  const int64_t mini_batch = workload.config().mini_batch_size;
  return arm == Arm::kPhaseLocked ? mini_batch
                                  : mini_batch + stream * 7 % mini_batch;
}

absl::Status RunMiniBatch(EngineWorkload& workload, Arm arm,
                          Sequences& sequences) {
  for (int32_t n = 0; n < workload.config().mini_batch_size; ++n) {
    TTT_RETURN_IF_ERROR(StepArm(workload, arm, sequences));
  }
  return absl::OkStatus();
}

// Of the states after a mini-batch that `runs` ran from where `starts` starts.
absl::StatusOr<std::vector<StateDigest>> DigestsOf(EngineWorkload& workload,
                                                   Arm starts, Arm runs,
                                                   int32_t streams) {
  Sequences sequences;
  TTT_RETURN_IF_ERROR(StartArm(workload, starts, streams, sequences));
  TTT_RETURN_IF_ERROR(RunMiniBatch(workload, runs, sequences));
  return workload.Digests(sequences);
}

absl::Status CheckArm(EngineWorkload& workload, Arm arm, int32_t streams) {
  TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> alone,
                       DigestsOf(workload, arm, Arm::kSequential, streams));
  TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> together,
                       DigestsOf(workload, arm, arm, streams));
  for (int32_t stream = 0; stream < streams; ++stream) {
    if (together[stream] == alone[stream]) continue;
    TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> alone_again,
                         DigestsOf(workload, arm, Arm::kSequential, streams));
    TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> together_again,
                         DigestsOf(workload, arm, arm, streams));
    return absl::InternalError(
        absl::StrCat(ArmName(arm), ": the state of stream ", stream, " of ",
                     streams, " is not what it is alone; a second run ",
                     together_again == together ? "has" : "has not",
                     " the states of the first, and alone ",
                     alone_again == alone ? "it has" : "it has not"));
  }
  return absl::OkStatus();
}

absl::Status CheckThatSwappedOwnersShow(EngineWorkload& workload,
                                        int32_t streams) {
  TTT_ASSIGN_OR_RETURN(
      const std::vector<StateDigest> right,
      DigestsOf(workload, Arm::kRagged, Arm::kRagged, streams));
  Sequences sequences;
  TTT_RETURN_IF_ERROR(StartArm(workload, Arm::kRagged, streams, sequences));
  std::swap(sequences[0].slot, sequences[1].slot);
  TTT_RETURN_IF_ERROR(RunMiniBatch(workload, Arm::kRagged, sequences));
  std::swap(sequences[0].slot, sequences[1].slot);
  TTT_ASSIGN_OR_RETURN(const std::vector<StateDigest> swapped,
                       workload.Digests(sequences));
  for (int32_t stream = 0; stream < streams; ++stream) {
    if ((swapped[stream] == right[stream]) == (stream > 1)) continue;
    return absl::InternalError(absl::StrCat(
        "with the slots of streams 0 and 1 swapped, the state of stream ",
        stream, stream > 1 ? " differs" : " does not differ"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ArmName(Arm arm) {
  switch (arm) {
    case Arm::kSequential:
      return "sequential";
    case Arm::kPhaseLocked:
      return "phase-locked";
    case Arm::kGrouped:
      return "grouped";
    case Arm::kRagged:
      break;
  }
  return "ragged";
}

absl::Status StartArm(EngineWorkload& workload, Arm arm, int32_t streams,
                      Sequences& sequences) {
  sequences.clear();
  for (int32_t stream = 0; stream < streams; ++stream) {
    const int64_t tokens = Start(workload, arm, stream);
    TTT_RETURN_IF_ERROR(workload.Restart(stream, tokens));
    sequences.push_back(
        {.slot = stream, .tokens = 1, .position = tokens, .stream = stream});
  }
  return absl::OkStatus();
}

absl::Status StepArm(EngineWorkload& workload, Arm arm, Sequences& sequences) {
  if (arm == Arm::kPhaseLocked || arm == Arm::kRagged) {
    return workload.Step(sequences);
  }
  const auto step = [&](const auto& takes) -> absl::Status {
    Sequences part;
    for (const Sequence& sequence : sequences) {
      if (takes(sequence)) part.push_back(sequence);
    }
    return part.empty() ? absl::OkStatus() : workload.Step(part);
  };
  if (arm == Arm::kGrouped) {
    const int32_t mini_batch = workload.config().mini_batch_size;
    for (const bool ends : {true, false}) {
      TTT_RETURN_IF_ERROR(step([&](const Sequence& sequence) {
        return ((sequence.position + 1) % mini_batch == 0) == ends;
      }));
    }
  } else {
    for (const Sequence& one : sequences) {
      TTT_RETURN_IF_ERROR(step([&](const Sequence& sequence) {
        return sequence.stream == one.stream;
      }));
    }
  }
  for (Sequence& sequence : sequences) ++sequence.position;
  return absl::OkStatus();
}

BenchCase ArmCase(EngineWorkload& workload, Arm arm, int32_t streams) {
  const auto sequences = std::make_shared<Sequences>();
  BenchCase result;
  result.mode = "arms";
  result.name = absl::StrCat(streams, " ", ArmName(arm));
  result.tokens = streams;
  result.streams_weights = true;
  result.operations = workload.config().mini_batch_size;
  result.prepare = [&workload, sequences, arm, streams] {
    return StartArm(workload, arm, streams, *sequences);
  };
  result.finish = [&workload] { return workload.Finish(); };
  result.run = [&workload, sequences, arm] {
    return StepArm(workload, arm, *sequences);
  };
  return result;
}

absl::Status CheckArms(EngineWorkload& workload, int32_t streams) {
  for (const Arm arm : {Arm::kPhaseLocked, Arm::kGrouped, Arm::kRagged}) {
    TTT_RETURN_IF_ERROR(CheckArm(workload, arm, streams));
  }
  return CheckThatSwappedOwnersShow(workload, streams);
}

}  // namespace ttt
