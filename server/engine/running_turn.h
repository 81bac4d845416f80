// One turn in the batch: what it reads next, what it chooses, when it ends.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/engine/turn.h"
#include "server/model/tokenizer.h"
#include "server/model/ttt_model.h"
#include "server/request/text_output.h"
#include "server/scheduler/scheduler.h"

namespace ttt {

// Holds the turn's scratch slot. Knows no device and no clock. Not thread-safe.
class RunningTurn {
 public:
  struct Args {
    std::unique_ptr<Turn> turn;
    StateSlot slot;  // with the session's committed state, or empty
    std::vector<int32_t> context;  // the last ids of the session, for its text
    const Tokenizer* tokenizer;    // null: no text; must outlive the turn
    int32_t eos_token_id;          // -1: none
    absl::Time arrival;
    absl::Time start;
  };
  explicit RunningTurn(Args args);

  SchedulerRow scheduler_row() const;
  // What `num_tokens` of its pending tokens want of a step in which the turn is
  // sequence number `index`. The span lives until Advance.
  StepSequence Sequence(int32_t num_tokens) const;
  void AppendRequests(int32_t index, int32_t num_tokens,
                      std::vector<LogitsRequest>* requests) const;
  // Takes what the step made of them. `results` answer its requests in order.
  // INTERNAL (NUMERIC_FAULT): a number was not finite; the turn must be
  // dropped.
  absl::Status Advance(int32_t num_tokens, bool finite,
                       absl::Span<const LogitsResult> results, absl::Time now);
  // Ends the turn with what it read and chose so far, CANCELLED; false if it
  // has read nothing, so that there is nothing to commit.
  bool EndEarly(absl::Time now);

  // All is read and chosen: the slot holds the state to commit.
  bool is_done() const { return is_ending_ && num_pending() == 0; }
  bool is_ending() const { return is_ending_; }
  const Turn& turn() const { return *turn_; }
  int32_t slot() const { return slot_.index(); }
  int64_t position() const { return position_; }  // tokens in the slot's state
  int64_t num_generated() const { return num_generated_; }
  absl::Time arrival() const { return arrival_; }
  absl::Time last_progress() const { return last_progress_; }
  // The moment of the last chosen token.
  std::optional<absl::Time> last_token() const { return last_token_; }

  // The end of a turn that is done, committed in its session if it has one.
  TurnEnd Commit(const StateDigest& digest, absl::Time now);
  // The end of a turn that is dropped.
  TurnEnd Drop(absl::Status status, absl::Time now);
  // Gives back what the turn holds, then ends its stream.
  void End(TurnEnd end);

 private:
  bool is_score() const { return turn_->request.kind == RequestKind::kScore; }
  int64_t base_tokens() const;  // of the session before the turn
  int64_t num_pending() const;
  // What is to be read: the rest of the input, then the last chosen token.
  absl::Span<const int32_t> Pending() const;
  void TakeToken(const LogitsResult& result, absl::Time now);
  void TakeScores(absl::Span<const LogitsResult> results);
  bool IsStopToken(int32_t id) const;
  void FillCounts(TurnEnd* end, absl::Time now) const;

  const std::unique_ptr<Turn> turn_;
  StateSlot slot_;
  const int32_t eos_token_id_;
  const absl::Time arrival_;
  const absl::Time start_;
  int64_t position_;
  int64_t num_read_ = 0;           // of the input
  std::optional<int32_t> chosen_;  // and not yet read
  int64_t num_generated_ = 0;
  bool is_ending_ = false;
  FinishReason finish_reason_ = FinishReason::kLength;
  std::optional<TextOutput> text_;
  std::optional<absl::Time> first_token_, last_token_;
  absl::Time last_progress_;
  std::vector<TokenPosition> positions_;  // of a Score call
  std::optional<TokenPosition> first_;
};

}  // namespace ttt
