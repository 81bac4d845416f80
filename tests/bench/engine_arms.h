// Ways to batch streams that decode, side by side: what batching gains, and
// that it alters nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/bench/engine_cases.h"
#include "tests/bench/engine_workload.h"

namespace ttt {

enum class Arm {
  kSequential,   // a step a stream
  kPhaseLocked,  // one step; all streams are at the same place of a mini-batch
  kGrouped,      // a step for those that end a mini-batch, one for the others
  kRagged,       // one step for all, wherever they are
};
inline constexpr Arm kArms[] = {Arm::kSequential, Arm::kPhaseLocked,
                                Arm::kGrouped, Arm::kRagged};

std::string ArmName(Arm arm);

// Puts streams in slots 0 .. streams - 1, at the same place in every arm but
// kPhaseLocked. They read the same tokens in every arm.
absl::Status StartArm(EngineWorkload& workload, Arm arm, int32_t streams,
                      std::vector<EngineWorkload::Sequence>& sequences);
// Each stream reads one token.
absl::Status StepArm(EngineWorkload& workload, Arm arm,
                     std::vector<EngineWorkload::Sequence>& sequences);

BenchCase ArmCase(EngineWorkload& workload, Arm arm, int32_t streams);

// Runs a mini-batch in every arm and compares the digests of all states with
// those of the streams run one by one; then gives two streams each other's
// slots, which must show. INTERNAL: a digest is not as it should be.
// `streams` >= 2.
absl::Status CheckArms(EngineWorkload& workload, int32_t streams);

}  // namespace ttt
