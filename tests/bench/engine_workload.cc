#include "tests/bench/engine_workload.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "server/base/status_macros.h"
#include "server/scheduler/row_order.h"

namespace ttt {

int32_t StreamToken(int32_t stream, int64_t position, int32_t vocab_size) {
  // The last steps of MurmurHash3.
  uint64_t bits = static_cast<uint64_t>(stream) << 40 ^ position;
  bits = (bits ^ bits >> 33) * 0xff51afd7ed558ccd;
  bits = (bits ^ bits >> 33) * 0xc4ceb9fe1a85ec53;
  return static_cast<int32_t>((bits ^ bits >> 33) % vocab_size);
}

absl::StatusOr<std::unique_ptr<EngineWorkload>> EngineWorkload::Create(
    const Options& options, TimingBackend* backend) {
  TTT_ASSIGN_OR_RETURN(const ModelConfig config,
                       LoadModelConfig(options.model_dir));
  std::unique_ptr<Checkpoint> checkpoint;
  if (options.is_dummy) {
    checkpoint = MakeDummyCheckpoint(config);
  } else {
    TTT_ASSIGN_OR_RETURN(checkpoint, OpenCheckpoint(options.model_dir, config));
  }
  auto workload =
      std::unique_ptr<EngineWorkload>(new EngineWorkload(config, backend));
  workload->max_rows_ = options.max_rows;
  TTT_ASSIGN_OR_RETURN(workload->model_,
                       TttModel::Load(workload->config_, checkpoint.get(),
                                      {.max_rows = options.max_rows,
                                       .max_sequences = options.max_sequences},
                                      backend));
  if (options.lookahead && backend->is_asynchronous()) {
    workload->max_in_flight_ = 1;
  }
  TTT_ASSIGN_OR_RETURN(
      workload->pool_,
      StatePool::Create(
          {.session_slots = 1, .scratch_slots = options.num_slots},
          TttModel::MakeStateLayout(workload->config_, backend->state_forms()),
          backend));
  for (int32_t i = 0; i < options.num_slots; ++i) {
    TTT_ASSIGN_OR_RETURN(StateSlot slot, workload->pool_->AcquireSlot());
    workload->slots_.push_back(std::move(slot));
  }
  return workload;
}

double EngineWorkload::streamed_bytes() const {
  const double element = backend_.operand_type() == DType::kFloat32 ? 4 : 2;
  return static_cast<double>(model_->weight_bytes()) -
         element * config_.vocab_size * config_.hidden_size -
         static_cast<double>(slot_bytes());
}

absl::Status EngineWorkload::Restart(int32_t slot, int64_t tokens) {
  TTT_RETURN_IF_ERROR(model_->InitState(*pool_, slots_[slot].index()));
  return ReadOn(slot, 0, tokens);
}

absl::Status EngineWorkload::ReadOn(int32_t slot, int64_t from, int64_t to) {
  while (from < to) {
    const int64_t tokens = std::min<int64_t>(max_rows_, to - from);
    std::vector<Sequence> sequence = {
        {slot, static_cast<int32_t>(tokens), from, slot}};
    TTT_RETURN_IF_ERROR(Step(sequence));
    from += tokens;
  }
  return absl::OkStatus();
}

absl::Status EngineWorkload::Step(std::vector<Sequence>& sequences,
                                  int32_t num_steps) {
  std::vector<Sequence*> ordered;
  for (Sequence& sequence : sequences) ordered.push_back(&sequence);
  // As PlanStep has them.
  const auto chunks = absl::c_find_if(
      ordered, [](const Sequence* sequence) { return sequence->tokens > 1; });
  PlaceLongRows(PlaceOfLongRows(config_.is_mlp),
                absl::MakeSpan(ordered).first(chunks - ordered.begin()),
                [&](const Sequence* sequence) {
                  return (sequence->position + 1) % config_.mini_batch_size ==
                         0;
                });
  std::vector<int32_t> ids;
  for (const Sequence* const sequence : ordered) {
    for (int32_t i = 0; i < sequence->tokens; ++i) {
      ids.push_back(Token(sequence->stream, sequence->position + i));
    }
  }
  const SamplingParams greedy;
  std::vector<StepSequence> steps;
  std::vector<LogitsRequest> requests;
  int64_t row = 0;
  for (Sequence* const sequence : ordered) {
    steps.push_back(
        {.slot = slots_[sequence->slot].index(),
         .position = sequence->position,
         .token_ids = absl::MakeConstSpan(&ids[row], sequence->tokens),
         .num_steps = num_steps});
    requests.push_back({.sequence = static_cast<int32_t>(requests.size()),
                        .row = sequence->tokens - 1,
                        .sampling = &greedy});
    row += sequence->tokens;
    sequence->position += sequence->tokens + num_steps - 1;
  }
  TTT_RETURN_IF_ERROR(model_->Begin(*pool_, steps, requests, num_steps));
  return FinishDownTo(max_in_flight_);
}

absl::Status EngineWorkload::Finish() { return FinishDownTo(0); }

absl::Status EngineWorkload::FinishDownTo(int in_flight) {
  while (model_->num_in_flight() > in_flight) {
    TTT_RETURN_IF_ERROR(model_->Finish().status());
  }
  return absl::OkStatus();
}

absl::Status EngineWorkload::Fork(int32_t to, int32_t from) {
  TTT_RETURN_IF_ERROR(
      model_->CopyState(*pool_, slots_[to].index(), slots_[from].index()));
  return backend_.Synchronize();
}

absl::Status EngineWorkload::Digest(const std::vector<int32_t>& slots,
                                    int64_t tokens) {
  std::vector<int32_t> indices;
  for (const int32_t slot : slots) indices.push_back(slots_[slot].index());
  const std::vector<int64_t> positions(slots.size(), tokens);
  return model_->Digest(*pool_, indices, positions).status();
}

absl::StatusOr<std::vector<StateDigest>> EngineWorkload::Digests(
    const std::vector<Sequence>& sequences) {
  std::vector<int32_t> indices;
  std::vector<int64_t> positions;
  for (const Sequence& sequence : sequences) {
    indices.push_back(slots_[sequence.slot].index());
    positions.push_back(sequence.position);
  }
  TTT_ASSIGN_OR_RETURN(const std::vector<std::optional<StateDigest>> found,
                       model_->Digest(*pool_, indices, positions));
  std::vector<StateDigest> digests;
  for (const std::optional<StateDigest>& digest : found) {
    if (!digest.has_value())
      return absl::InternalError("a state is not finite");
    digests.push_back(*digest);
  }
  return digests;
}

int32_t EngineWorkload::Token(int32_t stream, int64_t position) const {
  return StreamToken(stream, position, config_.vocab_size);
}

int64_t EngineWorkload::RaggedStart() {
  return config_.mini_batch_size +
         static_cast<int64_t>(random_() % config_.mini_batch_size);
}

}  // namespace ttt
