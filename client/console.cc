#include "client/console.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/text.h"

namespace ttt {
namespace {

// 0, or errno.
int WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(written);
    } else if (errno == EAGAIN) {
      pollfd writable = {fd, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

int Columns(int fd) {
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

Terminal ProcessTerminal() {
  signal(SIGPIPE, SIG_IGN);
  int interrupt_fd = -1;
  struct sigaction action = {};
  sigaction(SIGINT, nullptr, &action);
  // Started in the background by a script, with SIGINT ignored, it stays so.
  if (action.sa_handler != SIG_IGN) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, nullptr);
    interrupt_fd = signalfd(-1, &interrupt, SFD_NONBLOCK | SFD_CLOEXEC);
  }
  return Terminal{.interrupt = interrupt_fd,
                  .in_is_terminal = isatty(0) == 1,
                  .out_is_terminal = isatty(1) == 1,
                  .err_is_terminal = isatty(2) == 1};
}

void Console::Print(absl::string_view text) {
  if (terminal_.out_is_terminal) {
    PrintRaw(ForTerminal(text));
  } else {
    PrintRaw(text);
  }
}

void Console::PrintRaw(absl::string_view bytes) {
  if (output_errno_ != 0 || bytes.empty()) return;
  ClearProgress();
  output_errno_ = WriteAll(terminal_.out, bytes);
}

void Console::Note(absl::string_view line) {
  ClearProgress();
  const std::string text =
      terminal_.err_is_terminal ? ForTerminal(line) : std::string(line);
  WriteAll(terminal_.err, absl::StrCat(text, "\n"));
}

void Console::Facts(absl::string_view line) {
  ClearProgress();
  if (!terminal_.err_is_terminal) return Note(line);
  WriteAll(terminal_.err,
           absl::StrCat("\x1b[2m", ForTerminal(line), "\x1b[0m\n"));
}

void Console::Prompt(absl::string_view text) { WriteAll(terminal_.err, text); }

void Console::Progress(double fraction, absl::string_view facts) {
  if (!terminal_.err_is_terminal) return;
  const std::string line =
      ProgressLine(fraction, facts, Columns(terminal_.err));
  WriteAll(terminal_.err, absl::StrCat("\r", line, "\x1b[K"));
  progress_shown_ = true;
}

void Console::ClearProgress() {
  if (!progress_shown_) return;
  WriteAll(terminal_.err, "\r\x1b[K");
  progress_shown_ = false;
}

Console::Input Console::ReadSome(int fd, std::string* text) {
  while (true) {
    pollfd waiting[2] = {{fd, POLLIN, 0}, {terminal_.interrupt, POLLIN, 0}};
    if (poll(waiting, 2, -1) < 0 && errno != EINTR) return Input::kFailed;
    if ((waiting[1].revents & POLLIN) != 0) return Input::kInterrupted;
    if (waiting[0].revents == 0) continue;
    char buffer[65536];
    const ssize_t size = read(fd, buffer, sizeof(buffer));
    if (size > 0) {
      text->append(buffer, size);
      return Input::kLine;
    }
    if (size == 0) return Input::kEnd;
    if (errno != EINTR && errno != EAGAIN) return Input::kFailed;
  }
}

Console::Input Console::ReadLine(std::string* line) {
  size_t end = read_ahead_.find('\n');
  while (end == std::string::npos) {
    const size_t searched = read_ahead_.size();
    const Input input = ReadSome(terminal_.in, &read_ahead_);
    if (input == Input::kEnd && !read_ahead_.empty()) {
      *line = std::exchange(read_ahead_, "");
      return Input::kLine;  // The last, without an end.
    }
    if (input != Input::kLine) return input;
    end = read_ahead_.find('\n', searched);
  }
  *line = read_ahead_.substr(0, end);
  read_ahead_.erase(0, end + 1);
  return Input::kLine;
}

Console::Input Console::ReadAll(int fd, std::string* text) {
  Input input = Input::kLine;
  while (input == Input::kLine) input = ReadSome(fd, text);
  return input;
}

bool Console::TakeInterrupt() {
  bool taken = false;
  pollfd waiting = {terminal_.interrupt, POLLIN, 0};
  while (poll(&waiting, 1, 0) > 0 && waiting.revents == POLLIN) {
    char buffer[sizeof(signalfd_siginfo)];
    if (read(terminal_.interrupt, buffer, sizeof(buffer)) <= 0) break;
    taken = true;
  }
  return taken;
}

InterruptWatch::InterruptWatch(int interrupt_fd,
                               std::function<void()> on_interrupt)
    : end_fd_(eventfd(0, EFD_CLOEXEC)),
      thread_([this, interrupt_fd, on_interrupt = std::move(on_interrupt)] {
        pollfd waiting[2] = {{interrupt_fd, POLLIN, 0}, {end_fd_, POLLIN, 0}};
        while (poll(waiting, 2, -1) < 0 && errno == EINTR) {
        }
        if ((waiting[0].revents & POLLIN) != 0) on_interrupt();
      }) {}

InterruptWatch::~InterruptWatch() {
  const uint64_t one = 1;
  WriteAll(end_fd_,
           absl::string_view(reinterpret_cast<const char*>(&one), sizeof(one)));
  thread_.join();
  close(end_fd_);
}

}  // namespace ttt
