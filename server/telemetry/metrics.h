// Every metric of the server, named once. Prometheus text format.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ttt {

enum class TokenKind { kInput, kReused, kGenerated, kReplayed, kDiscarded };
enum class TurnOutcome { kCommitted, kRolledBack, kRepeated, kFailed };
enum class StepKind { kDecode, kPrefill, kMixed };

// Thread-safe; recording takes no lock that a scrape holds for long.
class Metrics {
 public:
  // What gauges read at a scrape.
  struct Gauges {
    int64_t queued_requests = 0;
    int64_t running_turns = 0;
    int64_t sessions_running = 0;  // tier RUNNING
    int64_t sessions_device = 0;   // tier DEVICE: idle, with or without a state
    int64_t slots_free = 0;
    int64_t slots_committed = 0;
    int64_t slots_scratch = 0;  // in use by running turns
    int64_t session_slots = 0;  // capacity
    int64_t session_slots_reserved = 0;
    int64_t slot_bytes = 0;
    int64_t weight_bytes = 0;
    int64_t pool_bytes = 0;
    int64_t workspace_bytes = 0;
    int64_t driver_bytes = 0;  // and of other processes, at start
    int64_t backend_bytes = 0;
    int64_t reserve_bytes = 0;    // for what comes late
    int64_t bytes_to_device = 0;  // so far; 0 where the host's memory is used
    int64_t bytes_to_host = 0;
    int64_t graph_launches = 0;
    std::string state;  // starting, serving, draining
  };

  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Called at each scrape, on the scraping thread, and maybe on two at once.
  // What it reads must outlive the last scrape, or an empty source set after
  // it. Without one, gauges are 0 and the server is starting.
  void SetGaugeSource(std::function<Gauges()> source);
  // Once, at start: ttt_build_info and ttt_model_info.
  void SetInfo(absl::string_view version, absl::string_view device,
               absl::string_view model_fingerprint);

  // `method` as in gRPC ("Complete"), `code` its status name ("OK"); others are
  // counted as "other" and "UNKNOWN". `total` counts for the calls of Inference
  // that run a turn: Complete, StreamComplete and Score.
  void RecordRequest(absl::string_view method, absl::string_view code,
                     absl::Duration total);
  void RecordLengths(int64_t input_tokens, int64_t output_tokens);
  void RecordQueue(absl::Duration queued);
  void RecordFirstToken(absl::Duration since_arrival);
  void RecordInterToken(absl::Duration since_last_token);
  void RecordStep(StepKind kind, absl::Duration took, int64_t rows,
                  int64_t tokens);
  void RecordTokens(TokenKind kind, int64_t count);
  void RecordTurn(TurnOutcome outcome);
  void RecordCommit(absl::Duration took);
  void RecordNumericFault();

  // The whole page, for /metrics.
  std::string Scrape() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace ttt
