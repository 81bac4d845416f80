// The terminal or the pipes that the program talks to.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ttt {

// Descriptors, which must stay open; a test gives its own.
struct Terminal {
  int in = 0;
  int out = 1;
  int err = 2;
  int interrupt = -1;  // readable once Ctrl-C was pressed; -1: never
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
};

// The process's own: SIGINT becomes a descriptor, SIGPIPE an error of a write.
// To be called once, before any other thread starts.
Terminal ProcessTerminal();

// Not thread-safe. Output is written at once, without a buffer.
class Console {
 public:
  explicit Console(const Terminal& terminal) : terminal_(terminal) {}

  const Terminal& terminal() const { return terminal_; }

  // To standard output; text for a terminal is made safe for it. After a
  // failure nothing more is written.
  void Print(absl::string_view text);
  // Bytes as they are.
  void PrintRaw(absl::string_view bytes);
  // 0, or why standard output failed.
  int output_errno() const { return output_errno_; }

  // A line on standard error: plain, or dim on a terminal.
  void Note(absl::string_view line);
  void Facts(absl::string_view line);
  // On standard error, without the end of a line.
  void Prompt(absl::string_view text);
  // A bar on standard error if that is a terminal; the next line replaces it.
  void Progress(double fraction, absl::string_view facts);
  void ClearProgress();

  enum class Input { kLine, kEnd, kInterrupted, kFailed };
  // The next line of standard input, without its end.
  Input ReadLine(std::string* line);
  // All that is left of `fd`. kEnd: it was read.
  Input ReadAll(int fd, std::string* text);

  // Whether Ctrl-C was pressed since the last call.
  bool TakeInterrupt();

 private:
  // kLine: `text` got more of `fd`.
  Input ReadSome(int fd, std::string* text);

  const Terminal terminal_;
  std::string read_ahead_;
  int output_errno_ = 0;
  bool progress_shown_ = false;
};

// Calls back, once and from another thread, when Ctrl-C is pressed while the
// watch lives. Leaves it to be seen by Console::TakeInterrupt.
class InterruptWatch {
 public:
  InterruptWatch(int interrupt_fd, std::function<void()> on_interrupt);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

 private:
  int end_fd_ = -1;
  std::thread thread_;
};

}  // namespace ttt
