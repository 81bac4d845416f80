// The example program against a whole server, and against one that fails it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "tests/client/fake_server.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Ran {
  int exit_code;
  std::string output;
};

Ran RunExample(const std::string& args) {
  const std::string command = std::string(TTT_EXAMPLE) + " " + args;
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[4096];
  size_t size;
  while ((size = fread(buffer, 1, sizeof(buffer), pipe)) > 0) {
    output.append(buffer, size);
  }
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

TEST(ExampleTest, ConversationTakesATurnForksAndLeavesNothing) {
  TestServer server;
  const Ran ran = RunExample(server.address() + " abc");
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  EXPECT_THAT(ran.output, HasSubstr("[revision 1]"));
  // The same state and the same seed go on alike.
  const size_t parent = ran.output.find("parent:");
  const size_t fork = ran.output.rfind("fork:");
  ASSERT_NE(parent, std::string::npos);
  ASSERT_NE(fork, std::string::npos);
  EXPECT_EQ(ran.output.substr(parent + 7, fork - parent - 7),
            ran.output.substr(fork + 5));
  v1::ListSessionsResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(server.sessions().ListSessions(&context, {}, &list).ok());
  EXPECT_EQ(list.sessions_size(), 0);
}

TEST(ExampleTest, ConversationWhoseForkFailsLeavesNothing) {
  FakeServer server;  // Its fork takes no turn.
  const Ran ran = RunExample(server.address() + " abc");
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.output, HasSubstr("parent: word0"));
  EXPECT_THAT(ran.output, HasSubstr("Socket closed"));
  EXPECT_THAT(server.sessions(), IsEmpty());
}

TEST(ExampleTest, ConversationTellsOfItsArguments) {
  for (const std::string arg : {"--help", "localhost"}) {
    const Ran ran = RunExample(arg);
    EXPECT_EQ(ran.exit_code, arg == "--help" ? 0 : 64);
    EXPECT_EQ(ran.output,
              "usage: ttt_example_conversation [HOST:PORT [TEXT]]\n");
  }
}

TEST(ExampleTest, ConversationTellsWhyItFailed) {
  TestServer server({.with_tokenizer = false});
  const Ran ran = RunExample(server.address() + " abc");
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.output, HasSubstr("NO_TOKENIZER"));
}

}  // namespace
}  // namespace ttt
