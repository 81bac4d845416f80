#include "tests/bench/resident_sessions.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "tests/bench/engine_workload.h"

namespace ttt {
namespace {

absl::StatusOr<int64_t> NumSessions(const ResidentSessions::Options& options,
                                    int64_t slot_bytes, Backend* backend) {
  if (options.sessions > 0) return options.sessions;
  TTT_ASSIGN_OR_RETURN(const std::optional<int64_t> free_bytes,
                       backend->FreeBytes());
  if (!free_bytes.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("sessions is 0, and ", backend->info().name,
                     " does not tell its memory: say how many"));
  }
  return std::max<int64_t>(
      1, (*free_bytes - backend->overhead().reserve_bytes) / slot_bytes -
             options.scratch_slots);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResidentSessions>> ResidentSessions::Create(
    const Options& options, Backend* backend) {
  TTT_ASSIGN_OR_RETURN(const ModelConfig config,
                       LoadModelConfig(options.model_dir));
  auto result = std::unique_ptr<ResidentSessions>(
      new ResidentSessions(config, options.scratch_slots));
  TTT_ASSIGN_OR_RETURN(
      result->model_,
      TttModel::Load(result->config_, MakeDummyCheckpoint(config).get(),
                     {.max_rows = options.max_rows,
                      .max_sequences = options.scratch_slots},
                     backend));
  const StateLayout layout =
      TttModel::MakeStateLayout(config, backend->state_forms());
  TTT_ASSIGN_OR_RETURN(const int64_t sessions,
                       NumSessions(options, layout.slot_bytes, backend));
  TTT_ASSIGN_OR_RETURN(
      result->pool_, StatePool::Create({.session_slots = sessions,
                                        .scratch_slots = options.scratch_slots},
                                       layout, backend));
  result->sessions_.resize(sessions);
  for (Session& session : result->sessions_) {
    TTT_ASSIGN_OR_RETURN(session.state, result->pool_->AcquireSlot());
  }
  TTT_RETURN_IF_ERROR(result->Clear());
  return result;
}

absl::Status ResidentSessions::Clear() {
  for (Session& session : sessions_) {
    session.tokens = 0;
    TTT_RETURN_IF_ERROR(model_->InitState(*pool_, session.state.index()));
  }
  return absl::OkStatus();
}

absl::Status ResidentSessions::Run(absl::Span<const Turn> turns) {
  std::vector<StateSlot> scratch;
  std::vector<std::vector<int32_t>> ids;
  std::vector<StepSequence> sequences;
  std::vector<LogitsRequest> requests;
  const SamplingParams greedy;
  ids.reserve(turns.size());
  for (const Turn& turn : turns) {
    const Session& session = sessions_[turn.session];
    TTT_ASSIGN_OR_RETURN(StateSlot slot, pool_->AcquireSlot());
    TTT_RETURN_IF_ERROR(
        model_->CopyState(*pool_, slot.index(), session.state.index()));
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < turn.tokens; ++i) {
      tokens.push_back(StreamToken(static_cast<int32_t>(turn.session),
                                   session.tokens + i, config_.vocab_size));
    }
    ids.push_back(std::move(tokens));
    sequences.push_back({slot.index(), session.tokens, ids.back()});
    requests.push_back({.sequence = static_cast<int32_t>(requests.size()),
                        .row = turn.tokens - 1,
                        .sampling = &greedy});
    scratch.push_back(std::move(slot));
  }
  TTT_RETURN_IF_ERROR(model_->Step(*pool_, sequences, requests).status());
  for (size_t i = 0; i < turns.size(); ++i) {
    Session& session = sessions_[turns[i].session];
    session.state = std::move(scratch[i]);
    session.tokens += turns[i].tokens;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StateDigest>> ResidentSessions::Digests(
    int64_t count) {
  std::vector<StateDigest> digests;
  for (int64_t first = 0; first < count; first += scratch_slots_) {
    const int64_t end = std::min(count, first + scratch_slots_);
    std::vector<int32_t> slots;
    std::vector<int64_t> tokens;
    for (int64_t i = first; i < end; ++i) {
      slots.push_back(sessions_[i].state.index());
      tokens.push_back(sessions_[i].tokens);
    }
    TTT_ASSIGN_OR_RETURN(const std::vector<std::optional<StateDigest>> found,
                         model_->Digest(*pool_, slots, tokens));
    for (const std::optional<StateDigest>& digest : found) {
      if (!digest.has_value()) {
        return absl::InternalError(absl::StrCat(
            "the state of session ", digests.size(), " is not finite"));
      }
      digests.push_back(*digest);
    }
  }
  return digests;
}

}  // namespace ttt
