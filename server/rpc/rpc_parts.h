// What the services are made of.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "server/admission/admission.h"
#include "server/base/clock.h"
#include "server/engine/engine_thread.h"
#include "server/model/config.h"
#include "server/model/tokenizer.h"
#include "server/session/session_store.h"
#include "server/session/state_pool.h"
#include "server/telemetry/metrics.h"

namespace ttt {

// What is known of the server from its start on, for GetServerInfo.
struct ServerFacts {
  std::string version;
  std::string model_name;
  std::string model_fingerprint;
  DeviceInfo device;
  ModelConfig config;
  int64_t num_parameters = 0;
  int32_t max_batch_rows = 0;
  int32_t max_batch_tokens = 0;
  int32_t max_queue = 0;
  int64_t max_queue_tokens = 0;
  int64_t max_queue_bytes = 0;
  absl::Duration max_queue_wait;
  int64_t max_input_tokens = 0;
  int32_t max_top_logprobs = 0;
};

// As in ServerInfo and ttt_server_state.
inline absl::string_view StateName(Admission::State state) {
  switch (state) {
    case Admission::State::kStarting:
      return "starting";
    case Admission::State::kServing:
      return "serving";
    case Admission::State::kDraining:
      return "draining";
  }
  return "";
}

// All must outlive the services.
struct RpcParts {
  SessionStore* sessions;
  StatePool* pool;
  Admission* admission;
  EngineThread* engine;
  const Tokenizer* tokenizer;  // null: none
  Metrics* metrics;
  const Clock* clock;
};

}  // namespace ttt
