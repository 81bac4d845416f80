// ttt_soak: the full mix of calls on one tttd for as long as asked, and then:
// is all that it held back at the baseline, and are its answers the same?
//
//   ttt_soak --minutes=30 --csv=soak.csv
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/chaos/tttd_process.h"
#include "tests/integration/test_server.h"

ABSL_FLAG(double, minutes, 1, "how long the mix runs, after a warm-up");
ABSL_FLAG(double, warm_up_minutes, -1,
          "how long it runs before the baseline; below 0: a tenth of --minutes,"
          " and at most two minutes");
ABSL_FLAG(int32_t, threads, 12, "clients at once");
ABSL_FLAG(uint64_t, seed, 1, "of the mix");
ABSL_FLAG(std::string, csv, "", "file of samples; empty: none");
ABSL_FLAG(double, sample_seconds, 2, "between two samples");
ABSL_FLAG(std::string, tttd_flags, "",
          "further flags of the tttd that is started, with spaces between");
ABSL_FLAG(std::string, server, "",
          "HOST:PORT of a tttd that runs already; with --http_port and --pid");
ABSL_FLAG(int32_t, http_port, 0, "of --server");
ABSL_FLAG(int32_t, pid, 0, "of --server");

namespace ttt {
namespace {

using grpc::StatusCode;

// What the checks allow. A thread of the library may come and go.
constexpr int64_t kMostThreadsMore = 4;
// Resident at the end, above the baseline: what the allocator keeps in parts.
constexpr int64_t kMostBytesMore = int64_t{48} << 20;
// By the line through the samples of the second half, over that half.
constexpr int64_t kMostBytesGrown = int64_t{16} << 20;
constexpr int kControlTurns = 6;
constexpr absl::Duration kBound = absl::Seconds(60);

// The tttd under test.
struct Target {
  std::unique_ptr<TttdProcess> own;
  std::string address;
  int http_port = 0;
  pid_t pid = 0;
};

Target MakeTarget() {
  Target target;
  if (!absl::GetFlag(FLAGS_server).empty()) {
    target.address = absl::GetFlag(FLAGS_server);
    target.http_port = absl::GetFlag(FLAGS_http_port);
    target.pid = absl::GetFlag(FLAGS_pid);
    return target;
  }
  const std::vector<std::string> args =
      absl::StrSplit(absl::GetFlag(FLAGS_tttd_flags), ' ', absl::SkipEmpty());
  target.own = std::make_unique<TttdProcess>(args);
  if (target.own->port() == 0) {
    std::fprintf(stderr, "ttt_soak: tttd ended with %d\n", target.own->Wait());
    std::exit(2);
  }
  target.address = target.own->address();
  target.http_port = target.own->http_port();
  target.pid = target.own->pid();
  return target;
}

enum Op {
  kUnaryTurn,
  kStreamTurn,
  kCancelledTurn,
  kLateTurn,
  kSlowReader,
  kStateless,
  kScore,
  kFork,
  kDelete,
  kLook,
  kTokenize,
  kBadRequest,
  kReconnect,
  kNumOps,
};
constexpr std::array<const char*, kNumOps> kOpNames = {
    "unary turn", "stream turn", "cancelled turn", "late turn", "slow reader",
    "stateless",  "score",       "fork",           "delete",    "get and list",
    "tokenize",   "bad request", "reconnect"};
// In a hundred; a fifth of all turns are broken off.
constexpr std::array<int, kNumOps> kOpShares = {20, 22, 9, 4, 2, 8, 6,
                                                6,  6,  4, 6, 4, 3};

struct Counts {
  std::array<std::atomic<int64_t>, kNumOps> ops{};
  std::atomic<int64_t> commits{0};
  std::atomic<int64_t> rollbacks{0};
  std::atomic<int64_t> refused{0};  // with a hint to come back
  std::atomic<int64_t> wrong{0};    // an answer or a state that must not be
};

// One client that goes through the mix, and knows what its sessions are.
class Worker {
 public:
  Worker(std::string address, int number, int32_t vocab_size, uint64_t seed,
         Counts* counts)
      : address_(std::move(address)),
        number_(number),
        vocab_size_(vocab_size),
        random_(seed * 1000 + static_cast<uint64_t>(number)),
        counts_(*counts),
        client_(std::make_unique<Client>(address_)) {}

  void Run(const std::atomic<bool>& stop) {
    while (!stop) {
      int share = Int(0, 99);
      int op = 0;
      while (op + 1 < kNumOps && share >= kOpShares[op])
        share -= kOpShares[op++];
      Do(static_cast<Op>(op));
      ++counts_.ops[op];
    }
    while (!sessions_.empty()) Delete();
  }

 private:
  struct Session {
    std::string id;
    uint64_t revision = 0;
    std::string digest;
    // A call that was broken off may have come to the server after we looked.
    bool may_be_one_ahead = false;
  };

  void Do(Op op) {
    switch (op) {
      case kUnaryTurn:
        return Turn(/*stream=*/Int(0, 9) == 0, std::nullopt, -1, 0);
      case kStreamTurn:
        return Turn(true, std::nullopt, -1, 0);
      case kCancelledTurn:
        return Turn(true, std::nullopt, Int(0, 20), 0);
      case kLateTurn:
        return Turn(Int(0, 1) == 0, std::chrono::milliseconds(Int(0, 60)), -1,
                    0);
      case kSlowReader:
        return Turn(true, std::nullopt, -1, Int(10, 100));
      case kStateless:
        return Stateless();
      case kScore:
        return Score();
      case kFork:
        return Fork();
      case kDelete:
        return Delete();
      case kLook:
        return Look();
      case kTokenize:
        return Tokenize();
      case kBadRequest:
        return BadRequest();
      case kReconnect:
        client_ = std::make_unique<Client>(address_);
        return;
      default:
        return;
    }
  }

  int Int(int least, int most) {
    return least + static_cast<int>(random_() %
                                    static_cast<uint64_t>(most - least + 1));
  }
  void Wrong(const std::string& what) {
    // The first few tell what is the matter.
    if (++counts_.wrong <= 20) {
      std::fprintf(stderr, "WRONG (client %d): %s\n", number_, what.c_str());
    }
  }
  // True if the server had no room; the call must then have a hint.
  bool IsRefused(const grpc::Status& status) {
    if (status.error_code() != StatusCode::RESOURCE_EXHAUSTED) return false;
    ++counts_.refused;
    if (ErrorInfoOf(status).reason() != "SLOW_CONSUMER" &&
        !HasDetail<google::rpc::RetryInfo>(status)) {
      Wrong(absl::StrCat("no hint: ", status.error_message()));
    }
    return true;
  }
  static std::string Say(const grpc::Status& status) {
    return absl::StrCat("code ", static_cast<int>(status.error_code()), ", ",
                        status.error_message());
  }
  void SetBound(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() +
                          absl::ToChronoSeconds(kBound));
  }

  v1::CompleteRequest Request() {
    v1::CompleteRequest request;
    if (Int(0, 2) == 0) {
      request.set_text("The old man looked at the sea, and then he said: ");
    } else {
      // Now and then a prompt of many steps.
      const int length = Int(0, 49) == 0 ? Int(500, 3000) : Int(1, 60);
      for (int i = 0; i < length; ++i) {
        request.mutable_token_ids()->add_ids(Int(3, vocab_size_ - 1));
      }
    }
    request.mutable_sampling()->set_max_tokens(Int(0, 40));
    request.mutable_sampling()->set_temperature(Int(0, 1) ? 0.8f : 0.0f);
    request.mutable_sampling()->set_seed(random_());
    if (Int(0, 3) == 0) request.set_top_logprobs(Int(0, 5));
    if (Int(0, 3) == 0) request.mutable_stop()->add_strings(". ");
    return request;
  }

  // A session of this client's, made if need be.
  Session& Pick() {
    if (sessions_.size() < 2 || (sessions_.size() < 8 && Int(0, 5) == 0)) {
      sessions_.push_back({absl::StrCat("soak-", number_, "-", next_++)});
    }
    return sessions_[Int(0, static_cast<int>(sessions_.size()) - 1)];
  }

  void Turn(bool stream, std::optional<std::chrono::milliseconds> deadline,
            int cancel_after_events, int pause_millis) {
    Session& session = Pick();
    v1::CompleteRequest request = Request();
    request.set_session_id(session.id);
    request.set_create_session(session.revision == 0);
    const bool partial = Int(0, 3) == 0;
    if (partial) request.set_on_cancel(v1::ON_CANCEL_COMMIT_PARTIAL);
    grpc::ClientContext context;
    SetBound(&context);
    if (deadline.has_value()) {
      context.set_deadline(std::chrono::system_clock::now() + *deadline);
    }
    v1::CompleteResponse response;
    const grpc::Status status =
        stream ? Stream(&context, request, cancel_after_events, pause_millis,
                        &response)
               : client_->inference->Complete(&context, request, &response);
    const bool is_broken_off = deadline.has_value() || cancel_after_events >= 0;
    if (status.ok()) return Committed(&session, response);
    if (IsRefused(status)) return;
    const StatusCode code = status.error_code();
    const bool is_expected =
        (is_broken_off && (code == StatusCode::CANCELLED ||
                           code == StatusCode::DEADLINE_EXCEEDED)) ||
        (session.may_be_one_ahead && code == StatusCode::ABORTED);
    if (!is_expected) {
      Wrong(absl::StrCat("a turn: ", Say(status)));
    }
    LookAfterBreak(&session, partial);
  }

  grpc::Status Stream(grpc::ClientContext* context,
                      const v1::CompleteRequest& request,
                      int cancel_after_events, int pause_millis,
                      v1::CompleteResponse* response) {
    const auto reader = client_->inference->StreamComplete(context, request);
    v1::CompleteEvent event;
    int64_t tokens = 0;
    for (int events = 0; reader->Read(&event); ++events) {
      if (event.has_tokens()) {
        if (event.tokens().index() != tokens) Wrong("a token is missing");
        tokens += event.tokens().ids_size();
      } else if (event.has_finished()) {
        *response->mutable_usage() = event.finished().usage();
      } else if (event.has_committed()) {
        response->set_revision(event.committed().revision());
        response->set_state_digest(event.committed().state_digest());
      }
      if (events == cancel_after_events) context->TryCancel();
      // Reading slowly is what this client is there for.
      if (pause_millis > 0) absl::SleepFor(absl::Milliseconds(pause_millis));
    }
    const grpc::Status status = reader->Finish();
    if (status.ok() && tokens != response->usage().output_tokens()) {
      Wrong(absl::StrCat(tokens, " tokens of ",
                         response->usage().output_tokens()));
    }
    return status;
  }

  void Committed(Session* session, const v1::CompleteResponse& response) {
    const uint64_t grown = response.revision() - session->revision;
    if (grown < 1 || grown > (session->may_be_one_ahead ? 2 : 1) ||
        response.state_digest().size() != 32) {
      Wrong(absl::StrCat("revision ", response.revision(), " after ",
                         session->revision));
    }
    counts_.commits += static_cast<int64_t>(grown);
    session->revision = response.revision();
    session->digest = response.state_digest();
    session->may_be_one_ahead = false;
  }

  // The session after a call that did not say OK: as before, or a turn on.
  void LookAfterBreak(Session* session, bool partial) {
    const uint64_t most = session->may_be_one_ahead ? 2 : 1;
    const uint64_t grown = Follow(session, most, partial);
    if (grown == 0) ++counts_.rollbacks;
    session->may_be_one_ahead = grown < most;
  }

  // Goes to where the server has the session once no turn runs on it, and
  // counts the commits up to there: how many, which may be `most`. One that is
  // not there has not had its first turn, or lost it.
  uint64_t Follow(Session* session, uint64_t most, bool partial) {
    v1::Session found;
    grpc::Status status;
    if (!Eventually(kBound, [&] {
          status = Get(session->id, &found);
          return !status.ok() || found.tier() != v1::TIER_RUNNING;
        })) {
      Wrong(absl::StrCat("session ", session->id, " runs for ever"));
      return 0;
    }
    if (status.error_code() == StatusCode::NOT_FOUND &&
        session->revision == 0) {
      return 0;
    }
    if (!status.ok()) {
      Wrong(absl::StrCat("a look: ", Say(status)));
      return 0;
    }
    const uint64_t grown = found.revision() - session->revision;
    if (grown > most ||
        (grown == 0 && found.state_digest() != session->digest) ||
        (grown > 0 && found.state_digest() == session->digest)) {
      Wrong(absl::StrCat("session ", session->id, ", partial ", partial,
                         ", revision ", found.revision(), " after ",
                         session->revision));
    }
    counts_.commits += static_cast<int64_t>(grown);
    session->revision = found.revision();
    session->digest = found.state_digest();
    return grown;
  }

  grpc::Status Get(const std::string& id, v1::Session* session) {
    grpc::ClientContext context;
    SetBound(&context);
    v1::GetSessionRequest request;
    request.set_session_id(id);
    return client_->sessions->GetSession(&context, request, session);
  }

  // Always the same question, so always the same answer.
  void Stateless() {
    v1::CompleteRequest request;
    request.set_text(absl::StrCat("It was the year ", 1800 + number_));
    request.mutable_sampling()->set_max_tokens(24);
    request.mutable_sampling()->set_temperature(0.9f);
    request.mutable_sampling()->set_seed(7);
    v1::CompleteResponse response;
    grpc::ClientContext context;
    SetBound(&context);
    const grpc::Status status =
        client_->inference->Complete(&context, request, &response);
    if (IsRefused(status)) return;
    if (!status.ok()) return Wrong(absl::StrCat("stateless: ", Say(status)));
    const std::vector<int32_t> ids(response.token_ids().begin(),
                                   response.token_ids().end());
    if (stateless_.empty()) stateless_ = ids;
    if (ids != stateless_) Wrong("a stateless call has another answer");
  }

  void Score() {
    v1::ScoreRequest request;
    const int length = Int(1, 40);
    for (int i = 0; i < length; ++i) {
      request.mutable_token_ids()->add_ids(Int(3, vocab_size_ - 1));
    }
    request.set_top_logprobs(Int(0, 3));
    if (!sessions_.empty() && sessions_.back().revision > 0) {
      request.set_session_id(sessions_.back().id);
    }
    v1::ScoreResponse response;
    grpc::ClientContext context;
    SetBound(&context);
    const grpc::Status status =
        client_->inference->Score(&context, request, &response);
    if (IsRefused(status)) return;
    if (!status.ok() || response.positions_size() != length) {
      Wrong(absl::StrCat("score: ", Say(status)));
    }
  }

  void Fork() {
    const Session& parent = Pick();
    if (parent.revision == 0 || parent.may_be_one_ahead ||
        sessions_.size() >= 8) {
      return;
    }
    v1::ForkSessionRequest request;
    request.set_session_id(parent.id);
    request.set_new_session_id(absl::StrCat("soak-", number_, "-", next_++));
    request.set_expected_revision(parent.revision);
    v1::Session fork;
    grpc::ClientContext context;
    SetBound(&context);
    const grpc::Status status =
        client_->sessions->ForkSession(&context, request, &fork);
    if (IsRefused(status)) return;
    if (!status.ok() || fork.state_digest() != parent.digest) {
      return Wrong(absl::StrCat("fork: ", Say(status)));
    }
    sessions_.push_back(
        {fork.session_id(), fork.revision(), fork.state_digest()});
  }

  void Delete() {
    if (sessions_.empty()) return;
    Session session = sessions_.back();
    sessions_.pop_back();
    if (session.may_be_one_ahead) Follow(&session, 1, false);
    grpc::Status status;
    const bool ended = Eventually(kBound, [&] {
      grpc::ClientContext context;
      SetBound(&context);
      v1::DeleteSessionRequest request;
      request.set_session_id(session.id);
      v1::DeleteSessionResponse response;
      status = client_->sessions->DeleteSession(&context, request, &response);
      return status.error_code() != StatusCode::ABORTED;
    });
    // One that has no turn was never made, or went with its first turn.
    const bool may_be_absent = session.revision == 0;
    if (!ended ||
        !(status.ok() ||
          (may_be_absent && status.error_code() == StatusCode::NOT_FOUND))) {
      Wrong(absl::StrCat("delete: ", Say(status)));
    }
  }

  void Look() {
    const Session& session = Pick();
    v1::Session found;
    const grpc::Status status = Get(session.id, &found);
    if (session.revision > 0 && !session.may_be_one_ahead &&
        (!status.ok() || found.state_digest() != session.digest)) {
      Wrong(absl::StrCat("get: ", Say(status)));
    }
    v1::ListSessionsRequest request;
    request.set_page_size(Int(1, 20));
    v1::ListSessionsResponse page;
    grpc::ClientContext context;
    SetBound(&context);
    if (!client_->sessions->ListSessions(&context, request, &page).ok()) {
      Wrong("list");
    }
  }

  void Tokenize() {
    v1::TokenizeRequest request;
    for (int i = Int(1, 200); i > 0; --i) {
      absl::StrAppend(request.mutable_text(), "word ", Int(0, 99), ", ");
    }
    request.set_at_start(true);
    v1::TokenizeResponse tokens;
    grpc::ClientContext context;
    SetBound(&context);
    grpc::Status status =
        client_->tokenizer->Tokenize(&context, request, &tokens);
    if (IsRefused(status)) return;
    if (!status.ok()) return Wrong(absl::StrCat("tokenize: ", Say(status)));
    v1::DetokenizeRequest back;
    *back.mutable_ids() = tokens.ids();
    v1::DetokenizeResponse text;
    grpc::ClientContext back_context;
    SetBound(&back_context);
    status = client_->tokenizer->Detokenize(&back_context, back, &text);
    if (IsRefused(status)) return;
    if (!status.ok() || text.text() != request.text()) {
      Wrong(absl::StrCat("detokenize: ", Say(status)));
    }
  }

  void BadRequest() {
    v1::CompleteRequest request = Request();
    StatusCode expected = StatusCode::INVALID_ARGUMENT;
    switch (Int(0, 4)) {
      case 0:
        request.mutable_token_ids()->add_ids(vocab_size_);
        break;
      case 1:
        request.mutable_sampling()->set_temperature(-1);
        break;
      case 2:
        request.set_session_id("no/such name");
        request.set_create_session(true);
        break;
      case 3:
        request.set_session_id("soak-nobody");
        expected = StatusCode::NOT_FOUND;
        break;
      case 4:
        request.set_idempotency_key("key");
        expected = StatusCode::UNIMPLEMENTED;
        break;
    }
    v1::CompleteResponse response;
    grpc::ClientContext context;
    SetBound(&context);
    const grpc::Status status =
        client_->inference->Complete(&context, request, &response);
    if (IsRefused(status)) return;
    if (status.error_code() != expected) {
      Wrong(absl::StrCat("a bad request: ", Say(status)));
    }
  }

  const std::string address_;
  const int number_;
  const int32_t vocab_size_;
  std::mt19937_64 random_;
  Counts& counts_;
  std::unique_ptr<Client> client_;
  std::vector<Session> sessions_;
  std::vector<int32_t> stateless_;
  int64_t next_ = 0;
};

// Turn `turn` of a session that is always the same.
std::string ControlTurn(Client* client, const std::string& id, int turn) {
  v1::CompleteRequest request;
  request.set_session_id(id);
  request.set_create_session(true);
  request.set_text(absl::StrCat("Chapter ", turn, ". It was "));
  request.mutable_sampling()->set_max_tokens(30);
  request.mutable_sampling()->set_temperature(0.8f);
  request.mutable_sampling()->set_seed(turn);
  v1::CompleteResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      client->inference->Complete(&context, request, &response);
  return status.ok() ? response.state_digest() : status.error_message();
}

bool DeleteSession(Client* client, const std::string& id) {
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  grpc::ClientContext context;
  return client->sessions->DeleteSession(&context, request, &response).ok();
}

int32_t VocabSize(Client* client) {
  v1::ServerInfo info;
  grpc::ClientContext context;
  client->admin->GetServerInfo(&context, {}, &info);
  return info.model().vocab_size();
}

struct Sample {
  double seconds = 0;
  ProcessUse use;
  double slots_committed = 0, slots_scratch = 0, running = 0, queued = 0,
         committed_turns = 0;
};

// Looks at the process every few seconds while it lives.
class Sampler {
 public:
  explicit Sampler(const Target& target)
      : target_(target), begin_(absl::Now()) {
    if (absl::GetFlag(FLAGS_csv).empty()) return;
    csv_.open(absl::GetFlag(FLAGS_csv));
    csv_ << "seconds,resident_bytes,descriptors,threads,cpu_seconds,"
            "slots_committed,slots_scratch,running,queued,committed_turns\n";
  }

  Sample Take() {
    Sample sample;
    Series metrics = Scrape(target_.http_port);
    sample.seconds = absl::ToDoubleSeconds(absl::Now() - begin_);
    sample.use = UseOf(target_.pid);
    sample.slots_committed = metrics["ttt_state_slots{use=\"committed\"}"];
    sample.slots_scratch = metrics["ttt_state_slots{use=\"scratch\"}"];
    sample.running = metrics["ttt_running_turns"];
    sample.queued = metrics["ttt_queue_requests"];
    sample.committed_turns = metrics["ttt_turns_total{outcome=\"committed\"}"];
    if (csv_.is_open()) {
      csv_ << absl::StrCat(sample.seconds, ",", sample.use.resident_bytes, ",",
                           sample.use.descriptors, ",", sample.use.threads, ",",
                           sample.use.cpu_seconds, ",", sample.slots_committed,
                           ",", sample.slots_scratch, ",", sample.running, ",",
                           sample.queued, ",", sample.committed_turns, "\n");
      csv_.flush();
    }
    return sample;
  }

 private:
  const Target& target_;
  const absl::Time begin_;
  std::ofstream csv_;
};

// Runs the mix for so long, and samples it.
std::vector<Sample> RunMix(const Target& target, int32_t vocab_size,
                           absl::Duration duration, uint64_t seed,
                           Sampler* sampler, Counts* counts) {
  std::atomic<bool> stop{false};
  std::vector<std::jthread> threads;
  for (int i = 0; i < absl::GetFlag(FLAGS_threads); ++i) {
    threads.emplace_back([&, i] {
      Worker(target.address, i, vocab_size, seed, counts).Run(stop);
    });
  }
  std::vector<Sample> samples;
  const absl::Time end = absl::Now() + duration;
  const absl::Duration period =
      absl::Seconds(absl::GetFlag(FLAGS_sample_seconds));
  while (absl::Now() < end) {
    absl::SleepFor(std::min(period, end - absl::Now()));
    samples.push_back(sampler->Take());
  }
  stop = true;
  threads.clear();
  return samples;
}

// When no client is left; at most `descriptors` are open then.
Sample Quiet(Sampler* sampler, int64_t descriptors) {
  Sample sample;
  Eventually(kBound, [&] {
    sample = sampler->Take();
    return sample.running + sample.queued + sample.slots_scratch == 0 &&
           sample.use.descriptors <= descriptors;
  });
  return sample;
}

// How much the line through the samples' resident memory rises over them.
double GrownBytes(const std::vector<Sample>& samples, size_t first) {
  const auto n = static_cast<double>(samples.size() - first);
  if (n < 2) return 0;
  double mean_x = 0, mean_y = 0;
  for (size_t i = first; i < samples.size(); ++i) {
    mean_x += samples[i].seconds / n;
    mean_y += static_cast<double>(samples[i].use.resident_bytes) / n;
  }
  double covariance = 0, variance = 0;
  for (size_t i = first; i < samples.size(); ++i) {
    const double x = samples[i].seconds - mean_x;
    covariance +=
        x * (static_cast<double>(samples[i].use.resident_bytes) - mean_y);
    variance += x * x;
  }
  return covariance / variance *
         (samples.back().seconds - samples[first].seconds);
}

class Report {
 public:
  void Check(const std::string& what, double value, double most) {
    const bool ok = value <= most;
    passed_ &= ok;
    std::printf("%-46s %14.0f  %s %.0f\n", what.c_str(), value,
                ok ? "ok, at most" : "FAILED, at most", most);
  }
  bool passed() const { return passed_; }

 private:
  bool passed_ = true;
};

int Main() {
  const absl::Duration duration = absl::Minutes(absl::GetFlag(FLAGS_minutes));
  const absl::Duration warm_up =
      absl::GetFlag(FLAGS_warm_up_minutes) < 0
          ? std::min(duration / 10, absl::Minutes(2))
          : absl::Minutes(absl::GetFlag(FLAGS_warm_up_minutes));
  const uint64_t seed = absl::GetFlag(FLAGS_seed);
  const Target target = MakeTarget();
  const int64_t descriptors = UseOf(target.pid).descriptors;
  Sampler sampler(target);

  std::vector<std::string> control;
  int32_t vocab_size = 0;
  {
    Client client(target.address);
    vocab_size = VocabSize(&client);
    for (int turn = 0; turn < kControlTurns; ++turn) {
      control.push_back(ControlTurn(&client, "control", turn));
    }
  }
  Counts warm_up_counts;
  RunMix(target, vocab_size, warm_up, seed + 1, &sampler, &warm_up_counts);
  const Sample before = Quiet(&sampler, descriptors);
  Series metrics_before = Scrape(target.http_port);

  Counts counts;
  const std::vector<Sample> samples =
      RunMix(target, vocab_size, duration, seed, &sampler, &counts);
  const Sample after = Quiet(&sampler, descriptors);
  Series metrics = Scrape(target.http_port);

  // The session that was there all the time, and the same one made again, take
  // the same further turn.
  int control_differs = 0;
  {
    Client client(target.address);
    for (int turn = 0; turn < kControlTurns; ++turn) {
      control_differs +=
          ControlTurn(&client, "control-again", turn) != control[turn];
    }
    control_differs += ControlTurn(&client, "control", kControlTurns) !=
                       ControlTurn(&client, "control-again", kControlTurns);
    control_differs += !DeleteSession(&client, "control");
    control_differs += !DeleteSession(&client, "control-again");
  }
  const Sample empty = Quiet(&sampler, descriptors);

  std::printf("%-16s %12s\n", "calls", "count");
  int64_t calls = 0;
  for (int op = 0; op < kNumOps; ++op) {
    calls += counts.ops[op];
    std::printf("%-16s %12lld\n", kOpNames[op],
                static_cast<long long>(counts.ops[op]));
  }
  std::printf("%-16s %12lld\n%-16s %12lld\n%-16s %12lld\n%-16s %12lld\n", "all",
              static_cast<long long>(calls), "commits",
              static_cast<long long>(counts.commits), "rollbacks",
              static_cast<long long>(counts.rollbacks), "refused",
              static_cast<long long>(counts.refused));
  int64_t most_resident = 0, most_descriptors = 0, most_threads = 0;
  for (const Sample& sample : samples) {
    most_resident = std::max(most_resident, sample.use.resident_bytes);
    most_descriptors = std::max(most_descriptors, sample.use.descriptors);
    most_threads = std::max(most_threads, sample.use.threads);
  }
  std::printf("\n%-16s %12s %12s %12s\n", "", "before", "most", "after");
  std::printf("%-16s %12lld %12lld %12lld\n", "resident KiB",
              static_cast<long long>(before.use.resident_bytes / 1024),
              static_cast<long long>(most_resident / 1024),
              static_cast<long long>(empty.use.resident_bytes / 1024));
  std::printf("%-16s %12lld %12lld %12lld\n", "descriptors",
              static_cast<long long>(before.use.descriptors),
              static_cast<long long>(most_descriptors),
              static_cast<long long>(empty.use.descriptors));
  std::printf("%-16s %12lld %12lld %12lld\n\n", "threads",
              static_cast<long long>(before.use.threads),
              static_cast<long long>(most_threads),
              static_cast<long long>(empty.use.threads));

  Report report;
  report.Check("answers or states that are wrong",
               static_cast<double>(counts.wrong + warm_up_counts.wrong), 0);
  report.Check("control turns with another digest", control_differs, 0);
  report.Check("descriptors above the baseline",
               static_cast<double>(empty.use.descriptors - descriptors), 0);
  report.Check("threads above the baseline",
               static_cast<double>(empty.use.threads - before.use.threads),
               kMostThreadsMore);
  if (kMeasuresMemory) {
    report.Check("resident bytes above the baseline",
                 static_cast<double>(empty.use.resident_bytes -
                                     before.use.resident_bytes),
                 kMostBytesMore);
    report.Check("resident bytes grown in the second half",
                 GrownBytes(samples, samples.size() / 2), kMostBytesGrown);
  }
  report.Check("slots that the control does not hold",
               std::abs(after.slots_committed - 1), 0);
  report.Check("slots held by nobody",
               empty.slots_committed + empty.slots_scratch, 0);
  report.Check("turns running or queued", empty.running + empty.queued, 0);
  // Each turn that a client saw committed, and no other.
  const std::string committed = "ttt_turns_total{outcome=\"committed\"}";
  report.Check("commits that were not seen, or not made",
               std::abs(metrics[committed] - metrics_before[committed] -
                        static_cast<double>(counts.commits)),
               0);
  report.Check("turns failed", metrics["ttt_turns_total{outcome=\"failed\"}"],
               0);
  report.Check("numeric faults", metrics["ttt_numeric_faults_total"], 0);
  std::printf("\n%s: %s of the mix with %d clients, seed %llu\n",
              report.passed() ? "PASSED" : "FAILED",
              absl::FormatDuration(duration).c_str(),
              absl::GetFlag(FLAGS_threads),
              static_cast<unsigned long long>(seed));
  return report.passed() ? 0 : 1;
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("runs the full mix of calls on one tttd");
  absl::ParseCommandLine(argc, argv);
  return ttt::Main();
}
