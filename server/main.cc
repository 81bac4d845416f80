// tttd: signals and exit codes.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/flags.h"
#include "server/server.h"

namespace ttt {
namespace {

constexpr int kExitSecondSignal = 130;

void PrintHelp() {
  std::printf(
      "usage: tttd [--FLAG=VALUE ...]\n\n"
      "tttd " TTT_VERSION
      ": serves Test-Time Training models over gRPC. Without a flag it "
      "serves\nthe bundled model on 127.0.0.1:50051. A flag is written "
      "--name=value or\n--name value, a switch --name or --noname.\n\n"
      "  --help\n        this text\n  --version\n        the version\n"
      "%s\nSIGTERM and SIGINT drain; a second one ends at once, with %d.\n"
      "Exit codes: 0 drained, %d bad flag, %d bad model or data, %d port or "
      "device unavailable, %d internal.\n",
      DescribeFlags().c_str(), kExitSecondSignal, kExitBadFlag, kExitBadModel,
      kExitUnavailable, kExitInternal);
}

// Waits for SIGTERM and SIGINT on a thread of its own, which ends with the
// process. Made before any other thread, so that all block them.
class Signals {
 public:
  Signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    std::thread([this, set] { Listen(set); }).detach();
  }

  // The server is there: from now on the first signal wakes Wait. Before, it
  // ends the process, which has served nobody.
  void Arm() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    armed_ = true;
  }
  // Returns at the first signal, or when the device is lost.
  void Wait() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (!signalled_ && !device_lost_) changed_.Wait(mutex_);
  }
  void SetDeviceLost() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    device_lost_ = true;
    changed_.NotifyAll();
  }
  bool device_lost() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    return device_lost_;
  }

 private:
  void Listen(const sigset_t& set) ABSL_LOCKS_EXCLUDED(mutex_) {
    while (true) {
      int number = 0;
      if (sigwait(&set, &number) != 0) continue;
      MutexLock lock(mutex_);
      if (!armed_) _exit(0);
      if (signalled_) _exit(kExitSecondSignal);
      signalled_ = true;
      changed_.NotifyAll();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
  bool signalled_ ABSL_GUARDED_BY(mutex_) = false;
  bool device_lost_ ABSL_GUARDED_BY(mutex_) = false;
};

// As many connections as the system lets it have; the default is often 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "tttd: %s\n", std::string(status.message()).c_str());
  return ExitCode(status);
}

int Serve(Flags flags, Signals* signals) {
  RaiseDescriptorLimit();
  ServerOptions& options = flags.server;
  options.on_device_lost = [signals] { signals->SetDeviceLost(); };
  auto server = Server::Create(options);
  if (!server.ok()) {
    return Fail(server.status());
  }
  signals->Arm();
  (*server)->SetServing();
  // A socket has a name instead of a port.
  const int port = (*server)->port();
  Log(LogLevel::kInfo, "listening",
      {{port > 0 ? "port" : "listen",
        port > 0 ? absl::StrCat(port) : options.listen},
       {"http_port", absl::StrCat((*server)->http_port().value_or(0))},
       {"model", options.model_dir},
       {"version", TTT_VERSION}});
  signals->Wait();
  Log(LogLevel::kInfo, "draining");
  (*server)->StartDrain();
  if (!(*server)->WaitUntilIdle(flags.drain_time)) {
    Log(LogLevel::kWarning, "turns are cut, the time to drain is over");
  }
  (*server)->Shutdown();
  server->reset();
  Log(LogLevel::kInfo, "drained");
  return signals->device_lost() ? kExitInternal : 0;
}

int Main(const std::vector<std::string>& args) {
  for (const std::string& arg : args) {
    if (arg == "--help" || arg == "-h") return PrintHelp(), 0;
    if (arg == "--version") return std::printf("tttd " TTT_VERSION "\n"), 0;
  }
  absl::StatusOr<Flags> flags = ParseFlags(args);
  if (!flags.ok()) return Fail(flags.status());
  if (flags->is_dry_run) {
    const absl::StatusOr<std::string> plan = PlanServer(flags->server);
    if (!plan.ok()) return Fail(plan.status());
    return std::fputs(plan->c_str(), stdout), 0;
  }
  // Never deleted: its thread lasts as long as the process.
  return Serve(*std::move(flags), new Signals);
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) {
  try {
    return ttt::Main(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::bad_alloc&) {
    std::fputs("tttd: the machine has no more memory\n", stderr);
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "tttd: refused by the system: %s\n", error.what());
  }
  return ttt::kExitUnavailable;
}
