// An engine on a small random model, driven step by step.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/engine.h"
#include "server/session/session_store.h"
#include "server/telemetry/metrics.h"
#include "tests/support/fake_clock.h"
#include "tests/support/late_backend.h"
#include "tests/support/model_fixture.h"

namespace ttt {

// `count` ids that depend on `seed` alone.
inline std::vector<int32_t> RandomIds(uint32_t seed, int count,
                                      int32_t vocab_size = 97) {
  std::vector<int32_t> ids;
  uint64_t x = seed * 2654435761u + 12345;
  for (int i = 0; i < count; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    ids.push_back(static_cast<int32_t>((x >> 33) % vocab_size));
  }
  return ids;
}

// What came of one turn.
struct TurnOutcomeRecord {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::string text;
  std::optional<TurnEnd> end;

  bool ok() const { return end.has_value() && end->status.ok(); }
};

// A turn that was given to the engine, and its reader.
class PendingTurn {
 public:
  explicit PendingTurn(std::shared_ptr<TokenStream> stream)
      : stream_(std::move(stream)) {}

  TokenStream& stream() { return *stream_; }
  // Takes what is there.
  const TurnOutcomeRecord& Read() {
    while (std::optional<TokenStream::Chunk> chunk = stream_->Take()) {
      for (const TokenPosition& token : chunk->tokens) {
        record_.tokens.push_back(token.token_id);
        if (token.logprob.has_value())
          record_.logprobs.push_back(*token.logprob);
      }
      record_.text += chunk->text;
      if (!chunk->end.has_value()) continue;
      record_.end = std::move(chunk->end);
      break;
    }
    return record_;
  }

 private:
  std::shared_ptr<TokenStream> stream_;
  TurnOutcomeRecord record_;
};

// Random weights, of which the embedding of one token is no number.
class SpoiledCheckpoint : public Checkpoint {
 public:
  SpoiledCheckpoint(const ModelConfig& config, std::optional<int32_t> token)
      : checkpoint_(MakeDummyCheckpoint(config)), token_(token) {}

  absl::StatusOr<std::vector<float>> Read(
      absl::string_view name, const std::vector<int64_t>& shape) override {
    absl::StatusOr<std::vector<float>> values = checkpoint_->Read(name, shape);
    if (values.ok() && token_.has_value() &&
        name == "model.embed_tokens.weight") {
      (*values)[*token_ * shape[1]] = std::numeric_limits<float>::quiet_NaN();
    }
    return values;
  }
  std::string fingerprint() const override {
    return checkpoint_->fingerprint();
  }

 private:
  const std::unique_ptr<Checkpoint> checkpoint_;
  const std::optional<int32_t> token_;
};

class EngineFixture {
 public:
  struct Options {
    TestBackendOptions backend;
    ModelConfig config = SmallConfig();
    int32_t max_batch_rows = 8;
    int32_t max_batch_tokens = 64;
    int64_t session_slots = 64;
    int64_t stream_tokens = 1 << 20;  // that a stream holds
    bool poison_released = false;     // See StatePool::Options.
    const Tokenizer* tokenizer = nullptr;
    absl::Duration max_queue_wait = absl::InfiniteDuration();
    // Puts a backend of the test's own before the device's.
    std::function<std::unique_ptr<Backend>(Backend* device)> wrap;
    // Puts a LateBackend before these.
    bool is_late = false;
    // What has read this token is not finite.
    std::optional<int32_t> spoiled_token;
  };

  explicit EngineFixture(Options options) : options_(std::move(options)) {
    device_ = CreateTestBackend(options_.backend);
    if (options_.wrap) wrapper_ = options_.wrap(device_.get());
    Backend* backend = wrapper_ ? wrapper_.get() : device_.get();
    if (options_.is_late) {
      late_ = std::make_unique<LateBackend>(backend);
      backend = late_.get();
    }
    SpoiledCheckpoint checkpoint(options_.config, options_.spoiled_token);
    model_ = TttModel::Load(options_.config, &checkpoint,
                            {.max_rows = options_.max_batch_tokens,
                             .max_sequences = options_.max_batch_rows,
                             .max_candidates = 5},
                            backend)
                 .value();
    pool_ = StatePool::Create({.session_slots = options_.session_slots,
                               .scratch_slots = options_.max_batch_rows,
                               .poison_released = options_.poison_released},
                              TttModel::MakeStateLayout(options_.config,
                                                        backend->state_forms()),
                              backend)
                .value();
    store_ = SessionStore::Create({}, &clock_, pool_.get()).value();
    engine_ = Engine::Create({.max_batch_rows = options_.max_batch_rows,
                              .max_batch_tokens = options_.max_batch_tokens,
                              .max_queue_wait = options_.max_queue_wait},
                             model_.get(), options_.tokenizer, pool_.get(),
                             store_.get(), &metrics_, &clock_)
                  .value();
  }

  // Gives a turn to the engine; `session` empty: stateless. `arrival`: of the
  // call, if not now.
  PendingTurn Submit(Request request, const std::string& session = "",
                     absl::Time arrival = absl::InfiniteFuture()) {
    auto turn = std::make_unique<Turn>();
    if (!session.empty() && request.kind == RequestKind::kComplete) {
      turn->lease =
          store_->Acquire(session, {.create_if_absent = true}).value();
    } else if (!session.empty()) {
      turn->view_session = session;
    }
    turn->request = std::move(request);
    turn->arrival = arrival;
    turn->stream = std::make_shared<TokenStream>(
        TokenStream::Options{.capacity_bytes =
                                 options_.stream_tokens *
                                 TokenStream::Bytes(TokenPosition(), "")},
        [] {});
    PendingTurn pending(turn->stream);
    engine_->Add(std::move(turn));
    return pending;
  }

  // Runs until nothing is left to do, at most `max_steps` rounds.
  void RunAll(int max_steps = 100000) {
    while (max_steps-- > 0 && engine_->Step()) {
    }
  }

  // Runs one turn alone to its end.
  TurnOutcomeRecord Run(Request request, const std::string& session = "") {
    PendingTurn turn = Submit(std::move(request), session);
    RunAll();
    return turn.Read();
  }

  static Request Complete(std::vector<int32_t> input, int64_t max_tokens) {
    Request request;
    request.input_ids = std::move(input);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0.9f;
    request.sampling.top_p = 0.95f;
    request.sampling.seed = 42;
    request.top_logprobs = 2;
    return request;
  }

  Engine& engine() { return *engine_; }
  SessionStore& store() { return *store_; }
  StatePool& pool() { return *pool_; }
  FakeClock& clock() { return clock_; }
  Metrics& metrics() { return metrics_; }
  LateBackend& late() { return *late_; }
  Backend& device() { return *device_; }

 private:
  const Options options_;
  FakeClock clock_;
  Metrics metrics_;
  std::unique_ptr<Backend> device_;
  std::unique_ptr<Backend> wrapper_;
  std::unique_ptr<LateBackend> late_;
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace ttt
