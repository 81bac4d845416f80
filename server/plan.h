// What the parts of a server take of its device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/model/config.h"
#include "server/model/ttt_model.h"
#include "server/options.h"
#include "server/session/state_layout.h"

namespace ttt {

// Made of the options and config.json, before any weight is read.
struct Plan {
  std::unique_ptr<Backend> backend;
  ModelConfig config;
  StateLayout layout;
  TttModel::Limits limits;
  int64_t session_slots = 0;
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;
  DeviceOverhead overhead;

  int64_t pool_bytes() const {
    return (session_slots + limits.max_sequences) * layout.slot_bytes;
  }
  // What is still to be taken of the device.
  int64_t total_bytes() const {
    return weight_bytes + workspace_bytes + pool_bytes() +
           overhead.reserve_bytes;
  }
};

// A failure has the reason BAD_FLAG, BAD_MODEL or DEVICE_UNAVAILABLE.
absl::StatusOr<Plan> MakePlan(const ServerOptions& options);

void LogPlan(const Plan& plan);
// As lines for people.
std::string DescribePlan(const Plan& plan);

}  // namespace ttt
