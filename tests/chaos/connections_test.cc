// Connections that do not behave: half open, slow, idle in their thousands,
// killed, and more than there are descriptors. The calls of others go on.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "tests/chaos/tttd_process.h"
#include "tests/integration/test_server.h"

extern char** environ;

namespace ttt {
namespace {

constexpr absl::Duration kBound = absl::Seconds(30);
constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr char kNoSettings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
// INITIAL_WINDOW_SIZE 0: the server may send no message until it is given room.
constexpr char kNoWindow[] = {0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0};

// A client's end of HTTP/2 that does only what a test tells it to.
class RawConnection {
 public:
  explicit RawConnection(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    TTT_CHECK(fd_ >= 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    TTT_CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address),
                      sizeof(address)) == 0);
  }
  ~RawConnection() { Close(); }
  RawConnection(RawConnection&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)) {}

  void Send(absl::string_view bytes) {
    TTT_CHECK(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(bytes.size()));
  }
  // The preface and settings, and the server's answer.
  void Greet(absl::string_view settings = {kNoSettings, sizeof(kNoSettings)}) {
    Send(absl::string_view(kPreface, sizeof(kPreface) - 1));
    Send(settings);
    char bytes[64];
    TTT_CHECK(recv(fd_, bytes, sizeof(bytes), 0) > 0);
  }
  // A call on stream 1 whose message is not sent.
  void BeginCall(const std::string& method) {
    std::string block;
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, std::string>>{
             {":method", "POST"},
             {":scheme", "http"},
             {":path", method},
             {":authority", "localhost"},
             {"content-type", "application/grpc"},
             {"te", "trailers"}}) {
      // A literal without indexing, with a new name.
      absl::StrAppend(&block, std::string(1, '\0'), Length(name), name,
                      Length(value), value);
    }
    Send(Frame(1, 4, block));  // HEADERS, END_HEADERS
  }
  // The message, of which `part` is sent: below 1, the rest never comes.
  void SendMessage(const std::string& message, double part = 1) {
    const auto size = static_cast<uint32_t>(message.size());
    std::string data = {0, char(size >> 24), char(size >> 16), char(size >> 8),
                        char(size)};
    data += message;
    if (part >= 1) return Send(Frame(0, 1, data));  // DATA, END_STREAM
    const std::string frame = Frame(0, 0, data);
    Send(absl::string_view(frame).substr(
        0, static_cast<size_t>(static_cast<double>(frame.size()) * part)));
  }
  // Room for `bytes` more on stream 1.
  void Widen(uint32_t bytes) {
    const std::string window = {char(bytes >> 24), char(bytes >> 16),
                                char(bytes >> 8), char(bytes)};
    Send(Frame(8, 0, window));
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // Ends it with a reset, as a client does that died with bytes unread.
  void Reset() {
    const linger now = {1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    Close();
  }

 private:
  static std::string Length(const std::string& text) {
    TTT_CHECK(text.size() < 127);
    return std::string(1, static_cast<char>(text.size()));
  }
  static std::string Frame(char type, char flags, const std::string& payload) {
    const size_t size = payload.size();
    const std::string head = {
        char(size >> 16), char(size >> 8), char(size), type, flags, 0, 0, 0, 1};
    return head + payload;
  }

  int fd_;
};

std::string EndlessMessage(const std::string& session) {
  return FromText<v1::CompleteRequest>(
             EndlessRequest(session, "top_logprobs: 5"))
      .SerializeAsString();
}

constexpr char kStream[] = "/ttt.v1.Inference/StreamComplete";

// ttt as a process of its own.
class TttProcess {
 public:
  explicit TttProcess(std::vector<std::string> args) {
    args.insert(args.begin(), TTT_TTT);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", 2, 0);
    }
    TTT_CHECK(posix_spawn(&pid_, TTT_TTT, &actions, nullptr, argv.data(),
                          environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~TttProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  void Signal(int number) { kill(pid_, number); }

 private:
  pid_t pid_ = 0;
};

class ConnectionsTest : public testing::Test {
 protected:
  ConnectionsTest()
      : tttd_({absl::StrCat("--model=", model_.path()), "--load_format=dummy",
               "--precision=fp32", "--num_threads=1", "--max_batch_rows=32",
               "--device_state_bytes=8000000"}),
        client_(tttd_.address()) {
    expected_ = Call(client_).state_digest();
    use_ = tttd_.use();
  }

  // A turn on a session of its own, which it deletes. It must be right.
  v1::CompleteResponse Call(Client& client) {
    v1::CompleteResponse response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(30));
    const grpc::Status status = client.inference->Complete(
        &context,
        FromText<v1::CompleteRequest>(
            "token_ids { ids: [5, 6, 7] } sampling { max_tokens: 10 } stop { "
            "ignore_eos: true } session_id: 'probe' create_session: true"),
        &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    v1::DeleteSessionRequest request;
    request.set_session_id("probe");
    v1::DeleteSessionResponse deleted;
    grpc::ClientContext delete_context;
    EXPECT_TRUE(
        client.sessions->DeleteSession(&delete_context, request, &deleted)
            .ok());
    if (!expected_.empty()) {
      EXPECT_EQ(response.state_digest(), expected_);
    }
    return response;
  }
  struct Times {
    absl::Duration best, median, worst;  // of a call
  };
  Times TimeCalls(int calls = 50) {
    std::vector<absl::Duration> times;
    for (int i = 0; i < calls; ++i) {
      const absl::Time begin = absl::Now();
      Call(client_);
      times.push_back(absl::Now() - begin);
    }
    std::sort(times.begin(), times.end());
    return {times.front(), times[times.size() / 2], times.back()};
  }

  double Metric(const std::string& name) { return tttd_.metrics()[name]; }
  bool RunsTurns(int count) {
    return Eventually(kBound, [&] {
      return Metric("ttt_running_turns") == static_cast<double>(count);
    });
  }
  // All that the others held has come back.
  void ExpectNothingIsLeft() {
    ProcessUse use;
    EXPECT_TRUE(Eventually(kBound,
                           [&] {
                             use = tttd_.use();
                             return use.descriptors <= use_.descriptors;
                           }))
        << use.descriptors << " descriptors, before " << use_.descriptors;
    EXPECT_TRUE(RunsTurns(0));
    EXPECT_EQ(Metric("ttt_state_slots{use=\"scratch\"}"), 0);
    EXPECT_EQ(Metric("ttt_state_slots{use=\"committed\"}"), 0);
    Call(client_);
  }
  std::string HealthCode() {
    return HttpGet(tttd_.http_port(), "/healthz").substr(0, 15);
  }

  const TinyModel model_;
  TttdProcess tttd_;
  Client client_;
  std::string expected_;
  ProcessUse use_;  // with one client, idle
};

TEST_F(ConnectionsTest, HalfOpenOnesHarmNobody) {
  std::vector<RawConnection> connections;
  for (int i = 0; i < 200; ++i) {
    RawConnection& connection = connections.emplace_back(tttd_.port());
    switch (i % 5) {
      case 0:  // nothing at all
        break;
      case 1:
        connection.Send(absl::string_view(kPreface, 10));
        break;
      case 2:
        connection.Greet();
        break;
      case 3:  // a call without its message
        connection.Greet();
        connection.BeginCall(kStream);
        break;
      case 4:  // half a message
        connection.Greet();
        connection.BeginCall(kStream);
        connection.SendMessage(EndlessMessage(""), 0.5);
        break;
    }
  }
  TimeCalls();
  EXPECT_EQ(HealthCode(), "HTTP/1.1 200 OK");
  for (size_t i = 0; i < connections.size(); i += 2) connections[i].Reset();
  connections.clear();
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, HalfOpenOnesOfHttpLetAScrapeThroughInTime) {
  std::vector<RawConnection> connections;
  for (int i = 0; i < 50; ++i) {
    connections.emplace_back(tttd_.http_port()).Send("GET /metr");
  }
  const absl::Time begin = absl::Now();
  EXPECT_EQ(HealthCode(), "HTTP/1.1 200 OK");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  EXPECT_GT(tttd_.metrics().size(), 100);
  TimeCalls(5);
  connections.clear();
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, MoreHalfOpenOnesOfHttpThanThreadsEndBeforeLong) {
  std::vector<RawConnection> connections;
  for (int i = 0; i < 200; ++i) {
    connections.emplace_back(tttd_.http_port()).Send("GET /metr");
  }
  const absl::Time begin = absl::Now();
  EXPECT_EQ(HealthCode(), "HTTP/1.1 200 OK");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));
  connections.clear();
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, ReadersThatTakeNothingOrAByteAtATimeHarmNobody) {
  constexpr int kReaders = 20;
  std::vector<RawConnection> connections;
  for (int i = 0; i < kReaders; ++i) {
    RawConnection& connection = connections.emplace_back(tttd_.port());
    connection.Greet({kNoWindow, sizeof(kNoWindow)});
    connection.BeginCall(kStream);
    connection.SendMessage(EndlessMessage(absl::StrCat("slow-", i)));
  }
  ASSERT_TRUE(RunsTurns(kReaders));
  const int64_t before = tttd_.use().resident_bytes;
  const double generated = Metric("ttt_tokens_total{kind=\"generated\"}");
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < kReaders; i += 2) connections[i].Widen(1);
    TimeCalls(10);
  }
  // What waits for a reader is bounded in tokens and in bytes.
  const double more =
      Metric("ttt_tokens_total{kind=\"generated\"}") - generated;
  EXPECT_LT(more, 20 * 20 * 10 + kReaders * 8192.0);
  if (kMeasuresMemory) {
    EXPECT_LT(tttd_.use().resident_bytes - before, 32 << 20);
  }
  for (size_t i = 0; i < connections.size(); i += 3) connections[i].Reset();
  connections.clear();
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, AReaderWhoComesBackGetsEveryTokenOrIsTold) {
  // More than windows and buffers hold; a sanitizer makes steps slow.
  constexpr int kTokens = kMeasuresMemory ? 20000 : 4000;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::CompleteEvent>>> readers;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(client_.inference->StreamComplete(
        contexts.back().get(),
        FromText<v1::CompleteRequest>(absl::StrCat(
            "token_ids { ids: [5, 6, 7] } stop { ignore_eos: true } "
            "top_logprobs: 2 sampling { max_tokens: ",
            kTokens, " }"))));
  }
  ASSERT_TRUE(RunsTurns(4));
  TimeCalls(50);
  for (auto& reader : readers) {
    v1::CompleteEvent event;
    int64_t tokens = 0;
    while (reader->Read(&event)) {
      if (!event.has_tokens()) continue;
      ASSERT_EQ(event.tokens().index(), tokens);
      tokens += event.tokens().ids_size();
    }
    const grpc::Status status = reader->Finish();
    if (status.ok()) {
      EXPECT_EQ(tokens, kTokens);
    } else {
      EXPECT_EQ(ErrorInfoOf(status).reason(), "SLOW_CONSUMER");
    }
  }
  readers.clear();
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, AKilledClientsTurnIsRolledBack) {
  v1::CompleteResponse base;
  grpc::ClientContext context;
  ASSERT_TRUE(client_.inference
                  ->Complete(&context,
                             FromText<v1::CompleteRequest>(
                                 "token_ids { ids: [5] } sampling { "
                                 "max_tokens: 1 } session_id: 's' "
                                 "create_session: true"),
                             &base)
                  .ok());
  for (const bool stopped : {false, true}) {
    TttProcess ttt({"complete", "--server", tttd_.address(), "--session", "s",
                    "--token-ids", "5,6,7", "--max-tokens", "2000000000",
                    "--ignore-eos"});
    ASSERT_TRUE(RunsTurns(1));
    if (stopped) {
      ttt.Signal(SIGSTOP);
      TimeCalls(20);
    }
    ttt.Signal(SIGKILL);
    ASSERT_TRUE(RunsTurns(0));
    v1::GetSessionRequest request;
    request.set_session_id("s");
    v1::Session session;
    grpc::ClientContext get_context;
    ASSERT_TRUE(
        client_.sessions->GetSession(&get_context, request, &session).ok());
    EXPECT_EQ(session.revision(), 1);
    EXPECT_EQ(session.state_digest(), base.state_digest());
    EXPECT_EQ(session.tier(), v1::TIER_DEVICE);
  }
  v1::DeleteSessionRequest request;
  request.set_session_id("s");
  v1::DeleteSessionResponse response;
  grpc::ClientContext delete_context;
  ASSERT_TRUE(
      client_.sessions->DeleteSession(&delete_context, request, &response)
          .ok());
  ExpectNothingIsLeft();
}

TEST_F(ConnectionsTest, TwoThousandIdleOnesCostLittleAndSlowNobody) {
  constexpr int kIdle = 2000;
  rlimit files = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < kIdle + 500) {
    GTEST_SKIP() << "at most " << files.rlim_max << " files";
  }
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, kIdle + 500);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  tttd_.LimitFiles(kIdle + 500);

  const Times times_before = TimeCalls(100);
  const ProcessUse before = tttd_.use();
  std::vector<RawConnection> connections;
  for (int i = 0; i < kIdle; ++i) {
    connections.emplace_back(tttd_.port()).Greet();
  }
  const Times times = TimeCalls(100);
  const ProcessUse after = tttd_.use();
  EXPECT_EQ(after.descriptors - before.descriptors, kIdle);
  const int64_t bytes = (after.resident_bytes - before.resident_bytes) / kIdle;
  std::printf(
      "a connection: %lld bytes; a call: median %s, worst %s; before: "
      "%s, %s\n",
      static_cast<long long>(bytes), absl::FormatDuration(times.median).c_str(),
      absl::FormatDuration(times.worst).c_str(),
      absl::FormatDuration(times_before.median).c_str(),
      absl::FormatDuration(times_before.worst).c_str());
  if (kMeasuresMemory) {
    EXPECT_LT(bytes, 64 << 10);
  }
  // The best of many: what else the machine does slows some, not all.
  EXPECT_LT(times.best, 3 * times_before.best + absl::Milliseconds(5));
  EXPECT_LE(after.threads, before.threads + 16);
  EXPECT_EQ(HealthCode(), "HTTP/1.1 200 OK");
  connections.clear();
  ExpectNothingIsLeft();
}

// Burns that much time of a core, however long that takes on a busy machine.
void Spin(double cpu_seconds) {
  timespec used = {};
  do {
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  } while (static_cast<double>(used.tv_sec) + 1e-9 * used.tv_nsec <
           cpu_seconds);
}

// A server that has no descriptor left.
class NoDescriptorsTest : public ConnectionsTest {
 protected:
  static constexpr int kSpare = 20;

  NoDescriptorsTest() {
    tttd_.LimitFiles(use_.descriptors + kSpare);
    for (int i = 0; i < 3 * kSpare; ++i) hogs_.emplace_back(tttd_.port());
    TTT_CHECK(Eventually(kBound, [&] {
      return tttd_.use().descriptors >= use_.descriptors + kSpare - 1;
    }));
  }

  std::vector<RawConnection> hogs_;
};

TEST_F(NoDescriptorsTest, WhoIsConnectedIsServedAndNothingSpins) {
  TimeCalls(20);
  // A server that spins would get about as much of the machine as a thread
  // that does.
  constexpr double kSeconds = 1;
  const double cpu_before = tttd_.use().cpu_seconds;
  std::thread([] { Spin(kSeconds); }).join();
  const double share = (tttd_.use().cpu_seconds - cpu_before) / kSeconds;
  std::printf("%.0f %% of a core while no descriptor is left\n", 100 * share);
  EXPECT_LT(share, 0.3);
  TimeCalls(5);
  hogs_.clear();
  ExpectNothingIsLeft();
  EXPECT_EQ(HealthCode(), "HTTP/1.1 200 OK");
}

TEST_F(NoDescriptorsTest, WhenTheOthersLeaveNewClientsAreServed) {
  hogs_.clear();
  EXPECT_TRUE(Eventually(
      kBound, [&] { return tttd_.use().descriptors <= use_.descriptors; }));
  {
    Client late(tttd_.address());
    Call(late);
  }
  ExpectNothingIsLeft();
}

}  // namespace
}  // namespace ttt
