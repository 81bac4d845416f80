#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <sstream>

#include "server/telemetry/families.h"

namespace ttt {
namespace {

double StartTimeSeconds() {
  std::ifstream self("/proc/self/stat");
  std::string stat;
  std::getline(self, stat);
  // The second field, the program's name in brackets, may hold anything; the
  // start is the 20th after it, in ticks since the system's.
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string field;
  for (int i = 0; i < 19; ++i) fields >> field;
  double ticks = 0;
  if (!(fields >> ticks)) return 0;

  std::ifstream system("/proc/stat");
  double boot_seconds = 0;
  while (system >> field) {
    if (field == "btime" && system >> boot_seconds) {
      return boot_seconds + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
    }
  }
  return 0;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) +
           static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::optional<double> ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double size_pages = 0;
  double resident_pages = 0;
  if (!(statm >> size_pages >> resident_pages)) return std::nullopt;
  return resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::optional<double> OpenFiles() {
  DIR* const directory = opendir("/proc/self/fd");
  if (directory == nullptr) return std::nullopt;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory's own
}

}  // namespace

ProcessMetrics::ProcessMetrics() : start_time_seconds_(StartTimeSeconds()) {}

Families ProcessMetrics::Collect() const {
  Families families = {CountSoFar(
      "process_cpu_seconds_total",
      "Time on the processors, user and system, in seconds.", CpuSeconds())};
  if (const std::optional<double> bytes = ResidentBytes()) {
    families.push_back(Gauge("process_resident_memory_bytes",
                             "Resident memory in bytes.", *bytes));
  }
  if (const std::optional<double> files = OpenFiles()) {
    families.push_back(Gauge("process_open_fds", "Open files.", *files));
  }
  if (start_time_seconds_ > 0) {
    families.push_back(Gauge("process_start_time_seconds",
                             "When the process began, in Unix seconds.",
                             start_time_seconds_));
  }
  return families;
}

}  // namespace ttt
