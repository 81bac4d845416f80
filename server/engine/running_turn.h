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
//
// Its part of a step is queued before that of the last step is taken, so there
// are two places in the turn: how far its steps are queued, which the next step
// goes on from, and how far they are taken, which the turn answers for. The
// step that is queued behind one that ends the turn reads what that chose last,
// as it must, and what it chooses itself is for nobody. Behind that one there
// are others only in a launch of several steps, or after one: the device leaves
// the turn out of these.
class RunningTurn {
 public:
  struct Args {
    std::unique_ptr<Turn> turn;
    StateSlot slot;  // with the session's committed state, or empty
    // Of the session, for its text; null: it is empty, or there is none.
    std::unique_ptr<LastTokens> context;
    const Tokenizer* tokenizer;  // null: no text; must outlive the turn
    int32_t eos_token_id;        // -1: none
    absl::Time arrival;
    absl::Time start;
  };
  explicit RunningTurn(Args args);

  // Whether anything is left to queue.
  bool wants_step() const;
  SchedulerRow scheduler_row() const;
  // Has a chosen token to read, or will have when its queued steps have ended.
  bool is_decoding() const { return num_sampled_ > 0; }
  // Queues `num_tokens` of its pending tokens in a step in which the turn is
  // sequence number `index`. The span lives until the next Queue.
  StepSequence Queue(int32_t index, int32_t num_tokens,
                     std::vector<LogitsRequest>* requests);
  // Whether the device can take it through that many steps alone: it decodes,
  // nothing but its tokens' ids and number ends it, and its stream has room.
  bool CanDecode(int num_steps) const;
  // Steps until all is read, if no stop id comes. Of one that decodes.
  int64_t steps_left() const;
  // As Queue of its one token, in a launch of `num_steps`, of which it takes as
  // many as it has left. Adds a request in any case.
  StepSequence QueueLaunch(int32_t index, int num_steps,
                           std::vector<LogitsRequest>* requests);
  // Tokens chosen, or to be chosen in steps that are queued.
  int64_t num_sampled() const { return num_sampled_; }
  // Takes what the oldest step that was queued and not taken made of
  // `num_tokens`; `results` answer its requests in order. After an error the
  // turn must be dropped. INTERNAL (NUMERIC_FAULT): a number was not finite.
  // One without a reason is of the device.
  absl::Status Advance(int32_t num_tokens, bool finite,
                       absl::Span<const LogitsResult> results, absl::Time now);
  // Ends the turn, once steps that are queued have ended, with the tokens that
  // it chose so far or that these read, CANCELLED; false if that is nothing, so
  // that there is nothing to commit.
  bool EndEarly(absl::Time now);

  // Once, for a turn in a session with nothing left to queue, and of which it
  // is known what the queued steps read: when they have ended the slot holds
  // the state to commit.
  bool StartsCommit();
  // All is read and chosen.
  bool is_done() const;
  bool is_ending() const { return is_ending_; }
  const Turn& turn() const { return *turn_; }
  int32_t slot() const { return slot_.index(); }
  // Tokens in the slot's state when all queued steps have ended.
  int64_t queued_position() const { return queued_position_; }
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
  bool has_ended() const { return has_ended_; }

 private:
  bool is_score() const { return turn_->request.kind == RequestKind::kScore; }
  int64_t base_tokens() const;  // of the session before the turn
  // What is to be queued yet: the rest of the input, then the last token.
  int64_t num_pending() const;
  bool WantsSample() const;
  // Now is a place in the turn after which a token is chosen.
  void CountSample(int32_t chosen);
  void AppendScoreRequests(int32_t index, int32_t num_tokens,
                           std::vector<LogitsRequest>* requests) const;
  absl::Status StartText();
  void TakeToken(const LogitsResult& result, absl::Time now);
  void TakeScores(absl::Span<const LogitsResult> results);
  bool IsStopToken(int32_t id) const;
  void FillCounts(TurnEnd* end, absl::Time now) const;

  const std::unique_ptr<Turn> turn_;
  StateSlot slot_;
  std::unique_ptr<LastTokens> context_;  // until the text starts
  const Tokenizer* const tokenizer_;     // or null
  const std::vector<int32_t> stop_ids_;
  const absl::Time arrival_;
  const absl::Time start_;
  // As far as steps are queued.
  int64_t queued_position_;
  int64_t num_queued_ = 0;   // of the input
  int64_t most_sampled_;     // tokens that it ends with, unless it stops before
  int64_t num_sampled_ = 0;  // of these, chosen or to be chosen
  int64_t num_reread_ = 0;   // of these, queued to be read
  // The last of these, not queued to be read. Still to be chosen: it stands for
  // a request of the last step that was queued.
  std::optional<int32_t> last_chosen_;
  int32_t reading_ = 0;  // the token of the last Queue
  int32_t num_steps_ = 0;
  // As far as steps are taken.
  int32_t num_steps_taken_ = 0;
  int64_t position_;
  int64_t num_read_ = 0;  // of the input
  int64_t num_generated_ = 0;
  bool is_ending_ = false;
  bool starts_commit_ = false;
  bool has_ended_ = false;
  FinishReason finish_reason_ = FinishReason::kLength;
  std::optional<TextOutput> text_;  // from the first chosen token on
  std::optional<absl::Time> first_token_, last_token_;
  absl::Time last_progress_;
  std::vector<TokenPosition> positions_;  // of a Score call
  std::optional<TokenPosition> first_;
};

}  // namespace ttt
