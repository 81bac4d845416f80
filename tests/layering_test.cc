// Reads the includes of every source and fails on one that points up: a file
// includes only what stands below its folder, and each library of the system is
// known to the one folder that wraps it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace ttt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The server's parts, top to bottom.
constexpr std::array<std::string_view, 14> kServerLayers = {
    "server/main",      "server/flags",     "server/server", "server/plan",
    "server/options",   "server/rpc",       "server/engine", "server/scheduler",
    "server/request",   "server/admission", "server/model",  "server/session",
    "server/telemetry", "server/base"};

// Folders that hold sources.
constexpr std::array<std::string_view, 5> kTrees = {"client", "server", "proto",
                                                    "kernels", "tests"};

// A library of the system, the files that may include it, and no others.
struct Library {
  std::string_view name;
  std::vector<std::string_view> includes;  // how its headers begin
  std::vector<std::string_view> folders;   // who may include them, and tests/
};

const std::vector<Library>& Libraries() {
  static const auto* const libraries = new std::vector<Library>{
      {"gRPC", {"grpc/", "grpcpp/", "grpc++/"}, {"server/rpc/", "client/"}},
      {"CUDA",
       {"cuda", "cublas", "cooperative_groups", "mma.h", "nvtx", "cub/",
        "device_launch_parameters", "driver_types"},
       {"kernels/cuda/"}},
      {"oneDNN", {"dnnl", "oneapi/dnnl"}, {"kernels/cpu/"}},
      {"SentencePiece", {"sentencepiece"}, {"server/model/"}},
      {"prometheus-cpp",
       {"prometheus/", "civetweb", "CivetServer"},
       {"server/telemetry/"}},
  };
  return *libraries;
}

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() &&
         text.substr(text.size() - suffix.size()) == suffix;
}

bool StartsWithOneOf(std::string_view text,
                     const std::vector<std::string_view>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view p) { return StartsWith(text, p); });
}

// The layer of a file of the project or of an include of one; empty for what is
// not the project's.
std::string Layer(std::string_view path) {
  if (StartsWith(path, "ttt/v1/") || StartsWith(path, "google/rpc/")) {
    return "proto";
  }
  for (const std::string_view layer : kServerLayers) {
    if (StartsWith(path, std::string(layer) + "/") ||
        StartsWith(path, std::string(layer) + ".")) {
      return std::string(layer);
    }
  }
  for (const std::string_view layer : {"kernels/cpu", "kernels/cuda"}) {
    if (StartsWith(path, std::string(layer) + "/")) return std::string(layer);
  }
  for (const std::string_view tree : kTrees) {
    if (StartsWith(path, std::string(tree) + "/")) return std::string(tree);
  }
  return "";
}

int ServerRank(std::string_view layer) {
  const auto* const found =
      std::find(kServerLayers.begin(), kServerLayers.end(), layer);
  return static_cast<int>(found - kServerLayers.begin());
}

bool MayInclude(const std::string& from, const std::string& to) {
  if (from == to || from == "tests") return true;
  if (from == "client") return to == "proto";
  if (from == "kernels/cpu" || from == "kernels/cuda") return to == "kernels";
  if (!StartsWith(from, "server/")) return false;
  if (StartsWith(to, "server/")) return ServerRank(to) > ServerRank(from);
  if (from == "server/base") return false;
  if (to == "kernels") return from != "server/scheduler";
  // Who builds the parts picks the device; the others see kernels/backend.h.
  if (StartsWith(to, "kernels/")) return from == "server/plan";
  return to == "proto";
}

// One #include: the text between the brackets or quotes.
struct Include {
  std::string path;
  bool is_quoted = false;
};

// False if `line` is not one.
bool ParseDirective(std::string_view line, std::string_view name,
                    std::string_view* rest) {
  const auto skip = [&] {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  };
  skip();
  if (!StartsWith(line, "#")) return false;
  line.remove_prefix(1);
  skip();
  if (!StartsWith(line, name)) return false;
  line.remove_prefix(name.size());
  skip();
  *rest = line;
  return true;
}

bool ParseInclude(std::string_view line, Include* include) {
  std::string_view rest;
  if (!ParseDirective(line, "include", &rest) || rest.empty()) return false;
  include->is_quoted = rest[0] == '"';
  if (!include->is_quoted && rest[0] != '<') return false;
  rest.remove_prefix(1);
  include->path = rest.substr(0, rest.find_first_of(">\""));
  return true;
}

// What is wrong with one #include of the file `path`; empty if nothing.
std::string Complaint(const std::string& path, const Include& include) {
  const std::string& name = include.path;
  const bool is_test = StartsWith(path, "tests/");
  bool is_of_library = false;
  for (const Library& library : Libraries()) {
    if (!StartsWithOneOf(name, library.includes)) continue;
    is_of_library = true;
    if (!is_test && !StartsWithOneOf(path, library.folders)) {
      return "not a folder that knows " + std::string(library.name);
    }
  }
  if (StartsWith(name, ".") || (include.is_quoted && !is_of_library &&
                                name.find('/') == std::string::npos)) {
    return "does not start at the root";
  }
  if (!is_test && EndsWith(name, ".grpc.pb.h") &&
      !StartsWithOneOf(path, {"server/rpc/", "client/"})) {
    return "not a folder that knows gRPC";
  }
  if ((EndsWith(path, ".cu") || EndsWith(path, ".cuh")) &&
      StartsWith(name, "absl/")) {
    return "device code knows no Abseil";
  }
  if (StartsWith(path, "server/scheduler/") && name == "server/base/clock.h") {
    return "the scheduler knows no clock";
  }
  const std::string to = Layer(name);
  if (!to.empty() && !MayInclude(Layer(path), to)) {
    return "points up, or across";
  }
  return "";
}

// What breaks the rules in the file `path`, relative to the root, with contents
// `text`.
std::vector<std::string> Violations(const std::string& path,
                                    const std::string& text) {
  std::vector<std::string> violations;
  bool has_pragma_once = false;
  int number = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::string where = path + ":" + std::to_string(number) + ": ";
    std::string_view rest;
    Include include;
    if (ParseInclude(line, &include)) {
      const std::string complaint = Complaint(path, include);
      if (!complaint.empty()) {
        violations.push_back(where + include.path + ": " + complaint);
      }
    } else if (ParseDirective(line, "pragma", &rest)) {
      has_pragma_once |= StartsWith(rest, "once");
    } else if (ParseDirective(line, "if", &rest) ||
               ParseDirective(line, "elif", &rest)) {
      const bool names_cuda = rest.find("CUDA") != std::string_view::npos ||
                              rest.find("NVCC") != std::string_view::npos;
      if (names_cuda && !StartsWith(path, "kernels/cuda/")) {
        violations.push_back(where + "conditional on CUDA: the build picks");
      }
    }
  }
  const bool is_header = EndsWith(path, ".h") || EndsWith(path, ".cuh");
  if (is_header && !has_pragma_once) {
    violations.push_back(path + ": no #pragma once");
  }
  return violations;
}

bool IsSource(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".h" || extension == ".cc" || extension == ".cu" ||
         extension == ".cuh" || extension == ".inc";
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(LayeringTest, NoIncludeOfTheTreePointsUp) {
  const std::filesystem::path root = TTT_SOURCE_DIR;
  int num_sources = 0;
  for (const std::string_view tree : kTrees) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(root / tree)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      ++num_sources;
      const std::string path =
          entry.path().lexically_relative(root).generic_string();
      for (const std::string& violation :
           Violations(path, ReadFile(entry.path()))) {
        ADD_FAILURE() << violation;
      }
    }
  }
  EXPECT_GT(num_sources, 20);
}

TEST(LayeringTest, IncludeOfALowerFolderPasses) {
  EXPECT_THAT(Violations("server/engine/engine.cc",
                         "#include \"server/engine/engine.h\"\n"
                         "#include <vector>\n"
                         "#include \"absl/status/status.h\"\n"
                         "#include \"kernels/backend.h\"\n"
                         "#include \"server/model/ttt_model.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Violations("server/plan.cc",
                         "#include \"kernels/cpu/cpu_backend.h\"\n"
                         "#include \"server/model/ttt_model.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Violations("server/server.cc",
                         "#include \"server/plan.h\"\n"
                         "#include \"server/rpc/rpc_server.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Violations("kernels/cpu/gemm.cc", "#include \"dnnl.hpp\"\n"),
              IsEmpty());
  EXPECT_THAT(Violations("client/main.cc",
                         "#include <grpcpp/channel.h>\n"
                         "#include \"ttt/v1/inference.grpc.pb.h\"\n"),
              IsEmpty());
}

TEST(LayeringTest, IncludeThatPointsUpIsNamedWithItsLine) {
  EXPECT_THAT(Violations("server/session/session_store.cc",
                         "#include <vector>\n"
                         "#include \"server/engine/engine.h\"\n"),
              ElementsAre(HasSubstr("session_store.cc:2: server/engine")));
}

// A file, and one line of it that must be refused.
struct Planted {
  const char* path;
  const char* line;
};

class PlantedViolationTest : public ::testing::TestWithParam<Planted> {};

TEST_P(PlantedViolationTest, IsRefused) {
  const Planted& planted = GetParam();
  EXPECT_EQ(Violations(planted.path, planted.line).size(), 1)
      << planted.path << ": " << planted.line;
}

INSTANTIATE_TEST_SUITE_P(
    All, PlantedViolationTest,
    ::testing::Values(
        Planted{"server/base/a.cc", "#include \"server/telemetry/metrics.h\""},
        Planted{"server/base/a.cc", "#include \"kernels/backend.h\""},
        Planted{"server/model/a.cc", "#include \"server/request/request.h\""},
        Planted{"server/rpc/a.cc", "#include \"server/server.h\""},
        Planted{"server/model/a.cc", "#include \"kernels/cpu/cpu_backend.h\""},
        Planted{"server/scheduler/a.cc", "#include \"kernels/backend.h\""},
        Planted{"server/scheduler/a.cc", "#include \"server/base/clock.h\""},
        Planted{"server/server.cc", "#include \"tests/support/fake_clock.h\""},
        Planted{"server/server.cc", "#include \"client/client.h\""},
        Planted{"server/server.cc", "#include <grpcpp/server_builder.h>"},
        Planted{"server/engine/a.cc", "#include \"ttt/v1/admin.grpc.pb.h\""},
        Planted{"kernels/a.cc", "#include \"server/base/check.h\""},
        Planted{"kernels/a.cc", "#include \"kernels/cpu/gemm.h\""},
        Planted{"kernels/cpu/a.cc", "#include \"kernels/cuda/gemm.h\""},
        Planted{"kernels/cpu/a.cc", "#include <cuda_runtime.h>"},
        Planted{"kernels/cuda/a.cu", "#include \"absl/status/status.h\""},
        Planted{"kernels/cuda/a.cc", "  #  include <dnnl.hpp>"},
        Planted{"server/request/a.cc", "#include <sentencepiece_processor.h>"},
        Planted{"server/engine/a.cc", "#include <prometheus/counter.h>"},
        Planted{"client/a.cc", "#include \"server/base/check.h\""},
        Planted{"client/a.cc", "#include \"client.h\""},
        Planted{"tests/server/a.cc", "#include \"../support/fake_clock.h\""},
        Planted{"server/server.cc", "#ifdef TTT_HAVE_CUDA"},
        Planted{"server/server.cc", "#if defined(__NVCC__)"},
        Planted{"server/engine/a.h", "#include <vector>"}));

}  // namespace
}  // namespace ttt
