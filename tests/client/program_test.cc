// The program as a process: signals, a terminal, a reader that goes away.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "tests/client/fake_server.h"

namespace ttt {
namespace {

using ::testing::HasSubstr;

// ttt on a terminal of its own.
class ProgramTest : public ::testing::Test {
 protected:
  ~ProgramTest() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    if (terminal_ >= 0) close(terminal_);
  }

  // With `out`, standard output goes there.
  void Start(std::vector<std::string> args, int out = -1) {
    args.insert(args.begin(), {TTT_PROGRAM, "--server", server_.address()});
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ < 0) {  // As where /dev/pts is not mounted.
      std::perror("forkpty");
      std::abort();
    }
    if (pid_ == 0) {
      if (out >= 0) dup2(out, 1);
      execv(argv[0], argv.data());
      _exit(127);
    }
  }

  void Type(const std::string& text) {
    ASSERT_EQ(write(terminal_, text.data(), text.size()), text.size());
  }

  // What the terminal shows, through `text`, which must come.
  std::string ReadUntil(const std::string& text) {
    size_t found;
    while ((found = shown_.find(text)) == std::string::npos) {
      pollfd waiting = {terminal_, POLLIN, 0};
      char buffer[4096];
      const ssize_t size = poll(&waiting, 1, 30'000) > 0
                               ? read(terminal_, buffer, sizeof(buffer))
                               : -1;
      if (size <= 0) {
        ADD_FAILURE() << "'" << text << "' did not come after: " << shown_;
        return "";
      }
      shown_.append(buffer, size);
    }
    const std::string read = shown_.substr(0, found + text.size());
    shown_.erase(0, read.size());
    return read;
  }

  // What the terminal shows to the end of the program.
  std::string ReadToTheEnd() {
    char buffer[4096];
    ssize_t size;
    while ((size = read(terminal_, buffer, sizeof(buffer))) > 0) {
      shown_.append(buffer, size);
    }
    return shown_;
  }

  int ExitCode() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  FakeServer server_;
  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string shown_;
};

TEST_F(ProgramTest, CtrlCInChatCancelsATurnAndAtThePromptLeaves) {
  Start({"chat", "--session", "s"});
  ReadUntil("> ");
  Type("please wait\n");
  ReadUntil("word0");
  Type("\x03");
  EXPECT_THAT(ReadUntil("> "), HasSubstr("\r\ncancelled"));
  Type("Hello\n");
  EXPECT_THAT(ReadUntil("> "), HasSubstr("revision 1"));
  Type("half a line\x03");
  EXPECT_EQ(ExitCode(), 130);
}

TEST_F(ProgramTest, CtrlCAtThePromptDeletesASessionWithoutAName) {
  Start({"chat"});
  ReadUntil("> ");
  Type("Hello\n");
  ReadUntil("revision 1");
  ReadUntil("> ");
  EXPECT_EQ(server_.sessions().size(), 1);
  Type("\x03");
  EXPECT_EQ(ExitCode(), 130);
  EXPECT_EQ(server_.sessions().size(), 0);
}

TEST_F(ProgramTest, CtrlDLeavesTheChat) {
  Start({"chat"});
  ReadUntil("> ");
  Type("\x04");
  EXPECT_EQ(ExitCode(), 0);
}

TEST_F(ProgramTest, CtrlCEndsAStreamWithOneThirty) {
  Start({"complete", "wait"});
  ReadUntil("word0");
  Type("\x03");
  ReadUntil("interrupted");
  EXPECT_EQ(ExitCode(), 130);
  server_.AwaitCancel();
}

TEST_F(ProgramTest, CtrlCOfASessionsTurnTellsWhatIsLeft) {
  for (const std::string revision : {"0", "1"}) {
    Start({"complete", "--session", "s", "--create", "wait"});
    ReadUntil("word0");
    Type("\x03");
    ReadUntil("interrupted");
    ReadUntil("ttt: the session is as it was, at revision " + revision);
    EXPECT_EQ(ExitCode(), 130);
    close(terminal_);
    Start({"complete", "--session", "s", "--create", "Hello"});
    ReadUntil("revision ");
    EXPECT_EQ(ExitCode(), 0);
    close(std::exchange(terminal_, -1));
  }
}

TEST_F(ProgramTest, CtrlCEndsReadingTheTerminal) {
  Start({"complete", "-"});
  ReadUntil("Ctrl-D ends it");
  Type("one line\n\x03");
  EXPECT_EQ(ExitCode(), 130);
}

TEST_F(ProgramTest, ReaderThatGoesAwayEndsTheTurnInSilence) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  Start({"complete", "wait"}, ends[1]);
  close(ends[1]);
  EXPECT_EQ(ReadToTheEnd(), "");
  EXPECT_EQ(ExitCode(), 141);
  server_.AwaitCancel();
}

TEST_F(ProgramTest, FullDiskIsAFailure) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  Start({"complete", "x"}, full);
  close(full);
  ReadUntil("cannot write to standard output: No space left");
  EXPECT_EQ(ExitCode(), 1);
}

}  // namespace
}  // namespace ttt
