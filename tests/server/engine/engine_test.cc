#include "server/engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "server/base/error.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using absl::StatusCode;

class EngineTest : public testing::Test {
 protected:
  static Request Complete(std::vector<int32_t> input, int64_t max_tokens) {
    return EngineFixture::Complete(std::move(input), max_tokens);
  }
  SessionInfo Session(const std::string& id) {
    return f_.store().GetSession(id).value();
  }
  int64_t SlotsInUse() { return f_.pool().usage().slots_in_use; }

  EngineFixture f_{{}};
};

TEST_F(EngineTest, GeneratesAsManyTokensAsAskedFor) {
  const TurnOutcomeRecord turn = f_.Run(Complete(RandomIds(1, 20), 7));
  ASSERT_TRUE(turn.ok());
  EXPECT_EQ(turn.tokens.size(), 7u);
  EXPECT_EQ(turn.end->finish_reason, FinishReason::kLength);
  EXPECT_EQ(turn.end->usage.input_tokens, 20);
  EXPECT_EQ(turn.end->usage.output_tokens, 7);
}

TEST_F(EngineTest, CommitsInputAndAllGeneratedTokens) {
  const TurnOutcomeRecord turn = f_.Run(Complete(RandomIds(1, 20), 7), "s");
  ASSERT_TRUE(turn.ok());
  EXPECT_EQ(turn.end->revision, 1u);
  EXPECT_EQ(turn.end->usage.session_tokens, 27);
  EXPECT_EQ(Session("s").tokens, 27);
  EXPECT_EQ(Session("s").digest, turn.end->digest);
}

TEST_F(EngineTest, StateAfterGeneratingIsTheStateAfterReadingTheSameTokens) {
  const auto input = RandomIds(1, 20);
  const TurnOutcomeRecord generated = f_.Run(Complete(input, 13), "generated");
  auto all = input;
  all.insert(all.end(), generated.tokens.begin(), generated.tokens.end());
  const TurnOutcomeRecord read = f_.Run(Complete(all, 0), "read");
  EXPECT_EQ(read.end->digest, generated.end->digest);
}

TEST_F(EngineTest, EmptyInputGoesOnFromTheLastToken) {
  const TurnOutcomeRecord whole =
      f_.Run(Complete(RandomIds(1, 20), 9), "whole");
  const TurnOutcomeRecord begin =
      f_.Run(Complete(RandomIds(1, 20), 4), "parts");
  const TurnOutcomeRecord rest = f_.Run(Complete({}, 5), "parts");
  auto tokens = begin.tokens;
  tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
  EXPECT_EQ(tokens, whole.tokens);
  EXPECT_EQ(rest.end->digest, whole.end->digest);
  EXPECT_EQ(Session("parts").revision, 2u);
}

TEST_F(EngineTest, StopTokenEndsTheTurnAndIsPartOfTheState) {
  const TurnOutcomeRecord free_run = f_.Run(Complete(RandomIds(1, 20), 9));
  Request request = Complete(RandomIds(1, 20), 9);
  request.stop.token_ids = {free_run.tokens[3]};
  const TurnOutcomeRecord turn = f_.Run(std::move(request), "s");
  EXPECT_EQ(turn.end->finish_reason, FinishReason::kStop);
  EXPECT_EQ(turn.tokens.back(), free_run.tokens[3]);
  EXPECT_EQ(Session("s").tokens, 20 + static_cast<int64_t>(turn.tokens.size()));
}

TEST_F(EngineTest, ReadingOnlyChoosesNothing) {
  const TurnOutcomeRecord turn = f_.Run(Complete(RandomIds(1, 20), 0), "s");
  ASSERT_TRUE(turn.ok());
  EXPECT_TRUE(turn.tokens.empty());
  EXPECT_EQ(Session("s").tokens, 20);
}

TEST_F(EngineTest, CancelledTurnLeavesTheSessionAsItWas) {
  f_.Run(Complete(RandomIds(1, 20), 3), "s");
  const SessionInfo before = Session("s");
  const int64_t slots_before = SlotsInUse();
  PendingTurn turn = f_.Submit(Complete(RandomIds(2, 30), 50), "s");
  for (int i = 0; i < 10; ++i) f_.engine().Step();
  turn.stream().Cancel();
  f_.engine().Step();
  ASSERT_TRUE(turn.Read().end.has_value());  // Within one step.
  EXPECT_THAT(turn.Read().end->status, StatusIs(StatusCode::kCancelled));
  EXPECT_EQ(Session("s").revision, before.revision);
  EXPECT_EQ(Session("s").digest, before.digest);
  EXPECT_FALSE(Session("s").running);
  EXPECT_EQ(SlotsInUse(), slots_before);
}

TEST_F(EngineTest, CancelledTurnCanCommitWhatItHas) {
  Request request = Complete(RandomIds(2, 30), 50);
  request.on_cancel = OnCancel::kCommitPartial;
  PendingTurn turn = f_.Submit(std::move(request), "s");
  for (int i = 0; i < 10; ++i) f_.engine().Step();
  turn.stream().Cancel();
  f_.RunAll();
  const TurnOutcomeRecord& record = turn.Read();
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record.end->finish_reason, FinishReason::kCancelled);
  EXPECT_GT(record.tokens.size(), 0u);
  EXPECT_LT(record.tokens.size(), 50u);
  EXPECT_EQ(Session("s").tokens,
            30 + static_cast<int64_t>(record.tokens.size()));
}

TEST_F(EngineTest, PromptCancelledHalfwayCommitsTheTokensThatWereRead) {
  Request request = Complete(RandomIds(2, 200), 50);
  request.on_cancel = OnCancel::kCommitPartial;
  PendingTurn turn = f_.Submit(std::move(request), "s");
  f_.engine().Step();
  turn.stream().Cancel();
  f_.RunAll();
  EXPECT_EQ(Session("s").tokens, 64);  // One step's budget.
  EXPECT_EQ(turn.Read().end->usage.input_tokens, 64);
  const TurnOutcomeRecord read = f_.Run(Complete(RandomIds(2, 64), 0), "t");
  EXPECT_EQ(Session("s").digest, read.end->digest);
}

TEST_F(EngineTest, DeadlineEndsATurnInTheQueueAndInTheBatch) {
  Request request = Complete(RandomIds(2, 30), 50);
  request.deadline = f_.clock().Now() + absl::Seconds(1);
  PendingTurn queued = f_.Submit(request);
  PendingTurn running = f_.Submit(request, "s");
  f_.engine().Step();
  PendingTurn late = f_.Submit(request);
  f_.clock().Advance(absl::Seconds(2));
  f_.engine().Step();
  for (PendingTurn* turn : {&queued, &running, &late}) {
    ASSERT_TRUE(turn->Read().end.has_value());
    EXPECT_THAT(turn->Read().end->status,
                StatusIs(StatusCode::kDeadlineExceeded));
  }
  EXPECT_EQ(f_.engine().num_running(), 0);
}

TEST_F(EngineTest, FailedFirstTurnLeavesNoSessionBehind) {
  PendingTurn turn = f_.Submit(Complete(RandomIds(2, 30), 50), "new");
  f_.engine().Step();
  turn.stream().Cancel();
  f_.RunAll();
  EXPECT_THAT(f_.store().GetSession("new"), StatusIs(StatusCode::kNotFound));
}

TEST_F(EngineTest, NewTurnsJoinAndFinishedOnesLeaveBetweenSteps) {
  PendingTurn longer = f_.Submit(Complete(RandomIds(1, 5), 30));
  for (int i = 0; i < 5; ++i) f_.engine().Step();
  PendingTurn shorter = f_.Submit(Complete(RandomIds(2, 5), 2));
  f_.engine().Step();
  EXPECT_EQ(f_.engine().num_running(), 2);
  for (int i = 0; i < 3; ++i) f_.engine().Step();
  EXPECT_TRUE(shorter.Read().ok());
  EXPECT_EQ(f_.engine().num_running(), 1);
}

Request WithoutLogprobs(Request request) {
  request.top_logprobs.reset();
  return request;
}

TEST_F(EngineTest, SlowReaderStopsItsOwnTurnAlone) {
  EngineFixture f({.stream_tokens = 4});
  PendingTurn slow = f.Submit(WithoutLogprobs(Complete(RandomIds(1, 5), 20)));
  PendingTurn other = f.Submit(WithoutLogprobs(Complete(RandomIds(2, 5), 4)));
  f.RunAll();
  EXPECT_FALSE(slow.stream().Take()->end.has_value());
  EXPECT_TRUE(other.Read().ok());
  for (int i = 0; i < 10; ++i) {
    f.RunAll();
    slow.Read();
    if (slow.Read().end.has_value()) break;
  }
  EXPECT_TRUE(slow.Read().ok());
  EXPECT_EQ(slow.Read().tokens.size(), 16u);  // After the 4 that were taken.
}

TEST_F(EngineTest, ReaderThatNeverReadsEndsItsTurn) {
  EngineFixture f({.stream_tokens = 4});
  PendingTurn slow = f.Submit(Complete(RandomIds(1, 5), 20), "s");
  f.RunAll();
  f.clock().Advance(absl::Minutes(2));
  f.RunAll();
  const TurnOutcomeRecord& record = slow.Read();
  ASSERT_TRUE(record.end.has_value());
  EXPECT_EQ(ErrorReason(record.end->status), "SLOW_CONSUMER");
}

TEST_F(EngineTest, ReaderThatHoldsAWantedRowEndsItsTurnSooner) {
  EngineFixture f({.max_batch_rows = 1, .stream_tokens = 4});
  PendingTurn slow = f.Submit(Complete(RandomIds(1, 5), 20), "s");
  f.RunAll();
  f.clock().Advance(absl::Seconds(3));
  f.RunAll();
  EXPECT_FALSE(slow.Read().end.has_value());  // Nobody else waits.
  f.RunAll();
  PendingTurn other = f.Submit(Complete(RandomIds(2, 5), 1));
  f.clock().Advance(absl::Seconds(3));
  f.RunAll();
  EXPECT_EQ(ErrorReason(slow.Read().end->status), "SLOW_CONSUMER");
  EXPECT_TRUE(other.Read().ok());
}

TEST_F(EngineTest, TurnThatWaitedTooLongIsNotBegun) {
  EngineFixture f({.max_batch_rows = 1, .max_queue_wait = absl::Seconds(5)});
  PendingTurn running = f.Submit(Complete(RandomIds(1, 5), 20));
  PendingTurn waiting = f.Submit(Complete(RandomIds(2, 5), 4), "s");
  f.engine().Step();
  f.clock().Advance(absl::Seconds(6));
  f.engine().Step();
  const TurnOutcomeRecord& record = waiting.Read();
  ASSERT_TRUE(record.end.has_value());
  EXPECT_EQ(ErrorReason(record.end->status), "QUEUE_TIMEOUT");
  EXPECT_TRUE(RetryAfter(record.end->status).has_value());
  EXPECT_THAT(f.store().GetSession("s"), StatusIs(StatusCode::kNotFound));
  f.RunAll();
  EXPECT_TRUE(running.Read().ok());
}

// The time before Add counts, but not as a wait for a row.
TEST_F(EngineTest, QueueTimeIsFromTheArrivalOfTheCall) {
  EngineFixture f({.max_queue_wait = absl::Seconds(5)});
  const absl::Time arrival = f.clock().Now();
  f.clock().Advance(absl::Seconds(7));
  PendingTurn turn = f.Submit(Complete(RandomIds(1, 5), 1), "", arrival);
  f.RunAll();
  ASSERT_TRUE(turn.Read().ok());
  EXPECT_GE(turn.Read().end->timing.queue, absl::Seconds(7));
}

TEST_F(EngineTest, AShortWaitIsToldToTheMillisecond) {
  EngineFixture f(
      {.max_batch_rows = 1, .max_queue_wait = absl::Milliseconds(200)});
  PendingTurn running = f.Submit(Complete(RandomIds(1, 5), 20));
  PendingTurn waiting = f.Submit(Complete(RandomIds(2, 5), 4));
  f.engine().Step();
  f.clock().Advance(absl::Milliseconds(500));
  f.engine().Step();
  EXPECT_THAT(std::string(waiting.Read().end->status.message()),
              testing::HasSubstr("waited for 500ms "));
}

TEST_F(EngineTest, ScoreGivesTheLogprobOfEachNextToken) {
  const auto ids = RandomIds(3, 40);
  Request request;
  request.kind = RequestKind::kScore;
  request.input_ids = ids;
  request.top_logprobs = 5;
  const TurnOutcomeRecord turn = f_.Run(std::move(request));
  ASSERT_TRUE(turn.ok());
  ASSERT_EQ(turn.end->positions.size(), 40u);
  EXPECT_FALSE(turn.end->first.has_value());
  for (int p = 0; p < 40; ++p) {
    EXPECT_EQ(turn.end->positions[p].token_id, ids[p]);
    EXPECT_EQ(turn.end->positions[p].logprob.has_value(), p < 39);
    EXPECT_EQ(turn.end->positions[p].top.size(), 5u);
  }
}

TEST_F(EngineTest, ScoreInASessionStartsFromItsStateAndCommitsNothing) {
  const auto ids = RandomIds(3, 40);
  Request whole;
  whole.kind = RequestKind::kScore;
  whole.input_ids = ids;
  whole.top_logprobs = 0;
  const TurnOutcomeRecord expected = f_.Run(whole);
  f_.Run(Complete({ids.begin(), ids.begin() + 21}, 0), "s");
  const SessionInfo before = Session("s");
  Request rest = whole;
  rest.input_ids.assign(ids.begin() + 21, ids.end());
  const TurnOutcomeRecord turn = f_.Run(rest, "s");
  ASSERT_TRUE(turn.ok());
  ASSERT_TRUE(turn.end->first.has_value());
  EXPECT_EQ(turn.end->first->token_id, ids[21]);
  EXPECT_EQ(turn.end->first->logprob, expected.end->positions[20].logprob);
  for (int p = 0; p < 18; ++p) {
    EXPECT_EQ(turn.end->positions[p].logprob,
              expected.end->positions[21 + p].logprob);
  }
  EXPECT_EQ(Session("s").digest, before.digest);
  EXPECT_EQ(Session("s").revision, before.revision);
}

TEST_F(EngineTest, WaitingScoresKeepNoOldStateAlive) {
  EngineFixture f({.max_batch_rows = 1, .session_slots = 1});
  f.Run(Complete(RandomIds(1, 20), 0), "s");
  PendingTurn turn = f.Submit(Complete(RandomIds(2, 20), 3), "s");
  Request score;
  score.kind = RequestKind::kScore;
  score.input_ids = RandomIds(3, 20);
  PendingTurn first = f.Submit(score, "s");
  PendingTurn second = f.Submit(score, "s");
  PendingTurn later = f.Submit(Complete(RandomIds(4, 20), 3));
  f.RunAll();
  EXPECT_TRUE(turn.Read().ok());
  EXPECT_TRUE(first.Read().ok());
  EXPECT_TRUE(second.Read().ok());
  EXPECT_TRUE(later.Read().ok());
}

TEST_F(EngineTest, ScoreOfASessionThatIsGoneIsNotFound) {
  f_.Run(Complete(RandomIds(1, 20), 0), "s");
  Request score;
  score.kind = RequestKind::kScore;
  score.input_ids = RandomIds(3, 20);
  PendingTurn turn = f_.Submit(score, "s");
  ASSERT_TRUE(f_.store().DeleteSession("s").ok());
  f_.RunAll();
  EXPECT_THAT(turn.Read().end->status, StatusIs(StatusCode::kNotFound));
}

TEST_F(EngineTest, PenaltiesCountTheTokensOfEarlierTurns) {
  Request plain = Complete({}, 1);
  plain.sampling = {};
  f_.Run(Complete(RandomIds(1, 20), 0), "a");
  f_.store()
      .ForkSession("a", "b", absl::InfiniteDuration(), std::nullopt)
      .value();
  const int32_t chosen = f_.Run(plain, "a").tokens[0];
  f_.Run(Complete({chosen}, 0), "b");
  Request penalised = plain;
  penalised.sampling.frequency_penalty = 100;
  const TurnOutcomeRecord turn = f_.Run(penalised, "b");
  auto seen = RandomIds(1, 20);
  seen.push_back(chosen);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), turn.tokens[0]), 0);
}

// Ids 10 to 13 are the bytes of one character, 20 is a word, 1 has no text.
class SmallTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              bool) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>) const override {
    return absl::UnimplementedError("not needed");
  }
  std::string Piece(int32_t) const override { return "x"; }
  TokenText Text(int32_t id) const override {
    if (id == 1) return {};
    if (id >= 10 && id < 14) {
      return {.text = std::string(1, kCharacter[id - 10]), .is_byte = true};
    }
    if (id == 20) return {.text = " The", .begins_with_space = true};
    return {.text = "x"};
  }
  int32_t vocab_size() const override { return 97; }
  int32_t bos_id() const override { return 1; }
  int32_t eos_id() const override { return -1; }

  static constexpr char kCharacter[] = "\xf0\x9f\x98\x80";
};

class EngineTextTest : public testing::Test {
 protected:
  // The text of a turn that generates `id`.
  std::string Generate(std::vector<int32_t> input, int32_t id,
                       const std::string& session) {
    Request request = EngineFixture::Complete(std::move(input), 1);
    request.sampling = {};
    request.sampling.logit_bias = {{id, 100.0f}};
    const TurnOutcomeRecord turn = f_.Run(std::move(request), session);
    EXPECT_EQ(turn.tokens, std::vector<int32_t>{id});
    return turn.text;
  }

  SmallTokenizer tokenizer_;
  EngineFixture f_{{.tokenizer = &tokenizer_}};
};

TEST_F(EngineTextTest, CharacterThatSeveralTurnsGenerateIsWholeInTheLast) {
  EXPECT_EQ(Generate({5}, 10, "s"), "");
  EXPECT_EQ(Generate({}, 11, "s"), "");
  EXPECT_EQ(Generate({}, 12, "s"), "");
  EXPECT_EQ(Generate({}, 13, "s"), SmallTokenizer::kCharacter);
}

TEST_F(EngineTextTest, CharacterAcrossTurnsIsWholePastTheRingToo) {
  EXPECT_EQ(Generate(std::vector<int32_t>(1500, 5), 10, "s"), "");
  EXPECT_EQ(Generate({11, 12}, 13, "s"), SmallTokenizer::kCharacter);
  EXPECT_EQ(Generate({}, 20, "s"), " The");
}

TEST_F(EngineTextTest, SpaceThatBeginsTheTextOfTheSessionIsTakenAway) {
  f_.Run(EngineFixture::Complete({1}, 0), "s");
  EXPECT_EQ(Generate({}, 20, "s"), "The");
  EXPECT_EQ(Generate({}, 20, "s"), " The");
}

TEST_F(EngineTextTest, WithoutASessionAPartOfACharacterIsReplaced) {
  EXPECT_EQ(Generate({5}, 10, ""), "\xef\xbf\xbd");
}

// Fails or poisons what a test asks for.
class FaultyBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  absl::Status Learner(const LearnerArgs& args) override {
    if (std::exchange(fail_next_learner, false))
      return absl::InternalError("lost");
    const absl::Status status = ForwardingBackend::Learner(args);
    if (poison_fast_weights) {
      const int32_t slot = args.rows.sequences[0].slot;
      *reinterpret_cast<float*>(args.w1.base + slot * args.w1.slot_stride) =
          std::numeric_limits<float>::infinity();
    }
    return status;
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    if (std::exchange(fail_next_digest, false))
      return absl::InternalError("lost");
    return ForwardingBackend::DigestStates(args);
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    const absl::Status status = ForwardingBackend::EmbedTokens(args);
    for (int32_t row = 0; row < args.rows.num_rows; ++row) {
      if (TokenOfRow(args, row) != poisoned_token) continue;
      args.hidden[int64_t{row} * args.hidden_size] =
          std::numeric_limits<float>::quiet_NaN();
    }
    return status;
  }

  bool fail_next_learner = false;
  bool fail_next_digest = false;
  bool poison_fast_weights = false;  // after they were used
  int32_t poisoned_token = -1;
};

// With a device that does its work at once, and with one that does it late.
class EngineFaultTest : public testing::TestWithParam<bool> {
 protected:
  EngineFixture f_{{.wrap =
                        [this](Backend* cpu) {
                          auto faulty = std::make_unique<FaultyBackend>(cpu);
                          faulty_ = faulty.get();
                          return faulty;
                        },
                    .is_late = GetParam()}};
  FaultyBackend* faulty_;
};

TEST_P(EngineFaultTest, FailedStepEndsItsTurnsAndTheEngineGoesOn) {
  PendingTurn turn =
      f_.Submit(EngineFixture::Complete(RandomIds(1, 20), 3), "s");
  faulty_->fail_next_learner = true;
  f_.RunAll();
  ASSERT_TRUE(turn.Read().end.has_value());
  EXPECT_THAT(turn.Read().end->status, StatusIs(StatusCode::kInternal));
  EXPECT_EQ(f_.pool().usage().slots_in_use, 0);
  EXPECT_TRUE(f_.Run(EngineFixture::Complete(RandomIds(1, 20), 3), "s").ok());
}

TEST_P(EngineFaultTest, FailedCommitRollsTheTurnBack) {
  f_.Run(EngineFixture::Complete(RandomIds(1, 20), 3), "s");
  const SessionInfo before = f_.store().GetSession("s").value();
  PendingTurn turn =
      f_.Submit(EngineFixture::Complete(RandomIds(2, 20), 3), "s");
  faulty_->fail_next_digest = true;
  f_.RunAll();
  EXPECT_THAT(turn.Read().end->status, StatusIs(StatusCode::kInternal));
  EXPECT_EQ(f_.store().GetSession("s")->digest, before.digest);
  EXPECT_FALSE(f_.store().GetSession("s")->running);
}

TEST_P(EngineFaultTest, NumberThatIsNotFiniteFailsItsTurnAlone) {
  std::vector<int32_t> clean(20, 7);
  std::vector<int32_t> poisoned = clean;
  poisoned[5] = 96;
  Request request = EngineFixture::Complete(clean, 9);
  request.sampling.logit_bias = {{96, -100.0f}};
  const TurnOutcomeRecord expected = f_.Run(request, "expected");
  faulty_->poisoned_token = 96;
  PendingTurn bad = f_.Submit(EngineFixture::Complete(poisoned, 9), "bad");
  PendingTurn good = f_.Submit(request, "good");
  f_.RunAll();
  ASSERT_TRUE(bad.Read().end.has_value());
  EXPECT_EQ(ErrorReason(bad.Read().end->status), "NUMERIC_FAULT");
  EXPECT_THAT(f_.store().GetSession("bad"), StatusIs(StatusCode::kNotFound));
  ASSERT_TRUE(good.Read().ok());
  EXPECT_EQ(good.Read().end->digest, expected.end->digest);
}

TEST_P(EngineFaultTest, FastWeightsThatAreNotFiniteAreNotCommitted) {
  PendingTurn turn =
      f_.Submit(EngineFixture::Complete(RandomIds(1, 16), 0), "s");
  faulty_->poison_fast_weights = true;
  f_.RunAll();
  EXPECT_EQ(ErrorReason(turn.Read().end->status), "NUMERIC_FAULT");
  EXPECT_THAT(f_.store().GetSession("s"), StatusIs(StatusCode::kNotFound));
}

TEST_P(EngineFaultTest, NumberThatIsNotFiniteIsSeenInATurnThatOnlyReads) {
  faulty_->poisoned_token = 96;
  PendingTurn turn = f_.Submit(EngineFixture::Complete({1, 96, 2}, 0), "s");
  f_.RunAll();
  EXPECT_EQ(ErrorReason(turn.Read().end->status), "NUMERIC_FAULT");
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineFaultTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Late" : "AtOnce";
                         });

TEST_F(EngineTest, EndAllEndsQueuedAndRunningTurns) {
  PendingTurn running = f_.Submit(Complete(RandomIds(1, 20), 50), "s");
  f_.engine().Step();
  PendingTurn queued = f_.Submit(Complete(RandomIds(1, 20), 50), "t");
  f_.engine().EndAll(Error(StatusCode::kUnavailable, "DRAINING", "stop"));
  EXPECT_THAT(running.Read().end->status, StatusIs(StatusCode::kUnavailable));
  EXPECT_THAT(queued.Read().end->status, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(SlotsInUse(), 0);
}

}  // namespace
}  // namespace ttt
