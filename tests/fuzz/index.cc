// model.safetensors.index.json beside sound shards: it is refused, or says what
// the shards hold, and then the weights are the same whatever its spelling.
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "server/base/check.h"
#include "server/model/checkpoint.h"
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/memory_file.h"

namespace ttt {
namespace {

constexpr char kGolden[] = TTT_GOLDEN_DIR "/cases/linear-m16-share";
constexpr char kIndexName[] = "model.safetensors.index.json";

// A model directory of links to the golden shards, and to an index in memory.
class ModelDir {
 public:
  ModelDir() {
    path_ = std::filesystem::temp_directory_path() / "ttt_fuzz_index_XXXXXX";
    TTT_CHECK(mkdtemp(path_.data()) != nullptr);
    for (const auto& entry : std::filesystem::directory_iterator(kGolden)) {
      const std::string name = entry.path().filename();
      if (name == kIndexName || name == "golden.safetensors") continue;
      std::filesystem::create_symlink(entry.path(), path_ + "/" + name);
    }
    std::filesystem::create_symlink(index_.path(), path_ + "/" + kIndexName);
    config_ = LoadModelConfig(kGolden).value();
    fingerprint_ = OpenCheckpoint(kGolden, config_).value()->fingerprint();
  }
  ~ModelDir() { std::filesystem::remove_all(path_); }
  ModelDir(const ModelDir&) = delete;
  ModelDir& operator=(const ModelDir&) = delete;

  void Check(absl::string_view index) {
    index_.Write(index);
    const auto checkpoint = OpenCheckpoint(path_, config_);
    if (!checkpoint.ok()) {
      TTT_CHECK(absl::IsInvalidArgument(checkpoint.status()) ||
                absl::IsNotFound(checkpoint.status()));
      TTT_CHECK(absl::StrContains(checkpoint.status().message(), path_));
      return;
    }
    TTT_CHECK((*checkpoint)->fingerprint() == fingerprint_);
  }

 private:
  std::string path_;
  MemoryFile index_;
  ModelConfig config_;
  std::string fingerprint_;
};

}  // namespace

void FuzzIndex(absl::string_view file) {
  static ModelDir dir;
  dir.Check(file);
}

}  // namespace ttt
