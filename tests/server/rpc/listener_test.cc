#include "server/rpc/listener.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "tests/support/status_matchers.h"

namespace ttt {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kLong(30);

absl::StatusOr<std::unique_ptr<Listener>> Open(absl::string_view address) {
  static const RealClock clock;
  return Listener::Open(address, &clock);
}

// Counts the connections of a listener, and closes them.
class Connections {
 public:
  Listener::OnConnection Callback() {
    return [this](int, int connection) {
      close(connection);
      MutexLock lock(mutex_);
      ++count_;
      changed_.NotifyAll();
    };
  }
  bool WaitFor(int count) {
    MutexLock lock(mutex_);
    while (count_ < count) {
      if (!changed_.WaitFor(mutex_, kLong)) return false;
    }
    return true;
  }
  int count() {
    MutexLock lock(mutex_);
    return count_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A socket that can connect once no descriptor is left.
class Client {
 public:
  explicit Client(int family = AF_INET)
      : socket_(socket(family, SOCK_STREAM, 0)) {}
  ~Client() { close(socket_); }
  bool Connect(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(socket_, reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)) == 0;
  }
  bool Connect(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return connect(socket_, reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)) == 0;
  }

 private:
  const int socket_;
};

std::string SocketPath(const std::string& name) {
  return absl::StrCat(testing::TempDir(), "/", getpid(), name);
}

TEST(ListenerTest, GivesOnEachConnection) {
  auto listener = Open("127.0.0.1:0").value();
  EXPECT_GT(listener->port(), 0);
  Connections connections;
  listener->Start(connections.Callback());
  Client first, second;
  EXPECT_TRUE(first.Connect(listener->port()));
  EXPECT_TRUE(second.Connect(listener->port()));
  EXPECT_TRUE(connections.WaitFor(2));
}

TEST(ListenerTest, ANameIsListenedOnAtOnePort) {
  auto listener = Open("localhost:0").value();
  Connections connections;
  listener->Start(connections.Callback());
  Client client;
  EXPECT_TRUE(client.Connect(listener->port()));
  EXPECT_TRUE(connections.WaitFor(1));
}

TEST(ListenerTest, APortIsListenedOnByOne) {
  auto listener = Open("127.0.0.1:0").value();
  EXPECT_THAT(Open(absl::StrCat("127.0.0.1:", listener->port())),
              StatusIs(absl::StatusCode::kUnavailable, "Address already"));
}

TEST(ListenerTest, TheOtherAddressesOfANameAreNotTakenAlone) {
  auto listener = Open("127.0.0.1:0").value();
  EXPECT_THAT(Open(absl::StrCat("localhost:", listener->port())),
              StatusIs(absl::StatusCode::kUnavailable, "Address already"));
}

TEST(ListenerTest, AnUnknownHostIsRefused) {
  EXPECT_THAT(Open("256.0.0.1:0"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Open("no_port"),
              StatusIs(absl::StatusCode::kUnavailable, "there is no port"));
}

TEST(ListenerTest, StopClosesThePort) {
  auto listener = Open("127.0.0.1:0").value();
  Connections connections;
  listener->Start(connections.Callback());
  listener->Stop();
  Client client;
  EXPECT_FALSE(client.Connect(listener->port()));
}

TEST(ListenerTest, ListensOnAPathAndRemovesIt) {
  const std::string path = SocketPath("path");
  auto listener = Open(absl::StrCat("unix:", path)).value();
  Connections connections;
  listener->Start(connections.Callback());
  Client client(AF_UNIX);
  EXPECT_TRUE(client.Connect(path));
  EXPECT_TRUE(connections.WaitFor(1));
  EXPECT_THAT(Open(absl::StrCat("unix:", path)),
              StatusIs(absl::StatusCode::kUnavailable, "Address already"));
  listener.reset();
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(ListenerTest, APathThatAnotherLeftBehindIsTaken) {
  const std::string path = SocketPath("left");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int left = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(left, reinterpret_cast<sockaddr*>(&address), sizeof(address)),
            0);
  close(left);
  EXPECT_THAT(Open(absl::StrCat("unix:", path)), IsOk());
}

TEST(ListenerTest, APathThatIsAFileIsLeftAlone) {
  const std::string path = SocketPath("file");
  std::fclose(std::fopen(path.c_str(), "w"));
  EXPECT_THAT(Open(absl::StrCat("unix:", path)),
              StatusIs(absl::StatusCode::kUnavailable, "Address already"));
  EXPECT_EQ(unlink(path.c_str()), 0);
}

// No descriptor can be opened while it lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit_), 0);
    const int next = dup(0);  // the lowest that is free
    close(next);
    const rlimit none = {.rlim_cur = static_cast<rlim_t>(next),
                         .rlim_max = limit_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoDescriptors() { EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit_), 0); }

 private:
  rlimit limit_ = {};
};

TEST(ListenerTest, AcceptsAgainAfterDescriptorsHadRunOut) {
  auto listener = Open("127.0.0.1:0").value();
  Connections connections;
  listener->Start(connections.Callback());
  Client early, late;
  {
    const NoDescriptors none;
    EXPECT_TRUE(early.Connect(listener->port()));  // It waits in the backlog.
    EXPECT_TRUE(late.Connect(listener->port()));
    EXPECT_EQ(connections.count(), 0);
  }
  EXPECT_TRUE(connections.WaitFor(2));
}

// A clock that counts how often it is asked.
class AskedClock : public Clock {
 public:
  absl::Time Now() const override {
    ++asked_;
    asked_.notify_all();
    return absl::UnixEpoch();
  }
  void WaitForAnother() const {
    const int before = asked_;
    asked_.wait(before);
  }

 private:
  mutable std::atomic<int> asked_ = 0;
};

TEST(ListenerTest, ConnectionsAtTheLimitOfDescriptorsDoNotFillTheLog) {
  const AskedClock clock;  // at which no time passes
  auto listener = Listener::Open("127.0.0.1:0", &clock).value();
  Connections connections;
  listener->Start(connections.Callback());
  testing::internal::CaptureStderr();
  for (int i = 1; i <= 5; ++i) {
    Client client;
    {
      const NoDescriptors none;
      EXPECT_TRUE(client.Connect(listener->port()));
      clock.WaitForAnother();  // of a round that accepted nothing
    }
    EXPECT_TRUE(connections.WaitFor(i));
  }
  listener.reset();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("connections wait"));
  // Lines of our own: without descriptors a sanitizer writes some of its own.
  int warnings = 0;
  for (const absl::string_view line : absl::StrSplit(log, '\n')) {
    warnings += absl::StrContains(line, " WARN ");
  }
  EXPECT_EQ(warnings, 2) << log;
}

}  // namespace
}  // namespace ttt
