// A fixed script of turns in which the n-th call of the device fails, for every
// n: each session is as before or as committed, nothing is lost, and the next
// attempt is right.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_backend.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using absl::StatusCode;

ModelConfig TinyConfig() {
  ModelConfig config = SmallConfig();
  config.hidden_size = 32;
  config.num_attention_heads = 1;
  config.num_hidden_layers = 1;
  return config;
}

struct ScriptTurn {
  std::string session;  // empty: stateless
  Request request;
  int cancel_after_steps = -1;  // never
};

// Turns that run together, after forks.
struct Round {
  std::vector<std::pair<std::string, std::string>> forks;  // parent, fork
  std::vector<ScriptTurn> turns;
};

Request Score(std::vector<int32_t> ids) {
  Request request;
  request.kind = RequestKind::kScore;
  request.input_ids = std::move(ids);
  request.top_logprobs = 2;
  return request;
}

Request Partial(std::vector<int32_t> ids) {
  Request request = EngineFixture::Complete(std::move(ids), 30);
  request.on_cancel = OnCancel::kCommitPartial;
  return request;
}

std::vector<Round> Script() {
  const auto complete = EngineFixture::Complete;
  return {
      {.turns = {{"a", complete(RandomIds(1, 20), 3)},
                 {"b", complete(RandomIds(2, 5), 2)}}},
      {.forks = {{"a", "c"}},
       .turns = {{"a", complete({}, 2)},
                 {"c", complete(RandomIds(3, 17), 2)},
                 {"", complete(RandomIds(4, 4), 3)}}},
      {.turns = {{"b", Partial(RandomIds(5, 3)), 4}}},
      {.turns = {{"b", Score(RandomIds(6, 6))},
                 {"", Score(RandomIds(7, 3))},
                 {"c", complete(RandomIds(8, 15), 0)}}},
      // In launches of several steps, where the device has them.
      {.turns = {{"a", complete(RandomIds(9, 2), 11)},
                 {"c", complete(RandomIds(10, 3), 7)}}},
  };
}

// What a script leaves behind.
struct Result {
  std::vector<std::vector<int32_t>> tokens;  // of each turn
  std::map<std::string, std::optional<StateDigest>> digests;
  std::map<std::string, uint64_t> revisions;
  int64_t slots_in_use = 0;
  int64_t reserved = 0;

  bool operator==(const Result&) const = default;
};

// With a device that does its work at once, and with one that does it late.
class FailEveryCallTest : public testing::TestWithParam<bool> {
 protected:
  FailEveryCallTest() : f_(Options(&failing_)) {}

  static EngineFixture::Options Options(FailingBackend** failing) {
    return {.config = TinyConfig(),
            .max_batch_rows = 4,
            .max_batch_tokens = 24,
            .session_slots = 4,
            .wrap =
                [failing](Backend* cpu) {
                  auto backend = std::make_unique<FailingBackend>(cpu);
                  *failing = backend.get();
                  return backend;
                },
            .is_late = GetParam()};
  }

  std::optional<SessionInfo> Session(const std::string& id) {
    const auto info = f_.store().GetSession(id);
    return info.ok() ? std::optional(*info) : std::nullopt;
  }

  PendingTurn Submit(const ScriptTurn& turn) {
    return f_.Submit(turn.request, turn.session);
  }

  // Runs the turns together; no value: not OK, and then its session is as it
  // was.
  std::vector<std::optional<TurnOutcomeRecord>> RunTogether(
      const std::vector<ScriptTurn>& turns) {
    std::vector<std::optional<SessionInfo>> before;
    std::vector<PendingTurn> pending;
    for (const ScriptTurn& turn : turns) {
      before.push_back(Session(turn.session));
      pending.push_back(Submit(turn));
    }
    for (int step = 0; f_.engine().num_queued() + f_.engine().num_running() > 0;
         ++step) {
      for (size_t i = 0; i < turns.size(); ++i) {
        if (turns[i].cancel_after_steps == step) pending[i].stream().Cancel();
      }
      f_.engine().Step();
    }
    std::vector<std::optional<TurnOutcomeRecord>> records;
    for (size_t i = 0; i < turns.size(); ++i) {
      const TurnOutcomeRecord& record = pending[i].Read();
      TTT_CHECK(record.end.has_value());
      records.emplace_back(record);
      if (record.ok()) continue;
      ++failures_;
      EXPECT_THAT(record.end->status, StatusIs(expected_code_));
      EXPECT_NE(record.end->status.message(), "");
      CheckAsBefore(turns[i].session, before[i]);
      records.back() = std::nullopt;
    }
    return records;
  }

  void CheckAsBefore(const std::string& id,
                     const std::optional<SessionInfo>& before) {
    const std::optional<SessionInfo> after = Session(id);
    ASSERT_EQ(after.has_value(), before.has_value());
    if (!after.has_value()) return;
    EXPECT_EQ(after->revision, before->revision);
    EXPECT_EQ(after->tokens, before->tokens);
    EXPECT_EQ(after->digest, before->digest);
    EXPECT_FALSE(after->running);
  }

  // Runs the script. A turn that fails is tried again, and then must not.
  Result Run(const std::vector<Round>& script) {
    Result result;
    for (const Round& round : script) {
      for (const auto& [parent, fork] : round.forks) {
        EXPECT_THAT(f_.store().ForkSession(
                        parent, fork, absl::InfiniteDuration(), std::nullopt),
                    IsOk());
      }
      auto records = RunTogether(round.turns);
      for (size_t i = 0; i < records.size(); ++i) {
        if (!records[i].has_value()) {
          records[i] = RunTogether({round.turns[i]})[0];
        }
        TTT_CHECK(records[i].has_value());
        result.tokens.push_back(records[i]->tokens);
      }
    }
    for (const SessionInfo& info : f_.store().ListSessions("", 100)) {
      result.digests[info.id] = info.digest;
      result.revisions[info.id] = info.revision;
    }
    result.slots_in_use = f_.pool().usage().slots_in_use;
    result.reserved = f_.pool().usage().reserved;
    return result;
  }

  void DeleteAll() {
    for (const SessionInfo& info : f_.store().ListSessions("", 100)) {
      ASSERT_THAT(f_.store().DeleteSession(info.id), IsOk());
    }
    ASSERT_EQ(f_.pool().usage().slots_in_use, 0);
    ASSERT_EQ(f_.pool().usage().reserved, 0);
  }

  // Of each call of the script in turn.
  void FailEveryCall(const absl::Status& error, StatusCode in_step,
                     int64_t least_calls) {
    expected_code_ = StatusCode::kOk;  // No failure is expected.
    const Result expected = Run(Script());
    DeleteAll();
    ASSERT_EQ(failures_, 0);
    const int64_t calls_before = failing_->calls(BackendCall::kAny);
    Run(Script());
    const int64_t calls = failing_->calls(BackendCall::kAny) - calls_before;
    DeleteAll();
    EXPECT_GE(calls, least_calls);
    expected_code_ = in_step;
    for (int64_t n = 1; n <= calls && !HasFailure(); ++n) {
      SCOPED_TRACE(absl::StrCat("call ", n, " of ", calls));
      failures_ = 0;
      failing_->FailNth(BackendCall::kAny, n, error);
      EXPECT_EQ(Run(Script()), expected);
      EXPECT_GE(failures_, 1);
      DeleteAll();
    }
    RecordProperty("calls", static_cast<int>(calls));
  }

  FailingBackend* failing_ = nullptr;
  EngineFixture f_;
  StatusCode expected_code_ = StatusCode::kInternal;
  int failures_ = 0;
};

TEST_P(FailEveryCallTest, OfTheDeviceAndNoSessionNorSlotIsLost) {
  FailEveryCall(absl::InternalError("lost"), StatusCode::kInternal, 250);
}

TEST_P(FailEveryCallTest, AFullPoolRefusesATurnAndTheNextAttemptIsRight) {
  const std::vector<Round> script = Script();
  const Result expected = Run(script);
  DeleteAll();
  expected_code_ = StatusCode::kResourceExhausted;
  for (size_t full = 0; full < script.size(); ++full) {
    for (size_t i = 0; i < full; ++i) Run({script[i]});
    std::vector<StateSlot> taken;
    for (auto slot = f_.pool().AcquireSlot(); slot.ok();
         slot = f_.pool().AcquireSlot()) {
      taken.push_back(*std::move(slot));
    }
    ASSERT_GE(taken.size(), 4u);
    failures_ = 0;
    RunTogether(script[full].turns);
    EXPECT_EQ(failures_, script[full].turns.size());
    taken.clear();
    Result result;
    for (size_t i = full; i < script.size(); ++i) result = Run({script[i]});
    EXPECT_EQ(result.digests, expected.digests);
    EXPECT_EQ(result.revisions, expected.revisions);
    EXPECT_EQ(result.slots_in_use, expected.slots_in_use);
    DeleteAll();
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, FailEveryCallTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Late" : "AtOnce";
                         });

// Counts the memory that a device has given out.
class CountingBackend : public FailingBackend {
 public:
  using FailingBackend::FailingBackend;

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) override {
    TTT_ASSIGN_OR_RETURN(auto buffer, FailingBackend::Allocate(size_bytes));
    ++live_;
    return std::make_unique<Buffer>(std::move(buffer), &live_);
  }
  int64_t live() const { return live_; }

 private:
  class Buffer : public DeviceBuffer {
   public:
    Buffer(std::unique_ptr<DeviceBuffer> buffer, int64_t* live)
        : buffer_(std::move(buffer)), live_(live) {}
    ~Buffer() override { --*live_; }
    std::byte* data() const override { return buffer_->data(); }
    int64_t size_bytes() const override { return buffer_->size_bytes(); }

   private:
    const std::unique_ptr<DeviceBuffer> buffer_;
    int64_t* const live_;
  };

  int64_t live_ = 0;
};

// What a server makes of its device at the start.
absl::Status Start(const ModelConfig& config, Backend* backend) {
  TTT_ASSIGN_OR_RETURN(
      const auto model,
      TttModel::Load(config, MakeDummyCheckpoint(config).get(),
                     {.max_rows = 16, .max_sequences = 4, .max_candidates = 5},
                     backend));
  TTT_ASSIGN_OR_RETURN(
      const auto pool,
      StatePool::Create(
          {.session_slots = 4, .scratch_slots = 4},
          TttModel::MakeStateLayout(config, backend->state_forms()), backend));
  TTT_ASSIGN_OR_RETURN(const StateSlot slot, pool->AcquireSlot());
  return model->InitState(*pool, slot.index());
}

TEST(FailEveryCallAtStartTest, IsReportedAndGivesAllMemoryBack) {
  for (const bool is_mlp : {false, true}) {
    const ModelConfig config = SmallConfig(is_mlp);
    const auto cpu = CreateCpuBackend({}).value();
    CountingBackend backend(cpu.get());
    ASSERT_THAT(Start(config, &backend), IsOk());
    ASSERT_EQ(backend.live(), 0);
    const int64_t calls = backend.calls(BackendCall::kAny);
    const int64_t allocations = backend.calls(BackendCall::kAllocate);
    EXPECT_GE(calls, 30);
    EXPECT_GE(allocations, 3);
    for (int64_t n = 1; n <= calls; ++n) {
      backend.FailNth(BackendCall::kAny, n, absl::InternalError("lost"));
      EXPECT_THAT(Start(config, &backend),
                  StatusIs(StatusCode::kInternal, "lost"))
          << n;
      EXPECT_EQ(backend.live(), 0) << n;
    }
    for (int64_t n = 1; n <= allocations; ++n) {
      backend.FailNth(BackendCall::kAllocate, n,
                      absl::ResourceExhaustedError("no memory"));
      EXPECT_THAT(Start(config, &backend),
                  StatusIs(StatusCode::kResourceExhausted, "no memory"))
          << n;
      EXPECT_EQ(backend.live(), 0) << n;
    }
    EXPECT_THAT(Start(config, &backend), IsOk());
  }
}

}  // namespace
}  // namespace ttt
