// No session ever sees a bit of another's: a random mix of turns, forks,
// deletions, cancels and cuts on slots that are poisoned when they are given
// up, every answer held to that of the same session replayed alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <random>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/support/engine_fixture.h"

namespace ttt {
namespace {

constexpr int kTrees = 6;
constexpr int kDepth = 4;  // turns of a session
constexpr int kBranches = 2;
constexpr int32_t kVocabSize = 61;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [least, most].
  int Int(int least, int most) {
    return least + static_cast<int>(engine_() %
                                    static_cast<uint64_t>(most - least + 1));
  }
  bool OneIn(int n) { return Int(1, n) == 1; }
  // Of a container that is not empty.
  template <typename Container>
  auto& Of(Container& items) {
    return items[Int(0, static_cast<int>(items.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

ModelConfig TinyConfig(bool is_mlp) {
  ModelConfig config = SmallConfig(is_mlp);
  config.vocab_size = kVocabSize;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_attention_heads = 1;
  return config;
}

// What a turn gave, in bits: NaN equals itself.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> logprobs;
  FinishReason finish_reason = FinishReason::kLength;
  StateDigest digest{};

  bool operator==(const Answer&) const = default;
};

std::vector<uint32_t> Bits(absl::Span<const float> values) {
  std::vector<uint32_t> bits;
  bits.reserve(values.size());
  for (float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

std::vector<uint32_t> ScoreBits(const TurnEnd& end) {
  std::vector<float> values;
  for (const TokenPosition& position : end.positions) {
    values.push_back(position.logprob.value_or(1.0f));
    for (const TokenLogprob& top : position.top) values.push_back(top.logprob);
  }
  if (end.first.has_value()) {
    for (const TokenLogprob& top : end.first->top)
      values.push_back(top.logprob);
  }
  return Bits(values);
}

// A turn that a session may take after the one of `parent`.
struct Node {
  int parent = -1;  // none: the first turn
  Request request;
  Answer answer;                 // of a session alone
  std::vector<uint32_t> scores;  // of kProbe after it, alone
  std::vector<int> children;
};

const std::vector<int32_t> kProbe = {3, 1, 4, 1, 5};

Request ProbeRequest() {
  Request request;
  request.kind = RequestKind::kScore;
  request.input_ids = kProbe;
  request.top_logprobs = 3;
  return request;
}

Request RandomRequest(Random& random, bool is_first) {
  Request request = EngineFixture::Complete(
      RandomIds(random.Int(0, 1 << 30), random.Int(is_first ? 1 : 0, 40),
                kVocabSize),
      random.Int(0, 12));
  if (request.input_ids.empty()) ++request.max_tokens;
  request.sampling.temperature = random.OneIn(3) ? 0.0f : 0.9f;
  request.sampling.seed = random.Int(0, 1 << 30);
  if (random.OneIn(3)) request.sampling.repetition_penalty = 1.3f;
  if (random.OneIn(4)) request.stop.token_ids = {random.Int(0, kVocabSize - 1)};
  return request;
}

// Runs every session by itself: one row, one thread, a slot that nobody had
// before it in the same pool, no fork.
class Alone {
 public:
  Alone(const ModelConfig& config, Precision precision, Random& random)
      : f_({.backend = {.precision = precision},
            .config = config,
            .max_batch_rows = 1,
            .max_batch_tokens = 64,
            .session_slots = 1}) {
    for (int tree = 0; tree < kTrees; ++tree) Grow(random, -1, kDepth);
  }

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<int>& roots() const { return roots_; }

  // The digest of a session that read `num_input` tokens of the node's input
  // and chose `num_generated`.
  StateDigest DigestAt(int node, int64_t num_input, int64_t num_generated) {
    const auto key = std::make_tuple(node, num_input, num_generated);
    if (const auto found = digests_.find(key); found != digests_.end()) {
      return found->second;
    }
    ReplayTo(nodes_[node].parent);
    Request request = nodes_[node].request;
    request.input_ids.resize(num_input);
    request.max_tokens = num_generated;
    const TurnOutcomeRecord record = f_.Run(std::move(request), "s");
    TTT_CHECK(record.ok());
    TTT_CHECK(f_.store().DeleteSession("s").ok());
    return digests_[key] = record.end->digest;
  }

 private:
  void Grow(Random& random, int parent, int depth) {
    const int index = static_cast<int>(nodes_.size());
    nodes_.push_back(
        {.parent = parent, .request = RandomRequest(random, parent < 0)});
    (parent < 0 ? roots_ : nodes_[parent].children).push_back(index);
    ReplayTo(index);
    const TurnOutcomeRecord scores = f_.Run(ProbeRequest(), "s");
    TTT_CHECK(scores.ok());
    nodes_[index].scores = ScoreBits(*scores.end);
    TTT_CHECK(f_.store().DeleteSession("s").ok());
    for (int i = 0; depth > 1 && i < kBranches; ++i)
      Grow(random, index, depth - 1);
  }

  void ReplayTo(int node) {
    if (node < 0) return;
    ReplayTo(nodes_[node].parent);
    const TurnOutcomeRecord record = f_.Run(nodes_[node].request, "s");
    TTT_CHECK(record.ok());
    nodes_[node].answer = {record.tokens, Bits(record.logprobs),
                           record.end->finish_reason, record.end->digest};
  }

  EngineFixture f_;
  std::vector<Node> nodes_;
  std::vector<int> roots_;
  std::map<std::tuple<int, int64_t, int64_t>, StateDigest> digests_;
};

struct Counts {
  int64_t turns = 0;  // of which every bit was compared
  int64_t tokens = 0;
  int64_t cancels = 0;
  int64_t parts = 0;  // turns that were cut, or committed in part
  int64_t forks = 0;
  int64_t scores = 0;
  int64_t stateless = 0;
  int64_t deletions = 0;
  int32_t most_rows = 0;
};

// One engine and the sessions on it.
class Mix {
 public:
  Mix(const EngineFixture::Options& options, Alone* alone, Random* random,
      Counts* counts)
      : rows_(options.max_batch_rows),
        f_(options),
        alone_(*alone),
        random_(*random),
        counts_(*counts) {}

  // Runs until `turns` were compared, then lets all end.
  void Run(int64_t turns) {
    const int64_t end = counts_.turns + turns;
    while (counts_.turns < end && !testing::Test::HasFailure()) Act();
    while (!pending_.empty() && !testing::Test::HasFailure()) StepOnce();
    if (testing::Test::HasFailure()) return;
    const int64_t committed = std::count_if(
        sessions_.begin(), sessions_.end(),
        [](const auto& entry) { return entry.second.revision > 0; });
    EXPECT_EQ(f_.pool().usage().reserved, committed);
    while (!sessions_.empty()) Delete(sessions_.begin()->first);
    EXPECT_EQ(f_.pool().usage().slots_in_use, 0);
    EXPECT_EQ(f_.pool().usage().reserved, 0);
  }

 private:
  // Where a session is: in the turn of `node`, of which the first `num_input`
  // ids are read and `generated` was chosen, or after it.
  struct Session {
    int node = -1;
    bool is_between_turns = true;
    int64_t num_input = 0;
    Answer generated;
    uint64_t revision = 0;
    StateDigest digest{};
    bool is_busy = false;
  };
  enum class Kind { kTurn, kStateless, kScore };
  struct Pending {
    Kind kind;
    std::string session;
    int node;
    Request request;
    PendingTurn turn;
    bool cancelled = false;
  };

  void Act() {
    switch (random_.Int(0, 15)) {
      case 0:
        return Fork();
      case 1:
        return DeleteAny();
      case 2:
        return CancelAny();
      case 3:
        return Score();
      case 4:
        return Stateless();
      case 5:
      case 6:
      case 7:
      case 8:
        return StartTurn();
      default:
        return StepOnce();
    }
  }

  // A session that no call uses; empty if there is none.
  std::string Idle(bool between_turns = false) {
    std::vector<std::string> idle;
    for (const auto& [id, session] : sessions_) {
      if (session.is_busy) continue;
      if (between_turns && (session.node < 0 || !session.is_between_turns))
        continue;
      idle.push_back(id);
    }
    return idle.empty() ? "" : random_.Of(idle);
  }
  bool HasRoom() {
    const StatePool::Usage usage = f_.pool().usage();
    return usage.reserved < usage.session_slots;
  }
  bool IsCrowded() const {
    return static_cast<int>(pending_.size()) >= 2 * rows_;
  }

  void StartTurn() {
    if (IsCrowded()) return StepOnce();
    std::string id = Idle();
    if (id.empty() || (HasRoom() && random_.OneIn(4))) {
      if (!HasRoom()) return DeleteAny();
      id = absl::StrCat("s", next_id_++);
    }
    Session& session = sessions_[id];
    if (session.is_between_turns) {
      const Node* const node =
          session.node < 0 ? nullptr : &alone_.nodes()[session.node];
      if (node != nullptr && node->children.empty()) return Delete(id);
      session.node =
          random_.Of(node == nullptr ? alone_.roots() : node->children);
      session.is_between_turns = false;
      session.num_input = 0;
      session.generated = Answer();
    }
    Submit(Kind::kTurn, id, session.node, Rest(session));
    session.is_busy = true;
  }

  // What is left of the session's turn, or a part of it.
  Request Rest(const Session& session) {
    Request request = alone_.nodes()[session.node].request;
    request.input_ids.erase(request.input_ids.begin(),
                            request.input_ids.begin() + session.num_input);
    request.max_tokens -= static_cast<int64_t>(session.generated.tokens.size());
    if (random_.OneIn(3)) request.on_cancel = OnCancel::kCommitPartial;
    const int input = static_cast<int>(request.input_ids.size());
    if (input > 1 && random_.OneIn(4)) {
      request.input_ids.resize(random_.Int(1, input - 1));
      request.max_tokens = 0;
    } else if (request.max_tokens > 1 && random_.OneIn(4)) {
      request.max_tokens =
          random_.Int(1, static_cast<int>(request.max_tokens) - 1);
    }
    return request;
  }

  void Submit(Kind kind, const std::string& id, int node, Request request) {
    PendingTurn turn = f_.Submit(request, id);
    pending_.push_back({kind, id, node, std::move(request), std::move(turn)});
  }

  void Score() {
    const std::string id = Idle(/*between_turns=*/true);
    if (id.empty() || IsCrowded()) return StepOnce();
    Submit(Kind::kScore, id, sessions_[id].node, ProbeRequest());
    sessions_[id].is_busy = true;  // so that the answer is known
  }

  void Stateless() {
    if (IsCrowded()) return StepOnce();
    const int node = random_.Of(alone_.roots());
    Submit(Kind::kStateless, "", node, alone_.nodes()[node].request);
  }

  // Of any session that has a state, while it runs a turn, too.
  void Fork() {
    std::vector<std::string> parents;
    for (const auto& [id, session] : sessions_) {
      if (session.revision > 0) parents.push_back(id);
    }
    if (parents.empty() || !HasRoom()) return DeleteAny();
    const std::string& parent = random_.Of(parents);
    const std::string id = absl::StrCat("s", next_id_++);
    ASSERT_TRUE(f_.store()
                    .ForkSession(parent, id, absl::InfiniteDuration(),
                                 sessions_[parent].revision)
                    .ok());
    sessions_[id] = sessions_[parent];
    sessions_[id].is_busy = false;
    ++counts_.forks;
  }

  void DeleteAny() {
    const std::string id = Idle();
    if (id.empty()) return StepOnce();
    Delete(id);
  }
  void Delete(const std::string& id) {
    if (sessions_[id].revision > 0) {
      ASSERT_TRUE(f_.store().DeleteSession(id).ok());
    }
    sessions_.erase(id);
    ++counts_.deletions;
  }

  void CancelAny() {
    if (pending_.empty()) return StartTurn();
    Pending& pending = random_.Of(pending_);
    pending.turn.stream().Cancel();
    pending.cancelled = true;
  }

  void StepOnce() {
    f_.engine().Step();
    counts_.most_rows = std::max(counts_.most_rows, f_.engine().num_running());
    std::vector<Pending> left;
    for (Pending& pending : pending_) {
      const TurnOutcomeRecord& record = pending.turn.Read();
      if (record.end.has_value()) {
        Check(pending, record);
      } else {
        left.push_back(std::move(pending));
      }
    }
    pending_ = std::move(left);
  }

  void Check(const Pending& pending, const TurnOutcomeRecord& record) {
    const bool ok = record.end->status.ok();
    if (!ok) {
      ASSERT_TRUE(pending.cancelled) << record.end->status;
      ASSERT_EQ(record.end->status.code(), absl::StatusCode::kCancelled);
      ++counts_.cancels;
    } else {
      ++counts_.turns;
      counts_.tokens +=
          record.end->usage.input_tokens + record.end->usage.output_tokens;
    }
    const Node& node = alone_.nodes()[pending.node];
    switch (pending.kind) {
      case Kind::kStateless:
        if (!ok) return;
        ++counts_.stateless;
        ASSERT_EQ(record.tokens, node.answer.tokens);
        ASSERT_EQ(Bits(record.logprobs), node.answer.logprobs);
        return;
      case Kind::kScore:
        sessions_[pending.session].is_busy = false;
        if (!ok) return;
        ++counts_.scores;
        ASSERT_EQ(ScoreBits(*record.end), node.scores);
        return;
      case Kind::kTurn:
        return ok ? CheckCommit(pending, record) : CheckRollback(pending);
    }
  }

  void CheckRollback(const Pending& pending) {
    Session& session = sessions_[pending.session];
    session.is_busy = false;
    const auto info = f_.store().GetSession(pending.session);
    if (session.revision == 0) {
      ASSERT_FALSE(info.ok());
      sessions_.erase(pending.session);
      return;
    }
    ASSERT_TRUE(info.ok()) << info.status();
    ASSERT_EQ(info->revision, session.revision);
    ASSERT_EQ(info->digest, session.digest);
    ASSERT_FALSE(info->running);
  }

  void CheckCommit(const Pending& pending, const TurnOutcomeRecord& record) {
    const Node& node = alone_.nodes()[pending.node];
    const TurnEnd& end = *record.end;
    Session& session = sessions_[pending.session];
    session.is_busy = false;
    ASSERT_EQ(end.revision, ++session.revision);
    session.digest = end.digest;
    session.num_input += end.usage.input_tokens;
    Answer& generated = session.generated;
    generated.tokens.insert(generated.tokens.end(), record.tokens.begin(),
                            record.tokens.end());
    const std::vector<uint32_t> logprobs = Bits(record.logprobs);
    generated.logprobs.insert(generated.logprobs.end(), logprobs.begin(),
                              logprobs.end());
    const int64_t num_generated = static_cast<int64_t>(generated.tokens.size());
    session.is_between_turns =
        end.finish_reason == FinishReason::kStop ||
        (session.num_input ==
             static_cast<int64_t>(node.request.input_ids.size()) &&
         num_generated == node.request.max_tokens);
    if (session.is_between_turns) {
      ASSERT_EQ(generated.tokens, node.answer.tokens);
      ASSERT_EQ(generated.logprobs, node.answer.logprobs);
      ASSERT_EQ(end.digest, node.answer.digest);
      return;
    }
    ++counts_.parts;
    ASSERT_LE(generated.tokens.size(), node.answer.tokens.size());
    for (size_t i = 0; i < generated.tokens.size(); ++i) {
      ASSERT_EQ(generated.tokens[i], node.answer.tokens[i]);
      ASSERT_EQ(generated.logprobs[i], node.answer.logprobs[i]);
    }
    ASSERT_EQ(end.digest,
              alone_.DigestAt(pending.node, session.num_input, num_generated));
  }

  const int rows_;
  EngineFixture f_;
  Alone& alone_;
  Random& random_;
  Counts& counts_;
  std::map<std::string, Session> sessions_;
  std::vector<Pending> pending_;
  int64_t next_id_ = 0;
};

void RunMixes(int64_t turns, uint64_t seed) {
  Random random(seed);
  Counts counts;
  for (int round = 0; counts.turns < turns && !testing::Test::HasFailure();
       ++round) {
    SCOPED_TRACE(absl::StrCat("seed ", seed, ", round ", round));
    const ModelConfig config = TinyConfig(/*is_mlp=*/round % 4 == 3);
    const Precision precision = round % 3 == 2 && CpuHasBFloat16()
                                    ? Precision::kBFloat16
                                    : Precision::kFloat32;
    Alone alone(config, precision, random);
    // The same answers on engines of several shapes.
    for (int engine = 0; engine < 4; ++engine) {
      EngineFixture::Options options;
      options.config = config;
      options.backend.precision = precision;
      options.backend.num_threads = engine == 0 ? 2 : 1;
      options.max_batch_rows = random.Int(1, 12);
      options.max_batch_tokens = options.max_batch_rows + random.Int(0, 80);
      options.session_slots = random.Int(2, 24);
      options.poison_released = true;
      Mix(options, &alone, &random, &counts)
          .Run(std::min<int64_t>(625, turns - counts.turns));
    }
  }
  if (testing::Test::HasFailure()) return;
  const auto record = [](const char* name, int64_t count) {
    testing::Test::RecordProperty(name, static_cast<int>(count));
    std::printf("%10lld %s\n", static_cast<long long>(count), name);
  };
  record("turns", counts.turns);
  record("tokens", counts.tokens);
  record("cancels", counts.cancels);
  record("parts", counts.parts);
  record("forks", counts.forks);
  record("scores", counts.scores);
  record("stateless", counts.stateless);
  record("deletions", counts.deletions);
  record("most_rows", counts.most_rows);
  // The mix holds what it is meant to hold.
  EXPECT_GE(counts.turns, turns);
  for (const int64_t count :
       {counts.cancels, counts.parts, counts.forks, counts.scores,
        counts.stateless, counts.deletions}) {
    EXPECT_GE(count, turns / 50);
  }
  EXPECT_GT(counts.most_rows, 8);
}

TEST(IsolationTest, NoTurnOfTenThousandSeesABitOfAnother) {
  RunMixes(10000, 20240707);
}

// Run by ctest under the label slow.
TEST(IsolationTest, DISABLED_NoTurnOfAHundredThousandSeesABitOfAnother) {
  RunMixes(100000, 3);
}

}  // namespace
}  // namespace ttt
