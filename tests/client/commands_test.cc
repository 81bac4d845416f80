#include "client/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/client/fake_server.h"
#include "tests/client/test_terminal.h"

namespace ttt {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

class CommandsTest : public ::testing::Test {
 protected:
  Ran Run(std::vector<std::string> args, const std::string& input = "",
          const Terminal& terminal = {}) {
    args.insert(args.begin(), {"--server", server_.address()});
    return RunCommandLine(args, input, terminal);
  }

  FakeServer server_;
};

// A Ctrl-C that comes when the server holds a turn.
class InterruptTest : public CommandsTest {
 protected:
  InterruptTest() {
    if (pipe(pipe_.data()) != 0) abort();
    terminal_.interrupt = pipe_[0];
    server_.OnHold([this] {
      if (write(pipe_[1], "c", 1) != 1) abort();
    });
  }
  ~InterruptTest() override {
    close(pipe_[0]);
    close(pipe_[1]);
  }

  std::array<int, 2> pipe_;
  Terminal terminal_;
};

TEST_F(CommandsTest, CompletePrintsTheTextAloneOnStandardOutput) {
  const Ran ran = Run({"complete", "Once upon", "--max-tokens", "3"});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.out, " word0 word1 word2\n");
  EXPECT_THAT(ran.err, IsEmpty());
}

TEST_F(CommandsTest, CompleteDrawsAtTemperatureZeroPointEight) {
  Run({"complete", "x"});
  EXPECT_FLOAT_EQ(server_.complete_request().sampling().temperature(), 0.8f);
  Run({"complete", "x", "--greedy"});
  EXPECT_EQ(server_.complete_request().sampling().temperature(), 0);
}

TEST_F(CommandsTest, CompleteSendsEveryFlag) {
  const Ran ran = Run(
      {"complete", "--session=s", "--create", "--token-ids=1,2", "--seed=5",
       "--top-k=4", "--top-p=0.9", "--min-p=0.1", "--repetition-penalty=1.1",
       "--presence-penalty=0.2", "--frequency-penalty=0.3", "--logit-bias=7=-2",
       "--stop=END", "--stop-ids=9", "--ignore-eos", "--logprobs=2",
       "--expected-revision=0", "--on-cancel=commit", "--max-tokens=1"});
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  const v1::CompleteRequest request = server_.complete_request();
  EXPECT_EQ(
      request.ShortDebugString(),
      "session_id: \"s\" create_session: true token_ids { ids: 1 ids: 2 } "
      "sampling { max_tokens: 1 temperature: 0.8 top_k: 4 top_p: 0.9 "
      "min_p: 0.1 seed: 5 repetition_penalty: 1.1 presence_penalty: 0.2 "
      "frequency_penalty: 0.3 logit_bias { key: 7 value: -2 } } stop { "
      "strings: \"END\" token_ids: 9 ignore_eos: true } top_logprobs: 2 "
      "expected_revision: 0 on_cancel: ON_CANCEL_COMMIT_PARTIAL");
}

TEST_F(CommandsTest, CompleteReadsItsPromptFromStandardInput) {
  EXPECT_EQ(Run({"complete", "-"}, "a line\nand another\n").exit_code, 0);
  EXPECT_EQ(server_.complete_request().text(), "a line\nand another");
}

TEST_F(CommandsTest, CompleteTellsFactsWhenAsked) {
  const Ran ran =
      Run({"complete", "a b", "--session", "s", "--create", "--verbose"});
  EXPECT_THAT(ran.err, MatchesRegex("\\[4 tokens, 6 tokens/s, first after .*; "
                                    "session s: revision 1, 6 tokens, digest "
                                    "abababababab; seed 99\\]\n"));
}

TEST_F(CommandsTest, JsonIsOneObjectAloneWhetherStreamedOrNot) {
  for (const std::string stream : {"--stream", "--no-stream"}) {
    const Ran ran = Run({"--json", "complete", "a b", "--session", "s",
                         "--create", "--logprobs", "0", stream});
    EXPECT_EQ(ran.exit_code, 0);
    const json object = json::parse(ran.out);
    EXPECT_EQ(object["text"], " word0 word1 word2 word3");
    EXPECT_EQ(object["token_ids"], json({100, 101, 102, 103}));
    EXPECT_EQ(object["finish_reason"], "length");
    EXPECT_EQ(object["logprobs"].size(), 4);
    EXPECT_EQ(object["logprobs"][0]["logprob"], -0.1);
    EXPECT_EQ(object["usage"]["output_tokens"], 4);
    EXPECT_EQ(object["state_digest"].get<std::string>().size(), 64);
    EXPECT_THAT(ran.err, IsEmpty());
  }
}

TEST_F(CommandsTest, CompleteWithoutInputIsWrongUsage) {
  EXPECT_EQ(Run({"complete"}).exit_code, 64);
  EXPECT_EQ(Run({"complete", "x", "--token-ids=1"}).exit_code, 64);
  EXPECT_EQ(Run({"complete", "x", "--create"}).exit_code, 64);
  EXPECT_EQ(Run({"complete", "x", "--greedy", "--temperature=1"}).exit_code,
            64);
  EXPECT_EQ(Run({"complete", "two", "words"}).exit_code, 64);
}

TEST_F(CommandsTest, RefusedCallIsOneClearLine) {
  const Ran ran = Run({"complete", "x", "--session", "busy"});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_EQ(ran.err,
            "ttt: session \"busy\" is in use by another call (SESSION_BUSY); "
            "try again in 50 ms\n");
  EXPECT_THAT(ran.out, IsEmpty());
}

TEST_F(CommandsTest, RefusedCallIsAnObjectWithJson) {
  const Ran ran = Run({"complete", "x", "--session", "busy", "--json"});
  const json error = json::parse(ran.out)["error"];
  EXPECT_EQ(error["code"], "ABORTED");
  EXPECT_EQ(error["reason"], "SESSION_BUSY");
  EXPECT_EQ(error["retry_after_ms"], 50);
  EXPECT_EQ(error["metadata"]["committed"], "false");
  EXPECT_EQ(error["exit_code"], 1);
}

TEST_F(CommandsTest, LostConnectionEndsTheOpenLineAndIsUnavailable) {
  const Ran ran = Run({"complete", "x", "--session", "lost", "--create"});
  EXPECT_EQ(ran.exit_code, 69);
  EXPECT_EQ(ran.out, " word0\n");
  EXPECT_THAT(ran.err,
              StartsWith("ttt: lost the connection to the server at "));
}

TEST_F(CommandsTest, TurnCutByADrainTellsOfItsSession) {
  for (const std::string command : {"complete", "chat"}) {
    std::vector<std::string> args = {command, "--session", "drained"};
    if (command == "complete") args.insert(args.end(), {"x", "--create"});
    const Ran ran = Run(args, "x\n");
    EXPECT_EQ(ran.exit_code, 69);
    EXPECT_EQ(ran.out, " word0\n");
    EXPECT_EQ(ran.err,
              "ttt: the server is shutting down (DRAINING); the session is as "
              "it was, at revision 3; try again in 1 s\n");
  }
}

TEST_F(CommandsTest, UnreachableServerIsNamed) {
  const Ran ran = RunCommandLine({"--server=unix:/nowhere/socket", "info"});
  EXPECT_EQ(ran.exit_code, 69);
  EXPECT_THAT(ran.err, StartsWith("ttt: cannot reach the server at "
                                  "unix:/nowhere/socket: No such file"));
}

TEST_F(CommandsTest, AddressThatIsNoneIsWrongUsage) {
  for (const std::string address : {"localhost", "http://127.0.0.1:50051"}) {
    const Ran ran = RunCommandLine({"--server", address, "health"});
    EXPECT_EQ(ran.exit_code, 64);
    EXPECT_THAT(ran.err, StartsWith("ttt: --server: '" + address + "' "));
  }
}

// Answers one connection as a server of HTTP 1 does.
class Http1Server {
 public:
  Http1Server() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    if (bind(socket_, any, size) != 0 || listen(socket_, 8) != 0 ||
        getsockname(socket_, any, &size) != 0) {
      abort();
    }
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { Serve(); });
  }
  ~Http1Server() {
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }

  const std::string& address() const { return address_; }

 private:
  void Serve() {
    constexpr char kReply[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    int connection;
    while ((connection = accept(socket_, nullptr, nullptr)) >= 0) {
      char byte;
      if (read(connection, &byte, 1) == 1) {
        send(connection, kReply, sizeof(kReply) - 1, MSG_NOSIGNAL);
      }
      shutdown(connection, SHUT_WR);
      // What comes is read, so that the reply is not lost to a reset.
      while (read(connection, &byte, 1) == 1) {
      }
      close(connection);
    }
  }

  const int socket_;
  std::string address_;
  std::thread thread_;
};

TEST(WrongPortTest, ServerOfHttp1IsTakenForTheHttpPort) {
  const Http1Server server;
  const Ran ran = RunCommandLine({"--server", server.address(), "health"});
  EXPECT_EQ(ran.exit_code, 69);
  EXPECT_THAT(ran.err,
              HasSubstr("cannot reach the server at " + server.address()));
  EXPECT_THAT(ran.err, HasSubstr("is this the HTTP port? gRPC is on 50051"));
}

TEST_F(CommandsTest, WhatThisVersionDoesNotHaveIsMarkedInTheHelp) {
  const std::string help = RunCommandLine({"--help"}).out;
  for (const char* name : {"rewind", "turns", "export", "import"}) {
    EXPECT_THAT(help, ContainsRegex(std::string("  sessions ") + name +
                                    " [^\n]*\\(not in this version\\)\n"));
  }
}

TEST_F(CommandsTest, DeadlineIsToldWithItsTime) {
  const Ran ran = Run({"complete", "wait", "--timeout", "50ms"});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_EQ(ran.err, "ttt: not done within 50 ms (DEADLINE_EXCEEDED)\n");
}

TEST_F(CommandsTest, InputThatIsNotUtf8IsRefusedBeforeItIsSent) {
  EXPECT_EQ(Run({"complete", "a\xff"}).exit_code, 64);
  const Ran ran = Run({"complete", "-"}, "ab\xff");
  EXPECT_EQ(ran.exit_code, 65);
  EXPECT_EQ(ran.err, "ttt: standard input is not UTF-8 at byte 2\n");
}

TEST_F(CommandsTest, OutputForATerminalHasNoControlCharacters) {
  Terminal terminal;
  terminal.out_is_terminal = true;
  EXPECT_EQ(Run({"detokenize", "7"}, "", terminal).out, "<7>\n");
  server_.OnHold([] {});
  const Ran ran = Run({"sessions", "get", "\x1b[2J"}, "",
                      Terminal{.err_is_terminal = true});
  EXPECT_THAT(ran.err, Not(HasSubstr("\x1b[2J")));
}

TEST_F(InterruptTest, CtrlCEndsCompleteAndItsTurn) {
  const Ran ran = Run({"complete", "wait"}, "", terminal_);
  EXPECT_EQ(ran.exit_code, 130);
  EXPECT_EQ(ran.err, "ttt: interrupted\n");
  server_.AwaitCancel();
}

TEST_F(InterruptTest, CtrlCInChatCancelsTheTurnAndNotTheProgram) {
  terminal_.in_is_terminal = true;
  const Ran ran =
      Run({"chat", "--session", "s"}, "Hello\nplease wait\nAgain\n", terminal_);
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.err, HasSubstr("cancelled; the session is as it was, at "
                                 "revision 1"));
  EXPECT_EQ(server_.complete_request().text(), "\n\nAgain");
  EXPECT_EQ(server_.sessions().at("s").revision(), 2);
}

TEST_F(InterruptTest, CtrlCEndsAChatThatReadsAFile) {
  const Ran ran = Run({"chat"}, "please wait\nAgain\n", terminal_);
  EXPECT_EQ(ran.exit_code, 130);
  EXPECT_EQ(server_.complete_request().text(), "please wait");
  EXPECT_THAT(server_.sessions(), IsEmpty());
}

TEST_F(CommandsTest, ChatContinuesItsSessionAndTellsFacts) {
  const Ran ran = Run({"chat", "--session", "s"}, "one two\nthree\n\n");
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.out,
            " word0 word1 word2 word3\n word0 word1 word2 word3\n word0 word1 "
            "word2 word3\n");
  EXPECT_THAT(ran.err, HasSubstr("session s: revision 2, 11 tokens, digest "
                                 "abababababab, state 2.62 MB]"));
  EXPECT_THAT(ran.err, HasSubstr("revision 3, 15 tokens"));
  EXPECT_EQ(server_.complete_request().input_case(),
            v1::CompleteRequest::INPUT_NOT_SET);
}

TEST_F(CommandsTest, ChatLeavesNoSessionItWasNotGivenANameFor) {
  const Ran ran = Run({"chat"}, "one\ntwo\n");
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(server_.complete_request().session_id(), "made-up");
  EXPECT_THAT(server_.sessions(), IsEmpty());
}

TEST_F(CommandsTest, ChatForksStartsAnewAndQuits) {
  const Ran ran =
      Run({"chat", "--session", "a"},
          "one\n/fork b\ntwo\n/new c\nthree\n/info\n//x\n/quit\nno\n");
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(server_.sessions().at("a").revision(), 1);
  EXPECT_EQ(server_.sessions().at("b").revision(), 2);
  EXPECT_EQ(server_.sessions().at("c").revision(), 2);
  EXPECT_EQ(server_.complete_request().text(), "\n\n/x");
  EXPECT_THAT(ran.err, HasSubstr("session   c\n"));
}

TEST_F(CommandsTest, ChatTellsOfTheTokensOfASessionThatItGoesOverTo) {
  Run({"complete", "one two", "--session", "old", "--create"});
  const Ran ran = Run({"chat", "--session", "a"}, "/new old\n/new b\n",
                      Terminal{.in_is_terminal = true});
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.err, HasSubstr("[session old, 6 tokens so far]\n"));
  EXPECT_THAT(ran.err, Not(HasSubstr("session b")));
}

TEST_F(CommandsTest, ChatTakesAllAfterACommandForTheName) {
  const Ran ran = Run({"chat", "--session", "a"}, "one\n/fork  b c \ntwo\n");
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(server_.sessions().at("b c").revision(), 2);
}

TEST_F(CommandsTest, ChatFromAFileEndsAtTheFirstFailure) {
  EXPECT_EQ(Run({"chat"}, "/nonsense\none\n").exit_code, 64);
  EXPECT_EQ(Run({"chat", "--session", "busy"}, "one\ntwo\n").exit_code, 1);
  EXPECT_EQ(server_.complete_request().text(), "one");
}

TEST_F(CommandsTest, ChatWithJsonIsOneObjectATurn) {
  const Ran ran = Run({"chat", "--session", "s", "--json"}, "one\ntwo\n");
  const size_t line = ran.out.find('\n');
  EXPECT_EQ(json::parse(ran.out.substr(0, line))["revision"], 1);
  const json second = json::parse(ran.out.substr(line));
  EXPECT_EQ(second["revision"], 2);
  EXPECT_EQ(second["state_bytes"], 2620000);
}

TEST_F(CommandsTest, ScoreOfATextIsTheMeanOverItsPredictedTokens) {
  const Ran ran = Run({"score", "one three", "--json"});
  const json score = json::parse(ran.out);
  EXPECT_EQ(score["tokens"], 2);
  EXPECT_EQ(score["nats_per_token"], 2.0);
  EXPECT_NEAR(score["perplexity"], 7.389056, 1e-6);
  EXPECT_NEAR(score["bits_per_byte"], 4 / 0.69314718 / 9, 1e-6);
}

TEST_F(CommandsTest, FileIsScoredInWindowsAfterBeginOfText) {
  const MemoryFile file("a bb ccc dddd eeeee");
  const Ran ran = Run({"score", "--file", file.path(), "--window=2", "--json"});
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  const json score = json::parse(ran.out);
  EXPECT_EQ(score["tokens"], 5);
  EXPECT_EQ(score["bytes"], 19);
  EXPECT_EQ(score["windows"].size(), 3);
  EXPECT_EQ(score["windows"][2]["tokens"], 1);
  const auto requests = server_.score_requests();
  ASSERT_EQ(requests.size(), 3);
  EXPECT_EQ(requests[0].token_ids().ShortDebugString(), "ids: 1 ids: 1 ids: 2");
  EXPECT_EQ(requests[2].token_ids().ShortDebugString(), "ids: 1 ids: 5");
}

TEST_F(CommandsTest, LongFileIsTokenizedInPiecesThatLoseNothing) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += "abc de ";
  const MemoryFile file(text);
  const Ran ran =
      Run({"score", "--file", file.path(), "--window=1000000", "--json"});
  EXPECT_EQ(json::parse(ran.out)["tokens"], 600'000);
}

TEST_F(CommandsTest, FileWaitsUntilTheServerHasRoom) {
  server_.RefuseScores(3);
  const MemoryFile file("a bb");
  EXPECT_EQ(Run({"score", "--file", file.path()}).exit_code, 0);
}

TEST_F(CommandsTest, HintOfAFullServerIsTheLeastWait) {
  server_.RefuseScores(2, 150);
  const MemoryFile file("a bb");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Run({"score", "--file", file.path()}).exit_code, 0);
  EXPECT_GE(std::chrono::steady_clock::now() - start,
            std::chrono::milliseconds(300));
}

TEST_F(InterruptTest, CtrlCEndsTheWaitForAFullServer) {
  server_.RefuseScores(1, 24 * 3600 * 1000);
  const MemoryFile file("a bb");
  EXPECT_EQ(Run({"score", "--file", file.path()}, "", terminal_).exit_code,
            130);
  EXPECT_THAT(server_.score_requests(), IsEmpty());
}

TEST_F(CommandsTest, ProgressIsShownOnATerminalAlone) {
  const MemoryFile file("a bb ccc");
  const std::vector<std::string> args = {"score", "--file", file.path(),
                                         "--window=1"};
  EXPECT_THAT(Run(args).err, IsEmpty());
  const Ran ran = Run(args, "", Terminal{.err_is_terminal = true});
  EXPECT_THAT(ran.err, HasSubstr("100% 3 of 3 tokens"));
  EXPECT_THAT(ran.err, HasSubstr("\r\x1b[K"));
}

TEST_F(CommandsTest, UnreadableFilesAreBadData) {
  EXPECT_EQ(Run({"score", "--file", "/nowhere/file"}).exit_code, 65);
  EXPECT_EQ(Run({"score", "--file", "/"}).exit_code, 65);
  EXPECT_EQ(Run({"score", "--file", "-"}, "").exit_code, 65);
  EXPECT_EQ(Run({"score", "--file", "-"}, "a\xff").exit_code, 65);
  EXPECT_EQ(Run({"score", ""}).exit_code, 65);
}

TEST_F(CommandsTest, ScoreTakesOneInput) {
  EXPECT_EQ(Run({"score"}).exit_code, 64);
  EXPECT_EQ(Run({"score", "x", "--file", "y"}).exit_code, 64);
  EXPECT_EQ(Run({"score", "x", "--window=4"}).exit_code, 64);
}

TEST_F(CommandsTest, SessionsAreMadeListedForkedAndDeleted) {
  EXPECT_EQ(Run({"sessions", "create", "b", "--ttl=1h"}).exit_code, 0);
  EXPECT_EQ(Run({"sessions", "create"}).exit_code, 0);
  EXPECT_EQ(Run({"sessions", "fork", "b", "a"}).exit_code, 0);
  const json list = json::parse(Run({"sessions", "list", "--json"}).out);
  ASSERT_EQ(list["sessions"].size(), 3);
  EXPECT_EQ(list["sessions"][0]["parent_session_id"], "b");
  EXPECT_THAT(Run({"sessions", "list"}).out, HasSubstr("\nmade-up  "));
  EXPECT_EQ(Run({"sessions", "delete", "a", "b", "made-up"}).exit_code, 0);
  EXPECT_THAT(server_.sessions(), IsEmpty());
}

TEST_F(CommandsTest, ListStopsAtItsLimit) {
  for (const std::string name : {"a", "b", "c"}) {
    Run({"sessions", "create", name});
  }
  const Ran ran = Run({"sessions", "list", "--limit=2", "--json"});
  EXPECT_EQ(json::parse(ran.out)["sessions"].size(), 2);
}

TEST_F(CommandsTest, WhatTheServerLacksIsSaid) {
  const std::string file = ::testing::TempDir() + "/ttt-export-test";
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"sessions", "rewind", "a", "1"},
        {"sessions", "turns", "a"},
        {"sessions", "export", "a", file},
        {"sessions", "import", "/etc/hostname"}}) {
    const Ran ran = Run(args);
    EXPECT_EQ(ran.exit_code, 1) << args[1];
    EXPECT_THAT(ran.err, HasSubstr("UNIMPLEMENTED")) << args[1];
  }
  EXPECT_NE(access(file.c_str(), F_OK), 0);
  EXPECT_NE(access((file + ".partial").c_str(), F_OK), 0);
}

TEST_F(CommandsTest, TokenizePrintsWhatDetokenizeReads) {
  const Ran ids = Run({"tokenize", "one three"});
  EXPECT_EQ(ids.out, "1,3,5\n");
  EXPECT_EQ(Run({"detokenize", "-"}, ids.out).out, "<1|3|5>\n");
  EXPECT_EQ(Run({"detokenize", "1", "3,5"}).out, "<1|3|5>\n");
  EXPECT_EQ(Run({"tokenize", "one", "--no-at-start", "--pieces"}).out,
            "3\tone\n");
  EXPECT_EQ(Run({"detokenize", "one"}).exit_code, 64);
}

TEST_F(CommandsTest, InfoAndHealthTellOfTheServer) {
  const std::string info = Run({"info"}).out;
  EXPECT_THAT(info, HasSubstr("tttd 0.0.0, serving, up for 75 s\n"));
  EXPECT_THAT(info, HasSubstr("14,000,000 parameters"));
  EXPECT_EQ(json::parse(Run({"info", "--json"}).out)["model"]["name"], "fake");
  const Ran health = Run({"health"});
  EXPECT_EQ(health.exit_code, 0);
  EXPECT_EQ(health.out, "serving\n");
  EXPECT_EQ(Run({"health", "--service", "no.such.Service"}).exit_code, 1);
}

// A socket whose connections end before they have begun.
class DeafSocket {
 public:
  explicit DeafSocket(const std::string& path)
      : path_(path), socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    unlink(path.c_str());
    if (bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) !=
            0 ||
        listen(socket_, 8) != 0) {
      abort();
    }
  }
  ~DeafSocket() {
    close(socket_);
    unlink(path_.c_str());
  }

  // Which must come within 30 s.
  void AwaitConnection() {
    pollfd waiting = {socket_, POLLIN, 0};
    ASSERT_EQ(poll(&waiting, 1, 30'000), 1);
    close(accept(socket_, nullptr, nullptr));
  }

 private:
  const std::string path_;
  const int socket_;
};

TEST(HealthTest, WaitOutlastsAServerThatIsNotThereYet) {
  const std::string path = ::testing::TempDir() + "ttt-health-" +
                           std::to_string(getpid()) + ".socket";
  auto socket = std::make_unique<DeafSocket>(path);
  std::future<Ran> health = std::async(std::launch::async, [&path] {
    return RunCommandLine({"health", "--wait=1m", "--server", "unix:" + path});
  });
  socket->AwaitConnection();
  socket.reset();
  const FakeServer server("unix:" + path);
  const Ran ran = health.get();
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(ran.out, "serving\n");
}

TEST(HealthTest, WaitForAServerThatNeverComesEnds) {
  const Ran ran = RunCommandLine(
      {"health", "--wait=100ms", "--server=unix:/nowhere/socket"});
  EXPECT_EQ(ran.exit_code, 69);
  EXPECT_THAT(ran.err, HasSubstr("the server at unix:/nowhere/socket"));
}

TEST_F(CommandsTest, WaitForAServerThatDoesNotServeEnds) {
  server_.SetServing(false);
  EXPECT_EQ(Run({"health"}).exit_code, 1);
  const Ran ran = Run({"health", "--wait=1s"});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_EQ(ran.out, "not serving\n");
}

TEST_F(CommandsTest, WaitDoesNotOutlastAnAnswerThatStays) {
  EXPECT_EQ(
      Run({"health", "--wait=10m", "--service", "no.such.Service"}).exit_code,
      1);
}

TEST_F(CommandsTest, WrongUsageIsNamed) {
  const Ran none = Run({});
  EXPECT_EQ(none.exit_code, 64);
  const Ran unknown = Run({"compleat"});
  EXPECT_EQ(unknown.exit_code, 64);
  EXPECT_THAT(unknown.err, HasSubstr("'compleat'"));
  const Ran below = Run({"sessions", "forget"});
  EXPECT_EQ(below.exit_code, 64);
  EXPECT_THAT(below.err, HasSubstr("'sessions forget'"));
  EXPECT_THAT(Run({"info", "--nonsense"}).err, HasSubstr("--nonsense"));
  EXPECT_EQ(Run({"bench", "--turns=0"}).exit_code, 64);
  // Of a variable that is not set.
  const Ran nameless = Run({"complete", "--session", "", "a"});
  EXPECT_EQ(nameless.exit_code, 64);
  EXPECT_THAT(nameless.err, HasSubstr("--session"));
  EXPECT_EQ(Run({"sessions", "create", ""}).exit_code, 64);
  EXPECT_EQ(Run({"sessions", "rewind", "a", "one"}).exit_code, 64);
}

TEST_F(CommandsTest, EveryCommandExplainsItself) {
  const Ran program = Run({"help"});
  EXPECT_EQ(program.exit_code, 0);
  EXPECT_THAT(program.out, HasSubstr("sessions import"));
  EXPECT_THAT(Run({"help", "complete"}).out, HasSubstr("--max-tokens N"));
  EXPECT_EQ(Run({"complete", "--help"}).out, Run({"help", "complete"}).out);
  EXPECT_THAT(Run({"help", "sessions"}).out, HasSubstr("sessions fork"));
  EXPECT_EQ(Run({"help", "nonsense"}).exit_code, 64);
  EXPECT_EQ(Run({"nonsense", "--help"}).exit_code, 64);
}

TEST_F(CommandsTest, CommandsBelowAWordExplainThemselves) {
  const Ran group = Run({"sessions", "--help"});
  EXPECT_EQ(group.exit_code, 0);
  EXPECT_THAT(group.err, IsEmpty());
  EXPECT_EQ(group.out, Run({"help", "sessions"}).out);
  const Ran create = Run({"sessions", "create", "--help"});
  EXPECT_EQ(create.exit_code, 0);
  EXPECT_EQ(create.out, Run({"help", "sessions", "create"}).out);
  EXPECT_THAT(create.out, HasSubstr("--ttl TIME"));
}

TEST_F(CommandsTest, HelpTellsOfTheVersionAndWhenToTryAgain) {
  const std::string help = Run({"help"}).out;
  EXPECT_THAT(help, HasSubstr("'ttt --version'"));
  EXPECT_THAT(help, HasSubstr("69 no server, or one that is starting or\n"
                              "draining: try again later"));
}

}  // namespace
}  // namespace ttt
