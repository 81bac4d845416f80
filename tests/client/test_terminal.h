// Runs the program's commands in this process, on descriptors of the test's
// own.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "client/commands.h"
#include "client/console.h"

namespace ttt {

// A file in memory, as standard input, output or error.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& text = "")
      : fd_(memfd_create("test", MFD_CLOEXEC)) {
    Write(text);
    lseek(fd_, 0, SEEK_SET);
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_; }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  std::string Text() const {
    std::string text(lseek(fd_, 0, SEEK_END), '\0');
    const ssize_t size = pread(fd_, text.data(), text.size(), 0);
    return text.substr(0, size);
  }

 private:
  void Write(const std::string& text) {
    if (write(fd_, text.data(), text.size()) < 0) abort();
  }

  const int fd_;
};

struct Ran {
  int exit_code;
  std::string out;
  std::string err;
};

// What the test sets of the terminal; descriptors 0 to 2 are files in memory.
inline Ran RunCommandLine(const std::vector<std::string>& args,
                          const std::string& input = "",
                          Terminal terminal = {}) {
  const MemoryFile in(input), out, err;
  terminal.in = in.fd();
  terminal.out = out.fd();
  terminal.err = err.fd();
  const int exit_code = RunTtt(terminal, args);
  return {exit_code, out.Text(), err.Text()};
}

}  // namespace ttt
