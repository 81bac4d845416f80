// Steps of a model to be timed.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/ttt_model.h"
#include "server/session/state_pool.h"
#include "tests/bench/timing_backend.h"

namespace ttt {

// A random id, the same for a stream and a position at all times.
int32_t StreamToken(int32_t stream, int64_t position, int32_t vocab_size);

// A model with a pool of states. Tokens are random, the same for a stream and a
// position at all times. Not thread-safe.
class EngineWorkload {
 public:
  struct Options {
    std::string model_dir;
    bool is_dummy = true;  // random weights from config.json alone
    int32_t max_rows = 1;
    int32_t max_sequences = 1;
    int32_t num_slots = 1;
    // Begin a step before the last is finished, as the engine does, on a device
    // that works on its own.
    bool lookahead = true;
  };
  // What a sequence reads each step.
  struct Sequence {
    int32_t slot;
    int32_t tokens;  // >= 1
    int64_t position = 0;
    int32_t stream = 0;  // whose tokens
  };

  // `backend` must outlive it. Errors of the config, checkpoint and backend.
  static absl::StatusOr<std::unique_ptr<EngineWorkload>> Create(
      const Options& options, TimingBackend* backend);

  const ModelConfig& config() const { return config_; }
  const TttModel& model() const { return *model_; }
  TimingBackend& backend() { return backend_; }
  // Bytes of the weights that a step streams: all but the embedding, of which
  // it takes single rows.
  double streamed_bytes() const;
  int64_t slot_bytes() const { return pool_->layout().slot_bytes; }

  // Makes the state in `slot` that of a session that has read `tokens`, by
  // reading those of the stream of the same number.
  absl::Status Restart(int32_t slot, int64_t tokens);
  // Reads on, in the largest steps, until the state has read `to` tokens.
  absl::Status ReadOn(int32_t slot, int64_t from, int64_t to);
  // Each sequence reads its tokens, and a token is sampled after the last
  // (greedy). Moves the positions on. The last step is over after Finish. With
  // `num_steps` > 1, as TttModel::Begin has it, a launch of so many: in those
  // after the first the sequences, of one token, read what they chose.
  absl::Status Step(std::vector<Sequence>& sequences, int32_t num_steps = 1);
  absl::Status Finish();
  // Copies a state; returns when it is done.
  absl::Status Fork(int32_t to, int32_t from);
  absl::Status Digest(const std::vector<int32_t>& slots, int64_t tokens);
  // Of each sequence's state. INTERNAL: one is not finite.
  absl::StatusOr<std::vector<StateDigest>> Digests(
      const std::vector<Sequence>& sequences);

  // Somewhere in a mini-batch, never at the same place for all: as many tokens
  // as a sequence of a ragged batch has read before.
  int64_t RaggedStart();

 private:
  EngineWorkload(const ModelConfig& config, TimingBackend* backend)
      : config_(config), backend_(*backend) {}

  absl::Status FinishDownTo(int in_flight);
  int32_t Token(int32_t stream, int64_t position) const;

  const ModelConfig config_;
  TimingBackend& backend_;
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::vector<StateSlot> slots_;
  int32_t max_rows_ = 0;
  int max_in_flight_ = 0;  // when Step returns
  std::minstd_rand random_{1};
};

}  // namespace ttt
