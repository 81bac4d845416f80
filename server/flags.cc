#include "server/flags.h"

#include <cstdint>
#include <filesystem>
#include <utility>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/base/byte_count.h"
#include "server/base/error.h"
#include "server/base/status_macros.h"
#include "server/model/file.h"

ABSL_FLAG(std::string, model, "", "model directory; empty: the bundled model");
ABSL_FLAG(std::string, load_format, "auto",
          "auto, or dummy: random weights from config.json alone");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "gRPC address, HOST:PORT or unix:PATH; port 0: a free one");
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
ABSL_FLAG(
    ttt::ByteCount, device_state_bytes, {},
    "memory for the sessions' states, such as 536870912 or 512MiB; 0: on "
    "a GPU nearly all that weights, workspace and reserve leave free, else a "
    "quarter of what there is, at most half of what all else leaves free, and "
    "1GiB; max_batch_rows states for running turns come on top");
ABSL_FLAG(ttt::ByteCount, host_state_bytes, {},
          "must be 0: there is no host tier in this version");
ABSL_FLAG(int32_t, max_queue, 1024, "calls that wait for a row, 0 to 1048576");
ABSL_FLAG(int64_t, max_queue_tokens, 4194304,
          "tokens of the calls that wait for a row, 1 to 2^40: a call counts "
          "its input (4 bytes of text as a token) and its max_tokens, or 1024 "
          "if those are more; when none waits, or rows are free, no call is "
          "refused for it");
ABSL_FLAG(
    ttt::ByteCount, max_queue_bytes, {268435456},
    "bytes of the requests that wait or run, and of the answers to Score, "
    "1 to 2^40, such as 256MiB");
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
constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr char kBundledModel[] = "models/ttt-linear-14m-books";

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

// Names the flag that was meant, if it was written as flags of `ttt` are.
absl::Status NoSuchFlag(absl::string_view name) {
  const std::string meant = absl::StrReplaceAll(name, {{"-", "_"}});
  return BadFlag(absl::StrCat("--", name, ": there is no such flag, ",
                              FindFlag(meant) == nullptr
                                  ? "see --help"
                                  : absl::StrCat("it is --", meant)));
}

std::string WantedValue(const absl::CommandLineFlag& flag,
                        const std::string& error) {
  if (flag.IsOfType<bool>()) return "must be true or false";
  // What it is for, with its range.
  if (flag.IsOfType<double>()) {
    return absl::StrCat("must be a number: ", flag.Help());
  }
  if (flag.IsOfType<int32_t>() || flag.IsOfType<int64_t>()) {
    return absl::StrCat("must be a whole number: ", flag.Help());
  }
  if (flag.IsOfType<ByteCount>()) {
    return absl::StrCat(kWantedByteCount, ": ", flag.Help());
  }
  return error;
}

absl::Status SetFlag(absl::string_view name, absl::string_view value) {
  absl::CommandLineFlag* const flag = FindFlag(name);
  if (flag == nullptr) return NoSuchFlag(name);
  std::string error;
  if (flag->ParseFrom(value, &error)) return absl::OkStatus();
  return BadFlag(absl::StrCat("--", name, " is ", QuoteValue(value), ", ",
                              WantedValue(*flag, error)));
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
  const absl::StatusOr<std::string> file = ReadFile(path, kMaxConfigBytes);
  if (!file.ok()) {
    return BadFlag(
        absl::StripPrefix(file.status().message(), absl::StrCat(path, ": ")));
  }
  std::vector<std::string> args;
  for (const absl::string_view line : absl::StrSplit(*file, '\n')) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#') continue;
    std::pair<std::string, std::string> parts =
        absl::StrSplit(absl::StripPrefix(text, "--"), absl::MaxSplits('=', 1));
    absl::StripAsciiWhitespace(&parts.first);
    absl::StripAsciiWhitespace(&parts.second);
    if (!absl::StrContains(text, '=')) {
      if (!IsSwitch(parts.first)) {
        return BadFlag(
            absl::StrCat("line ", QuoteValue(text), " is not name=value"));
      }
      parts.second = "true";
    }
    args.push_back(absl::StrCat("--", parts.first, "=", parts.second));
    if (absl::StartsWith(args.back(), "--config")) {
      return BadFlag("it names another");
    }
  }
  return ParseArgs(args);
}

// The command line wins over the file that it names.
absl::Status SetFlags(const std::vector<std::string>& args) {
  TTT_RETURN_IF_ERROR(ParseArgs(args));
  const std::string path = absl::GetFlag(FLAGS_config);
  if (path.empty()) return absl::OkStatus();
  const absl::Status status = ParseConfigFile(path);
  if (!status.ok()) {
    return BadFlag(
        absl::StrCat("--config is ", QuoteValue(path), ": ", status.message()));
  }
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

}  // namespace

absl::StatusOr<Flags> ParseFlags(const std::vector<std::string>& args) {
  TTT_RETURN_IF_ERROR(SetFlags(args));
  Flags flags;
  TTT_ASSIGN_OR_RETURN(flags.server, MakeOptions());
  flags.drain_time = absl::Seconds(absl::GetFlag(FLAGS_drain_seconds));
  flags.is_dry_run = absl::GetFlag(FLAGS_dry_run);
  return flags;
}

std::string DescribeFlags() {
  std::string text;
  for (const absl::string_view name : kFlags) {
    const absl::CommandLineFlag* const flag = FindFlag(name);
    const std::string value = flag->DefaultValue();
    absl::StrAppend(&text, "  --", name, value.empty() ? "" : "=", value, "\n",
                    Paragraph(flag->Help()), "\n");
  }
  return text;
}

}  // namespace ttt
