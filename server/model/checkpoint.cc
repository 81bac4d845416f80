#include "server/model/checkpoint.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/status_macros.h"
#include "server/model/checkpoint_scan.h"
#include "server/model/safetensors.h"
#include "server/model/strict_json.h"

namespace ttt {
namespace {

using nlohmann::json;

constexpr char kSingleFile[] = "/model.safetensors";
constexpr char kIndexFile[] = "/model.safetensors.index.json";
constexpr char kTiedHead[] = "lm_head.weight";
constexpr int64_t kMaxIndexBytes = int64_t{100} * 1000 * 1000;
constexpr size_t kMaxShards = 1024;

using Shards = std::map<std::string, SafetensorsFile>;  // by file name

// The tensors of some files, all of which ModelTensors asks for.
class FileCheckpoint : public Checkpoint {
 public:
  FileCheckpoint(std::unique_ptr<Shards> shards,
                 const std::vector<StoredTensor>& tensors,
                 std::string fingerprint)
      : shards_(std::move(shards)), fingerprint_(std::move(fingerprint)) {
    for (const StoredTensor& tensor : tensors)
      tensors_.emplace(tensor.name, tensor);
  }

  absl::StatusOr<std::vector<float>> Read(
      absl::string_view name, const std::vector<int64_t>& shape) override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(name), " is missing"));
    }
    const StoredTensor& stored = found->second;
    if (stored.tensor->shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(name), " has shape ",
          ShapeText(stored.tensor->shape), "; must be ", ShapeText(shape)));
    }
    return stored.file->ReadFloats(name);
  }

  std::string fingerprint() const override { return fingerprint_; }

 private:
  const std::unique_ptr<Shards> shards_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  const std::string fingerprint_;
};

absl::Status IndexError(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// A shard lies beside its index.
bool IsShardName(const std::string& name) {
  return name.size() < 256 && name[0] != '.' &&
         absl::EndsWith(name, ".safetensors") &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

// Tensor name to file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(
    const std::string& path) {
  TTT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIndexBytes));
  const absl::StatusOr<json> index = ParseStrictJson(text);
  if (!index.ok()) return IndexError(path, index.status().message());
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return IndexError(path, "weight_map must be a JSON object");
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : (*index)["weight_map"].items()) {
    if (!file.is_string() || !IsShardName(file.get<std::string>())) {
      return IndexError(path, absl::StrCat("tensor ", Quoted(name),
                                           ": must be in a .safetensors file "
                                           "beside the index"));
    }
    files[name] = file.get<std::string>();
  }
  if (files.empty()) return IndexError(path, "weight_map is empty");
  return files;
}

// Opens what the index names; each tensor must be in its file and in no other.
absl::StatusOr<Shards> OpenShards(const std::string& model_dir) {
  const std::string path = model_dir + kIndexFile;
  std::map<std::string, std::string> files;
  TTT_ASSIGN_OR_RETURN(files, ReadIndex(path));
  Shards shards;
  for (const auto& [name, file] : files) {
    if (shards.count(file) > 0) continue;
    if (shards.size() == kMaxShards) {
      return IndexError(path, absl::StrCat("more than ", kMaxShards, " files"));
    }
    TTT_ASSIGN_OR_RETURN(
        SafetensorsFile shard,
        SafetensorsFile::Open(absl::StrCat(model_dir, "/", file)));
    shards.emplace(file, std::move(shard));
  }
  for (const auto& [name, file] : files) {
    if (shards.at(file).tensors().count(name) == 0) {
      return IndexError(
          path, absl::StrCat("tensor ", Quoted(name), " is not in ", file));
    }
  }
  for (const auto& [file, shard] : shards) {
    for (const auto& [name, tensor] : shard.tensors()) {
      const auto indexed = files.find(name);
      if (indexed != files.end() && indexed->second == file) continue;
      return IndexError(path,
                        absl::StrCat("tensor ", Quoted(name), " is in ", file,
                                     ", which the index does not say"));
    }
  }
  return shards;
}

absl::StatusOr<Shards> OpenFiles(const std::string& model_dir) {
  const std::string path = model_dir + kSingleFile;
  absl::StatusOr<SafetensorsFile> single = SafetensorsFile::Open(path);
  if (single.ok()) {
    Shards shards;
    shards.emplace(path, *std::move(single));
    return shards;
  }
  if (!absl::IsNotFound(single.status())) return single.status();
  absl::StatusOr<Shards> shards = OpenShards(model_dir);
  if (absl::IsNotFound(shards.status()) &&
      absl::StrContains(shards.status().message(), kIndexFile)) {
    return absl::NotFoundError(
        absl::StrCat(path, ": no such file, and no index of shards beside it"));
  }
  return shards;
}

// The file with this tensor, or null.
const SafetensorsFile* FindFile(const Shards& shards, const std::string& name) {
  for (const auto& [file, shard] : shards) {
    if (shard.tensors().count(name) > 0) return &shard;
  }
  return nullptr;
}

absl::StatusOr<StoredTensor> FindTensor(const Shards& shards,
                                        const TensorSpec& spec) {
  const SafetensorsFile* const file = FindFile(shards, spec.name);
  if (file == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        shards.begin()->second.path(), ": tensor ", Quoted(spec.name),
        " is missing; the model of config.json has it"));
  }
  const SafetensorsTensor& tensor = file->tensors().find(spec.name)->second;
  const auto refuse = [&](absl::string_view what, absl::string_view wanted) {
    return absl::InvalidArgumentError(absl::StrCat(file->path(), ": tensor ",
                                                   Quoted(spec.name), " ", what,
                                                   "; must be ", wanted));
  };
  if (tensor.shape != spec.shape) {
    return refuse(absl::StrCat("has shape ", ShapeText(tensor.shape)),
                  absl::StrCat(ShapeText(spec.shape), " by config.json"));
  }
  if (!IsFloatType(tensor.dtype)) {
    return refuse(absl::StrCat("is ", tensor.dtype), "F32, BF16 or F16");
  }
  return StoredTensor{spec.name, file, &tensor};
}

// No file holds what the model does not have: a config with a switch off would
// leave trained weights unread.
absl::Status CheckNoExtra(const Shards& shards, const ModelConfig& config,
                          const std::vector<TensorSpec>& specs) {
  std::set<absl::string_view> known;
  for (const TensorSpec& spec : specs) known.insert(spec.name);
  if (config.tie_word_embeddings) known.insert(kTiedHead);
  for (const auto& [file, shard] : shards) {
    for (const auto& [name, tensor] : shard.tensors()) {
      if (known.count(name) > 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(shard.path(), ": tensor ", Quoted(name),
                       " is not part of the model of config.json"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(
    const std::string& model_dir, const ModelConfig& config) {
  auto shards = std::make_unique<Shards>();
  TTT_ASSIGN_OR_RETURN(*shards, OpenFiles(model_dir));
  const std::vector<TensorSpec> specs = ModelTensors(config);
  std::vector<StoredTensor> tensors;
  for (const TensorSpec& spec : specs) {
    TTT_ASSIGN_OR_RETURN(StoredTensor tensor, FindTensor(*shards, spec));
    tensors.push_back(std::move(tensor));
  }
  TTT_RETURN_IF_ERROR(CheckNoExtra(*shards, config, specs));
  TTT_ASSIGN_OR_RETURN(std::string fingerprint, ScanTensors(config, tensors));
  return std::make_unique<FileCheckpoint>(std::move(shards), tensors,
                                          std::move(fingerprint));
}

}  // namespace ttt
