#include "tests/chaos/tttd_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/check.h"
#include "tests/integration/test_server.h"

extern char** environ;

namespace ttt {
namespace {

int NumberAfter(const std::string& line, const std::string& key) {
  const size_t at = line.find(key);
  TTT_CHECK(at != std::string::npos);
  return std::atoi(line.c_str() + at + key.size());
}

// With a null at the end.
std::vector<char*> PointersTo(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

ProcessUse UseOf(pid_t pid) {
  const std::string root = absl::StrCat("/proc/", pid);
  ProcessUse use;
  int64_t pages = 0;
  std::ifstream statm(root + "/statm");
  if (statm >> pages >> pages) {
    use.resident_bytes = pages * sysconf(_SC_PAGESIZE);
  }
  if (DIR* const directory = opendir((root + "/fd").c_str())) {
    while (readdir(directory) != nullptr) ++use.descriptors;
    use.descriptors -= 2;  // "." and ".."
    closedir(directory);
  }
  std::string stat;
  std::getline(std::ifstream(root + "/stat"), stat);
  // The second field, the program's name in brackets, may hold anything.
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(stat.rfind(')') + 1), ' ');
  if (fields.size() > 18) {
    use.cpu_seconds =
        (std::atof(fields[12].c_str()) + std::atof(fields[13].c_str())) /
        static_cast<double>(sysconf(_SC_CLK_TCK));
    use.threads = std::atoi(fields[18].c_str());
  }
  return use;
}

Series Scrape(int http_port) {
  Series series;
  for (const absl::string_view line :
       absl::StrSplit(HttpGet(http_port, "/metrics"), '\n')) {
    const size_t space = line.rfind(' ');
    double value = 0;
    if (line.empty() || line[0] == '#' || space == line.npos ||
        !absl::SimpleAtod(line.substr(space + 1), &value)) {
      continue;
    }
    series[std::string(line.substr(0, space))] = value;
  }
  return series;
}

TttdProcess::TttdProcess(const std::vector<std::string>& args,
                         std::vector<std::string> variables) {
  const std::filesystem::path beside =
      std::filesystem::read_symlink("/proc/self/exe").replace_filename("tttd");
  const std::string program =
      std::filesystem::exists(beside) ? beside.string() : TTT_TTTD;
  std::vector<std::string> all = {program, "--listen=127.0.0.1:0",
                                  "--http_listen=127.0.0.1:0"};
  all.insert(all.end(), args.begin(), args.end());
  std::vector<char*> argv = PointersTo(all);
  std::vector<char*> environment = PointersTo(variables);
  environment.pop_back();
  for (char** variable = environ; *variable != nullptr; ++variable) {
    environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  int ends[2];
  TTT_CHECK(pipe2(ends, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  TTT_CHECK(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(),
                        environment.data()) == 0);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  output_ = ends[0];
  reader_ = std::thread([this] { ReadOutput(); });
  const std::string line = WaitForLine("listening");
  if (line.empty()) return;  // It has ended; Wait tells how.
  port_ = NumberAfter(line, " port=");
  http_port_ = NumberAfter(line, " http_port=");
}

TttdProcess::~TttdProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    Wait();
  }
}

void TttdProcess::ReadOutput() {
  char bytes[4096];
  for (ssize_t n = 0; (n = read(output_, bytes, sizeof(bytes))) > 0;) {
    MutexLock lock(mutex_);
    said_.append(bytes, static_cast<size_t>(n));
    changed_.NotifyAll();
  }
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

std::string TttdProcess::WaitForLine(const std::string& text) {
  MutexLock lock(mutex_);
  while (true) {
    const size_t at = said_.find(text);
    const size_t end = said_.find('\n', at);
    if (at != std::string::npos && end != std::string::npos) {
      const size_t begin = said_.rfind('\n', at) + 1;  // npos + 1 is 0
      return said_.substr(begin, end - begin);
    }
    if (closed_) return "";
    changed_.Wait(mutex_);
  }
}

std::string TttdProcess::address() const {
  return absl::StrCat("127.0.0.1:", port_);
}

void TttdProcess::Signal(int number) const {
  TTT_CHECK(pid_ > 0);
  kill(pid_, number);
}

void TttdProcess::LimitFiles(int64_t most) const {
  rlimit limit = {};
  TTT_CHECK(prlimit(pid_, RLIMIT_NOFILE, nullptr, &limit) == 0);
  limit.rlim_cur = static_cast<rlim_t>(most);
  TTT_CHECK(prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr) == 0);
}

int TttdProcess::Wait() {
  TTT_CHECK(pid_ > 0);
  int status = 0;
  TTT_CHECK(waitpid(pid_, &status, 0) == pid_);
  pid_ = 0;
  reader_.join();
  close(output_);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

Client::Client(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  channel = grpc::CreateCustomChannel(
      address, grpc::InsecureChannelCredentials(), arguments);
  inference = v1::Inference::NewStub(channel);
  sessions = v1::Sessions::NewStub(channel);
  tokenizer = v1::Tokenizer::NewStub(channel);
  admin = v1::Admin::NewStub(channel);
}

double SumOf(const Series& series, const std::string& prefix) {
  double sum = 0;
  for (const auto& [name, value] : series) {
    if (absl::StartsWith(name, prefix)) sum += value;
  }
  return sum;
}

}  // namespace ttt
