// Runs every input of corpus/ through its fuzz target, as a regression test.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_targets.h"

namespace ttt {
namespace {

constexpr char kCorpus[] = TTT_SOURCE_DIR "/tests/fuzz/corpus";

struct Target {
  const char* name;  // of the program without "fuzz_", and of the folder
  void (*run)(absl::string_view);
};
constexpr Target kTargets[] = {{"safetensors", FuzzSafetensors},
                               {"index", FuzzIndex},
                               {"config", FuzzConfig},
                               {"tokenizer_model", FuzzTokenizerModel},
                               {"detokenizer", FuzzDetokenizer},
                               {"sampler", FuzzSampler},
                               {"complete", FuzzComplete},
                               {"score", FuzzScore},
                               {"create_session", FuzzCreateSession},
                               {"session_name", FuzzSessionName},
                               {"list_sessions", FuzzListSessions},
                               {"fork_session", FuzzForkSession},
                               {"tokenize", FuzzTokenize},
                               {"detokenize", FuzzDetokenize},
                               {"client_reply", FuzzClientReply}};

std::vector<std::filesystem::path> Inputs(const std::string& target) {
  std::vector<std::filesystem::path> inputs;
  for (const auto& entry :
       std::filesystem::directory_iterator(kCorpus + ("/" + target))) {
    inputs.push_back(entry.path());
  }
  std::sort(inputs.begin(), inputs.end());
  return inputs;
}

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class CorpusTest : public ::testing::TestWithParam<Target> {
 protected:
  static void SetUpTestSuite() {
    google::protobuf::SetLogHandler(nullptr);  // a line a broken string
  }
};

TEST_P(CorpusTest, EveryInputKeepsItsPromises) {
  const auto inputs = Inputs(GetParam().name);
  EXPECT_FALSE(inputs.empty());
  GetParam().run("");
  for (const auto& input : inputs) {
    // The last line tells where the process ended, should it.
    std::printf("%s\n", input.filename().c_str());
    std::fflush(stdout);
    GetParam().run(Read(input));
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, CorpusTest, ::testing::ValuesIn(kTargets),
                         [](const auto& info) {
                           return std::string(info.param.name);
                         });

TEST(CorpusFolderTest, HasATargetForEachFolder) {
  for (const auto& entry : std::filesystem::directory_iterator(kCorpus)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(std::any_of(std::begin(kTargets), std::end(kTargets),
                            [&](const Target& t) { return name == t.name; }))
        << name;
  }
}

}  // namespace
}  // namespace ttt
