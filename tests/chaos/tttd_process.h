// A tttd in a process of its own: its ports, its log, what it uses.
#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "ttt/v1/admin.grpc.pb.h"
#include "ttt/v1/inference.grpc.pb.h"
#include "ttt/v1/sessions.grpc.pb.h"
#include "ttt/v1/tokenizer.grpc.pb.h"

namespace ttt {

// Not under a sanitizer, which keeps what was freed.
inline constexpr bool kMeasuresMemory = TTT_MEASURES_MEMORY;

// What a process holds, from /proc.
struct ProcessUse {
  int64_t resident_bytes = 0;
  int64_t descriptors = 0;
  int64_t threads = 0;
  double cpu_seconds = 0;
};

// Of a process that exists; 0 each if it does not.
ProcessUse UseOf(pid_t pid);

// A scrape: series as the page writes them, `name{label="value"}`, to values.
using Series = std::map<std::string, double>;
Series Scrape(int http_port);

// The program, with what it prints read as it comes. Thread-safe.
class TttdProcess {
 public:
  // On free ports of the loopback; `args` come after the ports, and win.
  // `variables`, NAME=VALUE, are added to the environment. The program is the
  // one of this build, or a tttd beside the test program.
  explicit TttdProcess(const std::vector<std::string>& args,
                       std::vector<std::string> variables = {});
  ~TttdProcess();  // Kills it if it still runs.
  TttdProcess(const TttdProcess&) = delete;
  TttdProcess& operator=(const TttdProcess&) = delete;

  // Reads on until a line holds `text`; that line, or an empty one when the
  // program has closed its output.
  std::string WaitForLine(const std::string& text) ABSL_LOCKS_EXCLUDED(mutex_);
  // Once it serves.
  int port() const { return port_; }
  int http_port() const { return http_port_; }
  pid_t pid() const { return pid_; }
  std::string address() const;

  void Signal(int number) const;
  // How many files it may have open from now on.
  void LimitFiles(int64_t most) const;
  // The exit code; below 0 a signal's number.
  int Wait();

  ProcessUse use() const { return UseOf(pid_); }
  Series metrics() const { return Scrape(http_port_); }

 private:
  void ReadOutput() ABSL_LOCKS_EXCLUDED(mutex_);

  pid_t pid_ = 0;
  int output_ = -1;
  int port_ = 0;
  int http_port_ = 0;
  Mutex mutex_;
  CondVar changed_;
  std::string said_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread reader_;
};

// One connection and the stubs on it.
struct Client {
  explicit Client(const std::string& address);

  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Tokenizer::Stub> tokenizer;
  std::unique_ptr<v1::Admin::Stub> admin;
};

// A sum over the series that begin with `prefix`.
double SumOf(const Series& series, const std::string& prefix);

}  // namespace ttt
