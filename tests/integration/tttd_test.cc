// The program itself: flags, exit codes, signals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/check.h"
#include "tests/integration/test_server.h"

extern char** environ;

namespace ttt {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// One run of tttd; what it prints comes through a pipe.
class Program {
 public:
  explicit Program(std::vector<std::string> args) {
    int ends[2];
    TTT_CHECK(pipe(ends) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    args.insert(args.begin(), TTT_PROGRAM);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    TTT_CHECK(posix_spawn(&pid_, TTT_PROGRAM, &actions, nullptr, argv.data(),
                          environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~Program() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    std::fclose(output_);
  }

  // Reads until a line holds `text`; that line, or an empty one at the end.
  std::string WaitForLine(const std::string& text) {
    char line[4096];
    while (std::fgets(line, sizeof(line), output_) != nullptr) {
      said_ += line;
      if (std::string(line).find(text) != std::string::npos) return line;
    }
    return "";
  }
  void Signal(int number) { kill(pid_, number); }
  // The exit code.
  int Wait() {
    WaitForLine("there is no such line");
    int status = 0;
    TTT_CHECK(waitpid(pid_, &status, 0) == pid_);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // All that was read.
  const std::string& said() const { return said_; }

 private:
  pid_t pid_ = 0;
  std::FILE* output_ = nullptr;
  std::string said_;
};

int PortIn(const std::string& line, const std::string& field = "port") {
  const std::string key = absl::StrCat(" ", field, "=");
  const size_t at = line.find(key);
  TTT_CHECK(at != std::string::npos);
  const size_t begin = at + key.size();
  int port = 0;
  TTT_CHECK(absl::SimpleAtoi(line.substr(begin, line.find(' ', begin) - begin),
                             &port));
  return port;
}

// The number that stands behind `name` in its line; -1 if there is none.
double NumberAfter(const std::string& name, const std::string& text) {
  const size_t at = text.find(name);
  if (at == std::string::npos) return -1;
  const size_t begin = at + name.size();
  double number = -1;
  TTT_CHECK(absl::SimpleAtod(text.substr(begin, text.find('\n', begin) - begin),
                             &number));
  return number;
}

class ProgramTest : public testing::Test {
 protected:
  // What serves the tiny model on free ports, and `more`.
  std::vector<std::string> Args(
      const std::vector<std::string>& more = {}) const {
    std::vector<std::string> args = {absl::StrCat("--model=", model_.path()),
                                     "--load_format=dummy",
                                     "--listen=127.0.0.1:0",
                                     "--http_listen=127.0.0.1:0",
                                     "--device_state_bytes=4000000",
                                     "--num_threads=1"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }

  const TinyModel model_;
};

struct BadFlagCase {
  std::vector<std::string> flags;
  std::string said;  // the flag and its value
};

class BadFlagTest : public ProgramTest,
                    public testing::WithParamInterface<BadFlagCase> {};

TEST_P(BadFlagTest, EndsWith64AndNamesIt) {
  Program program(Args(GetParam().flags));
  EXPECT_EQ(program.Wait(), 64);
  EXPECT_THAT(program.said(), HasSubstr(GetParam().said));
}

INSTANTIATE_TEST_SUITE_P(
    Flags, BadFlagTest,
    testing::Values(
        BadFlagCase{{"--bogus=1"},
                    "--bogus: there is no such flag, see --help"},
        BadFlagCase{{"--max_queue=abc"}, "--max_queue is \"abc\""},
        BadFlagCase{{"--max_queue", "-1"}, "--max_queue is -1"},
        BadFlagCase{{"--max_queue"}, "--max_queue has no value"},
        BadFlagCase{{"--max_queue_tokens=0"}, "--max_queue_tokens is 0"},
        BadFlagCase{{"--max_queue_bytes=-1"}, "--max_queue_bytes is -1"},
        BadFlagCase{{"--max_queue_seconds=0"}, "--max_queue_seconds is 0"},
        BadFlagCase{{"--max_queue_seconds=nan"}, "--max_queue_seconds is nan"},
        BadFlagCase{{"serve"}, "\"serve\" is not a flag, see --help"},
        BadFlagCase{
            {"--max_queue_bytes=256MBB"},
            "--max_queue_bytes is \"256MBB\", must be a number of bytes"},
        BadFlagCase{{"--device_state_bytes=1GB"},
                    "such as 536870912 or 512MiB"},
        BadFlagCase{
            {"--model=" TTT_GOLDEN_DIR "/models/linear-mamba/config.json"},
            "give its directory: --model=" TTT_GOLDEN_DIR
            "/models/linear-mamba"},
        BadFlagCase{{"--max_batch_rows=0"}, "--max_batch_rows is 0"},
        BadFlagCase{{"--max-batch-rows=8"},
                    "no such flag, it is --max_batch_rows"},
        BadFlagCase{{"--max_batch_rows=abc"},
                    "--max_batch_rows is \"abc\", must be a whole number"},
        BadFlagCase{{"--max_queue_seconds=soon"},
                    "--max_queue_seconds is \"soon\", must be a number"},
        BadFlagCase{{"--reflection=maybe"},
                    "--reflection is \"maybe\", must be true or false"},
        BadFlagCase{{"--max_batch_rows=8", "--max_batch_tokens=7"},
                    "--max_batch_tokens is 7"},
        BadFlagCase{{"--max_input_tokens=0"}, "--max_input_tokens is 0"},
        BadFlagCase{{"--max_top_logprobs=-1"}, "--max_top_logprobs is -1"},
        BadFlagCase{{"--device_state_bytes=1"}, "--device_state_bytes is 1"},
        BadFlagCase{{"--device=tpu"}, "--device is \"tpu\""},
        BadFlagCase{{"--device=cuda:x"}, "--device is \"cuda:x\""},
        BadFlagCase{{"--precision=fp16"}, "--precision is \"fp16\""},
        BadFlagCase{{"--load_format=gguf"}, "--load_format is \"gguf\""},
        BadFlagCase{{"--data_dir=/tmp/x"}, "--data_dir is \"/tmp/x\""},
        BadFlagCase{{"--nobatch_invariant"}, "--batch_invariant is false"},
        BadFlagCase{{"--host_state_bytes=1"}, "--host_state_bytes is 1"},
        BadFlagCase{{"--memory_log_tokens=1"}, "--memory_log_tokens is 1"},
        BadFlagCase{{"--drain_seconds=-1"}, "--drain_seconds is -1"},
        BadFlagCase{{"--listen="}, "--listen is empty"},
        BadFlagCase{{"--listen=127.0.0.1:99999"}, "\"127.0.0.1:99999\""},
        BadFlagCase{{"--listen=localhost"}, "--listen is \"localhost\""},
        BadFlagCase{{"--http_listen=[::1]:x"}, "--http_listen is \"[::1]:x\""},
        BadFlagCase{{"--config=/nonexistent"},
                    "--config is \"/nonexistent\": no such file"},
        BadFlagCase{{"--config=/"}, "--config is \"/\": not a file"}));

TEST_F(ProgramTest, AModelThatIsNotThereEndsWith65) {
  Program program(Args({"--model=/nonexistent"}));
  EXPECT_EQ(program.Wait(), 65);
  EXPECT_THAT(program.said(), HasSubstr("/nonexistent"));
}

TEST_F(ProgramTest, ADamagedConfigEndsWith65) {
  std::ofstream(model_.path() + "/config.json") << "{";
  Program program(Args());
  EXPECT_EQ(program.Wait(), 65);
}

TEST_F(ProgramTest, ADamagedTokenizerEndsWith65) {
  std::ofstream(model_.path() + "/tokenizer.model") << "junk";
  Program program(Args());
  EXPECT_EQ(program.Wait(), 65);
}

TEST_F(ProgramTest, WeightsThatAreNotThereEndWith65) {
  Program program(Args({"--load_format=auto"}));
  EXPECT_EQ(program.Wait(), 65);
}

TEST_F(ProgramTest, ADeviceThatIsNotThereEndsWith69) {
  Program program(Args({"--device=cuda:99"}));
  EXPECT_EQ(program.Wait(), 69);
  EXPECT_THAT(program.said(), HasSubstr("--device is \"cuda:99\": "));
}

TEST_F(ProgramTest, APortThatIsTakenEndsWith69) {
  Program first(Args());
  const int port = PortIn(first.WaitForLine("listening"));
  Program second(Args({absl::StrCat("--listen=127.0.0.1:", port)}));
  EXPECT_EQ(second.Wait(), 69);
  EXPECT_THAT(second.said(), HasSubstr(absl::StrCat(
                                 "--listen: cannot listen on 127.0.0.1:", port,
                                 ": Address already in use")));
}

TEST_F(ProgramTest, TellsTheSocketThatItListensOn) {
  const std::string socket = absl::StrCat("unix:", model_.path(), "/socket");
  Program program(Args({absl::StrCat("--listen=", socket), "--http_listen="}));
  EXPECT_THAT(
      program.WaitForLine("listening"),
      HasSubstr(absl::StrCat(" listening listen=", socket, " http_port=0")));
}

TEST_F(ProgramTest, AnHttpPortThatIsTakenEndsWith69AndSaysWhy) {
  Program first(Args());
  const int port = PortIn(first.WaitForLine("listening"));
  Program second(Args({absl::StrCat("--http_listen=127.0.0.1:", port)}));
  EXPECT_EQ(second.Wait(), 69);
  EXPECT_THAT(
      second.said(),
      HasSubstr(absl::StrCat("--http_listen: cannot listen on 127.0.0.1:", port,
                             ": Address already in use")));
}

// Were they read first, their absence would end it with 65.
TEST_F(ProgramTest, APortThatIsTakenIsSaidBeforeWeightsAreRead) {
  Program first(Args());
  const int port = PortIn(first.WaitForLine("listening"));
  Program grpc(
      Args({"--load_format=auto", absl::StrCat("--listen=127.0.0.1:", port)}));
  EXPECT_EQ(grpc.Wait(), 69);
  Program http(Args(
      {"--load_format=auto", absl::StrCat("--http_listen=127.0.0.1:", port)}));
  EXPECT_EQ(http.Wait(), 69);
}

TEST_F(ProgramTest, ADryRunPrintsThePlanAndReadsNoWeights) {
  Program program(Args({"--dry_run", "--load_format=auto"}));
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.said(), HasSubstr("session_slots"));
  EXPECT_THAT(program.said(), HasSubstr("total_bytes"));
}

TEST_F(ProgramTest, ADryRunTellsTheBytesThatTheServerThenTakes) {
  Program dry_run(Args({"--dry_run"}));
  ASSERT_EQ(dry_run.Wait(), 0);
  Program program(Args());
  const std::string page = HttpGet(
      PortIn(program.WaitForLine("listening"), "http_port"), "/metrics");
  for (const auto& [line, use] : {std::pair("weight_bytes", "weights"),
                                  {"state_pool_bytes", "state_pool"},
                                  {"workspace_bytes", "workspace"}}) {
    const double told = NumberAfter(absl::StrCat("\n", line), dry_run.said());
    EXPECT_GT(told, 0) << line;
    EXPECT_EQ(told, NumberAfter(absl::StrCat("\nttt_device_memory_bytes{use=\"",
                                             use, "\"}"),
                                page))
        << line;
  }
}

TEST_F(ProgramTest, BytesMayHaveAUnit) {
  Program program(Args({"--device_state_bytes=2MiB", "--dry_run"}));
  EXPECT_EQ(program.Wait(), 0);
  Program same(Args({"--device_state_bytes=2097152", "--dry_run"}));
  EXPECT_EQ(same.Wait(), 0);
  const auto bytes = [](const Program& of) {
    return NumberAfter("\nstate_pool_bytes", of.said());
  };
  EXPECT_GT(bytes(program), 0);
  EXPECT_EQ(bytes(program), bytes(same));
}

TEST_F(ProgramTest, HelpAndVersionEndWith0) {
  Program help({"--help"});
  EXPECT_EQ(help.Wait(), 0);
  EXPECT_THAT(help.said(), StartsWith("usage: tttd "));
  EXPECT_THAT(help.said(), HasSubstr("  --version\n"));
  EXPECT_THAT(help.said(), HasSubstr("--max_batch_rows=32"));
  Program version({"--version"});
  EXPECT_EQ(version.Wait(), 0);
  EXPECT_THAT(version.said(), HasSubstr("tttd "));
}

TEST_F(ProgramTest, AFileOfFlagsComesBeforeTheCommandLine) {
  const std::string file = model_.path() + "/flags";
  std::ofstream(file) << "# a comment\n\nmax_batch_rows = 3\n--max_queue=-1\n";
  Program program(
      Args({absl::StrCat("--config=", file), "--max_queue=5", "--dry_run"}));
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.said(), HasSubstr("scratch_slots       3\n"));
}

TEST_F(ProgramTest, ALineWithoutAValueInAFileOfFlagsEndsWith64) {
  const std::string file = model_.path() + "/flags";
  std::ofstream(file) << "max_batch_rows\n3\n";
  Program program(Args({absl::StrCat("--config=", file), "--dry_run"}));
  EXPECT_EQ(program.Wait(), 64);
  EXPECT_THAT(program.said(), HasSubstr("\"max_batch_rows\""));
}

TEST_F(ProgramTest, ABadValueInAFileOfFlagsNamesTheFile) {
  const std::string file = model_.path() + "/flags";
  std::ofstream(file) << "max_batch_rows=x\n";
  Program program(Args({absl::StrCat("--config=", file), "--dry_run"}));
  EXPECT_EQ(program.Wait(), 64);
  EXPECT_THAT(program.said(),
              HasSubstr(absl::StrCat("--config is \"", file,
                                     "\": --max_batch_rows is \"x\"")));
}

TEST_F(ProgramTest, AnotherEndOfTextThanTheTokenizersEndsWith65) {
  std::string config;
  std::getline(std::ifstream(model_.path() + "/config.json"), config, '\0');
  const std::string key = "\"eos_token_id\": ";
  config.replace(config.find(key), key.size() + 1, key + "3");
  std::ofstream(model_.path() + "/config.json") << config;
  Program program(Args());
  EXPECT_EQ(program.Wait(), 65);
  EXPECT_THAT(program.said(), HasSubstr("eos_token_id is 3"));
}

TEST_F(ProgramTest, SigtermDrainsAndEndsWith0) {
  Program program(Args());
  ASSERT_NE(program.WaitForLine("listening"), "");
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_THAT(program.said(), HasSubstr("drained"));
}

// A stream of an endless turn on the program.
class EndlessTurn {
 public:
  explicit EndlessTurn(int port)
      : stub_(v1::Inference::NewStub(
            grpc::CreateChannel(absl::StrCat("127.0.0.1:", port),
                                grpc::InsecureChannelCredentials()))),
        reader_(stub_->StreamComplete(
            &context_, FromText<v1::CompleteRequest>(EndlessRequest("")))) {
    v1::CompleteEvent event;
    TTT_CHECK(reader_->Read(&event) && reader_->Read(&event));
  }
  grpc::Status Finish() {
    v1::CompleteEvent event;
    while (reader_->Read(&event)) {
    }
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<grpc::ClientReader<v1::CompleteEvent>> reader_;
};

TEST_F(ProgramTest, ATurnThatDoesNotEndInTimeIsCutAsDraining) {
  Program program(Args({"--drain_seconds=0"}));
  EndlessTurn turn(PortIn(program.WaitForLine("listening")));
  program.Signal(SIGTERM);
  const grpc::Status status = turn.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "DRAINING");
  EXPECT_EQ(program.Wait(), 0);
}

TEST_F(ProgramTest, ASecondSignalEndsAtOnce) {
  Program program(Args({"--drain_seconds=3600"}));
  EndlessTurn turn(PortIn(program.WaitForLine("listening")));
  program.Signal(SIGTERM);
  ASSERT_NE(program.WaitForLine("draining"), "");
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 130);
  turn.Finish();
}

}  // namespace
}  // namespace ttt
