// tttd: flags, signals and exit codes.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/base/byte_count.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status_macros.h"
#include "server/server.h"

ABSL_FLAG(std::string, model, "", "model directory; empty: the bundled model");
ABSL_FLAG(std::string, load_format, "auto",
          "auto, or dummy: random weights from config.json alone");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "gRPC address; port 0: a free one");
ABSL_FLAG(std::string, http_listen, "127.0.0.1:9464",
          "address of /metrics, /healthz and /readyz; empty: none");
ABSL_FLAG(std::string, data_dir, "",
          "must be empty: this version keeps sessions in memory");
ABSL_FLAG(
    std::string, device, "auto",
    "auto, cpu or cuda:N; auto is cuda:0 if that can serve; cuda:N says why "
    "it cannot");
ABSL_FLAG(std::string, precision, "auto", "auto, fp32 or bf16");
ABSL_FLAG(int32_t, num_threads, 0, "threads of the CPU backend; 0: one a core");
ABSL_FLAG(bool, batch_invariant, true,
          "must be true: results never depend on the rest of the batch");
ABSL_FLAG(int32_t, max_batch_rows, 32, "turns in one step, 1 to 4096");
ABSL_FLAG(int32_t, max_batch_tokens, 512,
          "tokens in one step, max_batch_rows to 32768");
ABSL_FLAG(int64_t, max_input_tokens, 1048576,
          "tokens in one call, 1 to 4194304");
ABSL_FLAG(ttt::ByteCount, device_state_bytes, {},
          "memory for the sessions' states, such as 536870912 or 512MiB; 0: a "
          "quarter of what there is, at most 1GiB");
ABSL_FLAG(ttt::ByteCount, host_state_bytes, {},
          "must be 0: there is no host tier in this version");
ABSL_FLAG(int32_t, max_queue, 1024, "calls that wait for a row, 0 to 1048576");
ABSL_FLAG(int64_t, max_queue_tokens, 4194304,
          "tokens of the calls that wait for a row, 1 to 2^40: a call counts "
          "its input (4 bytes of text as a token) and its max_tokens, or 1024 "
          "if those are more; when none waits, no call is refused for it");
ABSL_FLAG(ttt::ByteCount, max_queue_bytes, {268435456},
          "bytes of the requests that wait or run, 1 to 2^40, such as 256MiB");
ABSL_FLAG(double, max_queue_seconds, 10,
          "how long a call may wait for a row, 0.001 to 86400; then it ends "
          "with QUEUE_TIMEOUT. One is refused at the door when the tokens that "
          "wait, at the rate of late, would take more than three quarters of "
          "it");
ABSL_FLAG(int32_t, max_top_logprobs, 20, "candidates a token, 0 to 1048576");
ABSL_FLAG(int32_t, stream_interval_ms, 20,
          "least time between two events of a stream with tokens, 0 to 10000: "
          "a token that comes sooner after the last event waits for the first "
          "token past that time, or the end, and goes with it; 0: an event a "
          "step");
ABSL_FLAG(int64_t, memory_log_tokens, 65536,
          "must be 65536: there is no rewind in this version");
ABSL_FLAG(int32_t, drain_seconds, 30,
          "how long running turns may go on after SIGTERM, 0 to 86400");
ABSL_FLAG(bool, reflection, false, "serve gRPC reflection");
ABSL_FLAG(bool, dry_run, false, "print the memory plan and exit");
ABSL_FLAG(
    std::string, config, "",
    "file of flags, one name=value a line, # begins a comment; the command "
    "line comes after it");

namespace ttt {
namespace {

// In the order of --help.
constexpr absl::string_view kFlags[] = {"model",
                                        "load_format",
                                        "listen",
                                        "http_listen",
                                        "data_dir",
                                        "device",
                                        "precision",
                                        "num_threads",
                                        "batch_invariant",
                                        "max_batch_rows",
                                        "max_batch_tokens",
                                        "max_input_tokens",
                                        "max_queue",
                                        "max_queue_tokens",
                                        "max_queue_bytes",
                                        "max_queue_seconds",
                                        "device_state_bytes",
                                        "host_state_bytes",
                                        "max_top_logprobs",
                                        "stream_interval_ms",
                                        "memory_log_tokens",
                                        "drain_seconds",
                                        "reflection",
                                        "dry_run",
                                        "config"};
constexpr char kBundledModel[] = "models/ttt-linear-14m-books";
constexpr int kExitSecondSignal = 130;

absl::CommandLineFlag* FindFlag(absl::string_view name) {
  for (const absl::string_view known : kFlags) {
    if (known == name) return absl::FindCommandLineFlag(name);
  }
  return nullptr;
}

bool IsSwitch(absl::string_view name) {
  const absl::CommandLineFlag* const flag = FindFlag(name);
  return flag != nullptr && flag->IsOfType<bool>();
}

absl::Status SetFlag(absl::string_view name, absl::string_view value) {
  absl::CommandLineFlag* const flag = FindFlag(name);
  if (flag == nullptr) {
    return BadFlag(absl::StrCat("--", name, " ", QuoteValue(value),
                                ": there is no such flag, see --help"));
  }
  std::string error;
  if (flag->ParseFrom(value, &error)) return absl::OkStatus();
  return BadFlag(
      absl::StrCat("--", name, " is ", QuoteValue(value), ": ", error));
}

// Flags as `--name=value`, `--name value`, `--switch` and `--noswitch`.
absl::Status ParseArgs(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (!absl::ConsumePrefix(&arg, "--") || arg.empty()) {
      return BadFlag(
          absl::StrCat(QuoteValue(args[i]), " is not a flag, see --help"));
    }
    const size_t equals = arg.find('=');
    if (equals != absl::string_view::npos) {
      TTT_RETURN_IF_ERROR(
          SetFlag(arg.substr(0, equals), arg.substr(equals + 1)));
      continue;
    }
    absl::string_view positive = arg;
    if (IsSwitch(arg)) {
      TTT_RETURN_IF_ERROR(SetFlag(arg, "true"));
    } else if (absl::ConsumePrefix(&positive, "no") && IsSwitch(positive)) {
      TTT_RETURN_IF_ERROR(SetFlag(positive, "false"));
    } else if (FindFlag(arg) != nullptr && i + 1 == args.size()) {
      return BadFlag(absl::StrCat("--", arg, " has no value"));
    } else {
      TTT_RETURN_IF_ERROR(SetFlag(arg, i + 1 < args.size() ? args[++i] : ""));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseConfigFile(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> args;
  for (std::string line; std::getline(file, line);) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#') continue;
    std::pair<std::string, std::string> parts =
        absl::StrSplit(absl::StripPrefix(text, "--"), absl::MaxSplits('=', 1));
    absl::StripAsciiWhitespace(&parts.first);
    absl::StripAsciiWhitespace(&parts.second);
    if (!absl::StrContains(text, '=')) {
      if (!IsSwitch(parts.first)) {
        return BadFlag(absl::StrCat("--config is ", QuoteValue(path),
                                    ", whose line ", QuoteValue(text),
                                    " is not name=value"));
      }
      parts.second = "true";
    }
    args.push_back(absl::StrCat("--", parts.first, "=", parts.second));
    if (absl::StartsWith(args.back(), "--config")) {
      return BadFlag(absl::StrCat("--config is ", QuoteValue(path),
                                  ", which names another"));
    }
  }
  if (!file.eof()) {
    return BadFlag(absl::StrCat("--config is ", QuoteValue(path),
                                ", which cannot be read"));
  }
  return ParseArgs(args);
}

// The command line wins over the file that it names.
absl::Status ParseFlags(const std::vector<std::string>& args) {
  TTT_RETURN_IF_ERROR(ParseArgs(args));
  const std::string path = absl::GetFlag(FLAGS_config);
  if (path.empty()) return absl::OkStatus();
  TTT_RETURN_IF_ERROR(ParseConfigFile(path));
  return ParseArgs(args);
}

template <typename T>
absl::Status CheckRange(const absl::Flag<T>& flag, T least, T most) {
  const T value = absl::GetFlag(flag);
  if (value >= least && value <= most) return absl::OkStatus();
  return BadFlag(absl::StrCat("--", absl::GetFlagReflectionHandle(flag).Name(),
                              " is ", value, ", must be ", least, " to ",
                              most));
}

absl::Status CheckBytes(const absl::Flag<ByteCount>& flag, int64_t least,
                        int64_t most) {
  const int64_t value = absl::GetFlag(flag).bytes;
  if (value >= least && value <= most) return absl::OkStatus();
  return BadFlag(absl::StrCat("--", absl::GetFlagReflectionHandle(flag).Name(),
                              " is ", value, ", must be ", least, " to ",
                              most));
}

absl::Status CheckChoice(const absl::Flag<std::string>& flag,
                         const std::vector<std::string>& choices) {
  const std::string value = absl::GetFlag(flag);
  std::string all;
  for (const std::string& choice : choices) {
    if (value == choice) return absl::OkStatus();
    absl::StrAppend(&all, all.empty() ? "" : " or ", choice);
  }
  return BadFlag(absl::StrCat("--", absl::GetFlagReflectionHandle(flag).Name(),
                              " is ", QuoteValue(value), ", must be ", all));
}

// Empty, HOST:PORT, or the path of a socket.
absl::Status CheckAddress(const absl::Flag<std::string>& flag) {
  const std::string value = absl::GetFlag(flag);
  if (value.empty() || absl::StartsWith(value, "unix:"))
    return absl::OkStatus();
  const size_t colon = value.rfind(':');
  int32_t port = -1;
  if (colon != std::string::npos &&
      absl::SimpleAtoi(value.substr(colon + 1), &port) && port >= 0 &&
      port <= 65535) {
    return absl::OkStatus();
  }
  return BadFlag(absl::StrCat("--", absl::GetFlagReflectionHandle(flag).Name(),
                              " is ", QuoteValue(value),
                              ", must be HOST:PORT with a port of 0 to 65535"));
}

// Flags of features that this version does not have.
absl::Status CheckUnavailable() {
  if (!absl::GetFlag(FLAGS_data_dir).empty()) {
    return BadFlag(absl::StrCat(
        "--data_dir is ", QuoteValue(absl::GetFlag(FLAGS_data_dir)),
        ": durability is not in this version, sessions live "
        "in memory"));
  }
  if (!absl::GetFlag(FLAGS_batch_invariant)) {
    return BadFlag(
        "--batch_invariant is false: this version has no other mode");
  }
  if (absl::GetFlag(FLAGS_host_state_bytes).bytes != 0) {
    return BadFlag(absl::StrCat("--host_state_bytes is ",
                                absl::GetFlag(FLAGS_host_state_bytes).bytes,
                                ": there is no host tier in this version"));
  }
  if (absl::GetFlag(FLAGS_memory_log_tokens) != 65536) {
    return BadFlag(absl::StrCat("--memory_log_tokens is ",
                                absl::GetFlag(FLAGS_memory_log_tokens),
                                ": there is no rewind in this version"));
  }
  return absl::OkStatus();
}

absl::Status CheckFlags() {
  TTT_RETURN_IF_ERROR(CheckUnavailable());
  TTT_RETURN_IF_ERROR(CheckChoice(FLAGS_load_format, {"auto", "dummy"}));
  TTT_RETURN_IF_ERROR(CheckChoice(FLAGS_precision, {"auto", "fp32", "bf16"}));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_num_threads, 0, 1024));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_max_batch_rows, 1, 4096));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(
      FLAGS_max_batch_tokens, absl::GetFlag(FLAGS_max_batch_rows), 32768));
  TTT_RETURN_IF_ERROR(CheckRange<int64_t>(FLAGS_max_input_tokens, 1, 4 << 20));
  TTT_RETURN_IF_ERROR(
      CheckBytes(FLAGS_device_state_bytes, 0, int64_t{1} << 50));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_max_queue, 0, 1 << 20));
  TTT_RETURN_IF_ERROR(
      CheckRange<int64_t>(FLAGS_max_queue_tokens, 1, int64_t{1} << 40));
  TTT_RETURN_IF_ERROR(CheckBytes(FLAGS_max_queue_bytes, 1, int64_t{1} << 40));
  TTT_RETURN_IF_ERROR(
      CheckRange<double>(FLAGS_max_queue_seconds, 0.001, 86400));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_max_top_logprobs, 0, 1 << 20));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_stream_interval_ms, 0, 10000));
  TTT_RETURN_IF_ERROR(CheckRange<int32_t>(FLAGS_drain_seconds, 0, 86400));
  if (absl::GetFlag(FLAGS_listen).empty()) return BadFlag("--listen is empty");
  TTT_RETURN_IF_ERROR(CheckAddress(FLAGS_listen));
  return CheckAddress(FLAGS_http_listen);
}

// Beside an installed program, or in the source tree of a built one; empty if
// it is in neither.
std::string FindBundledModel() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char* root : {"../share/tttd", "../../.."}) {
    const auto model = program.parent_path() / root / kBundledModel;
    if (std::filesystem::exists(model / "config.json", error)) {
      return model.lexically_normal().string();
    }
  }
  return "";
}

// A model that is not there is found when it is read.
absl::Status CheckModelDir(const std::string& model) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(model, error)) return absl::OkStatus();
  std::string parent = std::filesystem::path(model).parent_path().string();
  if (parent.empty()) parent = ".";
  return BadFlag(
      absl::StrCat("--model is ", QuoteValue(model),
                   ", which is a file; give its directory: --model=", parent));
}

absl::StatusOr<ServerOptions> MakeOptions() {
  TTT_RETURN_IF_ERROR(CheckFlags());
  ServerOptions options;
  options.model_dir = absl::GetFlag(FLAGS_model);
  if (options.model_dir.empty()) options.model_dir = FindBundledModel();
  if (options.model_dir.empty()) {
    return BadFlag("--model is empty, and the bundled model is not there");
  }
  TTT_RETURN_IF_ERROR(CheckModelDir(options.model_dir));
  options.dummy_weights = absl::GetFlag(FLAGS_load_format) == "dummy";
  options.listen = absl::GetFlag(FLAGS_listen);
  options.http_listen = absl::GetFlag(FLAGS_http_listen);
  options.device = absl::GetFlag(FLAGS_device);
  options.precision = absl::GetFlag(FLAGS_precision);
  options.num_threads = absl::GetFlag(FLAGS_num_threads);
  options.max_batch_rows = absl::GetFlag(FLAGS_max_batch_rows);
  options.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  options.max_input_tokens = absl::GetFlag(FLAGS_max_input_tokens);
  options.device_state_bytes = absl::GetFlag(FLAGS_device_state_bytes).bytes;
  options.max_queue = absl::GetFlag(FLAGS_max_queue);
  options.max_queue_tokens = absl::GetFlag(FLAGS_max_queue_tokens);
  options.max_queue_bytes = absl::GetFlag(FLAGS_max_queue_bytes).bytes;
  options.max_queue_wait =
      absl::Seconds(absl::GetFlag(FLAGS_max_queue_seconds));
  options.max_top_logprobs = absl::GetFlag(FLAGS_max_top_logprobs);
  options.stream_interval =
      absl::Milliseconds(absl::GetFlag(FLAGS_stream_interval_ms));
  options.reflection = absl::GetFlag(FLAGS_reflection);
  return options;
}

// Words in lines of at most 80 columns behind 8 spaces.
std::string Paragraph(absl::string_view text) {
  constexpr size_t kColumns = 72;
  std::string lines;
  size_t column = kColumns;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    const bool is_new = column + 1 + word.size() > kColumns;
    absl::StrAppend(&lines,
                    !is_new ? " " : (lines.empty() ? "        " : "\n        "),
                    word);
    column = is_new ? word.size() : column + 1 + word.size();
  }
  return lines;
}

void PrintHelp() {
  std::printf(
      "usage: tttd [--FLAG=VALUE ...]\n\n"
      "tttd " TTT_VERSION
      ": serves Test-Time Training models over gRPC. Without a flag it "
      "serves\nthe bundled model on 127.0.0.1:50051. A flag is written "
      "--name=value or\n--name value, a switch --name or --noname.\n\n"
      "  --help\n        this text\n  --version\n        the version\n");
  for (const absl::string_view name : kFlags) {
    const absl::CommandLineFlag* const flag = FindFlag(name);
    const std::string value = flag->DefaultValue();
    std::printf("  --%s%s%s\n%s\n", std::string(name).c_str(),
                value.empty() ? "" : "=", value.c_str(),
                Paragraph(flag->Help()).c_str());
  }
  std::printf(
      "\nSIGTERM and SIGINT drain; a second one ends at once, with %d.\n"
      "Exit codes: 0 drained, %d bad flag, %d bad model or data, %d port or "
      "device unavailable, %d internal.\n",
      kExitSecondSignal, kExitBadFlag, kExitBadModel, kExitUnavailable,
      kExitInternal);
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

int Serve(ServerOptions options, Signals* signals) {
  RaiseDescriptorLimit();
  options.on_device_lost = [signals] { signals->SetDeviceLost(); };
  auto server = Server::Create(options);
  if (!server.ok()) {
    return Fail(server.status());
  }
  signals->Arm();
  (*server)->SetServing();
  Log(LogLevel::kInfo, "listening",
      {{"port", absl::StrCat((*server)->port())},
       {"http_port", absl::StrCat((*server)->http_port().value_or(0))},
       {"model", options.model_dir},
       {"version", TTT_VERSION}});
  signals->Wait();
  Log(LogLevel::kInfo, "draining");
  (*server)->StartDrain();
  const bool idle = (*server)->WaitUntilIdle(
      absl::Seconds(absl::GetFlag(FLAGS_drain_seconds)));
  if (!idle)
    Log(LogLevel::kWarning, "turns are cut, the time to drain is over");
  (*server)->Shutdown();
  server->reset();
  Log(LogLevel::kInfo, "drained");
  return signals->device_lost() ? kExitInternal : 0;
}

int Main(const std::vector<std::string>& args) {
  for (const std::string& arg : args) {
    if (arg == "--help") return PrintHelp(), 0;
    if (arg == "--version") return std::printf("tttd " TTT_VERSION "\n"), 0;
  }
  absl::Status status = ParseFlags(args);
  absl::StatusOr<ServerOptions> options =
      status.ok() ? MakeOptions() : absl::StatusOr<ServerOptions>(status);
  if (options.ok() && absl::GetFlag(FLAGS_dry_run)) {
    const absl::StatusOr<std::string> plan = PlanServer(*options);
    if (plan.ok()) return std::fputs(plan->c_str(), stdout), 0;
    options = plan.status();
  }
  if (!options.ok()) return Fail(options.status());
  // Never deleted: its thread lasts as long as the process.
  return Serve(*options, new Signals);
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) {
  return ttt::Main(std::vector<std::string>(argv + 1, argv + argc));
}
