// A TTT language model on one device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/model/checkpoint.h"
#include "server/model/config.h"
#include "server/model/sampling_params.h"
#include "server/model/state_reads.h"
#include "server/session/state_layout.h"
#include "server/session/state_pool.h"

namespace ttt {

struct ModelWeights;

// In place of an id: the one that request number `request` of the step before
// chooses, the last that was begun. Of a row that was not finite, any. Its own
// inverse.
constexpr int32_t ChosenBy(int32_t request) { return -1 - request; }

// The tokens that one session reads in a step, in a slot of its own.
struct StepSequence {
  int32_t slot;
  int64_t position;                     // tokens of the session before
  absl::Span<const int32_t> token_ids;  // may be empty
  // Of a launch of several steps.
  int32_t num_steps = 1;  // in which it reads, at most
  // Once it has read one of these it reads nothing more.
  absl::Span<const int32_t> stop_ids = {};  // at most kMostStopIds
};

// One place after which a token is chosen, scored or reported.
struct LogitsRequest {
  int32_t sequence;  // of the step
  int32_t row;       // after that token of the sequence; -1: after all it had
                     // before the step
  int32_t given_token = kSampleToken;  // or kNoToken, or the id to report on
  int32_t num_candidates = 0;
  const SamplingParams* sampling = nullptr;  // with kSampleToken; not null
};

struct LogitsResult {
  bool finite = true;  // false: nothing else is valid
  int32_t token_id = kNoToken;
  float logprob = 0.0f;
  std::vector<TokenLogprob> candidates;  // best first
};

struct StepResult {
  std::vector<LogitsResult> logits;  // one a request, in their order
  std::vector<bool> finite;  // one a sequence: its hidden state is finite
};

// The forward pass over ragged batches of sessions. Not thread-safe: used by
// the engine's thread. `backend` must outlive it.
class TttModel {
 public:
  struct Limits {
    int32_t max_rows = 0;        // tokens a step, >= 1
    int32_t max_sequences = 0;   // a step, >= 1
    int32_t max_candidates = 0;  // a logits request, in [0, vocab_size]
  };

  // Reads and packs all weights. Errors of `checkpoint`; RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<TttModel>> Load(
      const ModelConfig& config, Checkpoint* checkpoint, const Limits& limits,
      Backend* backend);
  ~TttModel();

  // `forms` are those of the backend that is to keep the states.
  static StateLayout MakeStateLayout(const ModelConfig& config,
                                     const StateForms& forms);

  // Writes the state of an empty session into the slot.
  absl::Status InitState(const StatePool& pool, int32_t slot);
  absl::Status CopyState(const StatePool& pool, int32_t to, int32_t from);
  // Queues the read of the last ids of a session that holds `tokens`, from its
  // slot. Must not outlive the model.
  absl::StatusOr<std::unique_ptr<LastTokens>> QueueLastTokens(
      const StatePool& pool, int32_t slot, int64_t tokens);
  // Reads each sequence's tokens into its slot and answers the requests, at
  // most Limits of each. The rows of one sequence do not depend on the others.
  absl::StatusOr<StepResult> Step(const StatePool& pool,
                                  absl::Span<const StepSequence> sequences,
                                  absl::Span<const LogitsRequest> requests);
  // Step in two parts, so that the next step can be begun before the last is
  // finished. What comes after Begin on the device comes after the step. At
  // most kMaxInFlight calls may be begun and not finished; one that fails to
  // begin is not.
  //
  // `num_steps`: 1, or to kMostSteps of them in one launch. Then each sequence
  // has one token, request i is of sequence i, and in each step after the first
  // a sequence reads what its request chose in the one before, until it has
  // read a stop id or has had its num_steps. Of one that reads nothing the slot
  // stays as it is, and its result means nothing; so it does in the call after
  // such a launch, where its id is ChosenBy the launch's last step.
  static constexpr int kMaxInFlight = 2;
  // More spare nothing, as measured, and each size of a batch has a recording
  // of that many steps.
  static constexpr int kMostSteps = 4;
  absl::Status Begin(const StatePool& pool,
                     absl::Span<const StepSequence> sequences,
                     absl::Span<const LogitsRequest> requests,
                     int32_t num_steps = 1);
  // Waits for the call in flight that was begun first; a result a step.
  absl::StatusOr<std::vector<StepResult>> Finish();
  int num_in_flight() const;  // calls of Begin
  // Whether the device works on while the host does.
  bool is_asynchronous() const { return backend_->is_asynchronous(); }

  // Queues the digests of the states in `slots`, whose sessions hold `tokens`.
  // Must not outlive the model.
  absl::StatusOr<std::unique_ptr<StateDigests>> QueueDigests(
      const StatePool& pool, absl::Span<const int32_t> slots,
      absl::Span<const int64_t> tokens);
  // Waits for them too.
  absl::StatusOr<std::vector<std::optional<StateDigest>>> Digest(
      const StatePool& pool, absl::Span<const int32_t> slots,
      absl::Span<const int64_t> tokens);

  const ModelConfig& config() const { return config_; }
  const std::string& fingerprint() const { return fingerprint_; }
  int64_t num_parameters() const { return num_parameters_; }
  int64_t weight_bytes() const;
  int64_t workspace_bytes() const;

  // What Load will take of the device, told before any weight is read: the
  // weights as they are packed, with the state of an empty session (INTERNAL:
  // the device failed), and what is beside them.
  static absl::StatusOr<int64_t> WeightBytes(const ModelConfig& config,
                                             Backend* backend);
  static int64_t WorkspaceBytes(const ModelConfig& config, const Limits& limits,
                                const StateForms& forms);

 private:
  struct Workspace;

  TttModel(const ModelConfig& config, const Limits& limits, Backend* backend);

  absl::Status UploadLaunch();
  absl::Status RunOps(const StatePool& pool);
  void ForgetRecordings(int64_t steps);
  // The step in hand, of the launch in hand.
  void SetStep(int32_t step);
  absl::Status QueueSteps(const StatePool& pool);
  absl::Status EndSequences();
  absl::Status QueueOps(const StatePool& pool);
  float* Hidden(int32_t layer) const;
  absl::Status RunLayer(const StatePool& pool, int32_t layer);
  absl::Status RunHead(const StatePool& pool);
  absl::Status QueueReadback(absl::Span<const LogitsRequest> requests);

  const ModelConfig config_;
  const Limits limits_;
  Backend* const backend_;
  std::string fingerprint_;
  int64_t num_parameters_ = 0;
  std::unique_ptr<ModelWeights> weights_;
  std::unique_ptr<Workspace> work_;
};

}  // namespace ttt
