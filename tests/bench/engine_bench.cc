// The engine's speed without gRPC: decode at several batch sizes, prefill, cost
// by position. Prints a table, or JSON lines with --json. The read bandwidth
// that decode is held against is measured in the same run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/model/checkpoint.h"
#include "server/model/ttt_model.h"
#include "server/session/state_pool.h"

ABSL_FLAG(std::string, model, "", "folder with a config.json");
ABSL_FLAG(std::string, load_format, "dummy", "dummy (random weights) or auto");
ABSL_FLAG(std::string, precision, "auto", "auto, fp32 or bf16");
ABSL_FLAG(std::string, batch, "1,4,16", "decode batch sizes");
ABSL_FLAG(std::string, prefill, "1x512,4x128", "sequences x tokens");
ABSL_FLAG(std::string, positions, "1000,1000000",
          "positions to decode at, batch 1");
ABSL_FLAG(int32_t, steps, 20, "timed steps; the median is reported");
ABSL_FLAG(int32_t, threads, 0, "0: one a core");
ABSL_FLAG(bool, json, false, "one JSON object a line");

namespace ttt {
namespace {

double Seconds(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Bytes a second that all cores read together from memory, best of five.
double ReadBandwidth() {
  const size_t threads = std::max(1u, std::thread::hardware_concurrency());
  constexpr size_t kWords = size_t{64} << 20;  // 512 MiB
  const std::vector<uint64_t> data(kWords, 1);
  std::vector<uint64_t> sums(threads * 8);
  double best = 1e30;
  for (int repeat = 0; repeat < 5; ++repeat) {
    best = std::min(best, Seconds([&] {
                      std::vector<std::thread> workers;
                      for (size_t t = 0; t < threads; ++t) {
                        workers.emplace_back([&, t] {
                          uint64_t s[8] = {};
                          const size_t end = (t + 1) * kWords / threads / 8 * 8;
                          for (size_t i = t * kWords / threads / 8 * 8; i < end;
                               i += 8) {
                            for (size_t j = 0; j < 8; ++j) s[j] += data[i + j];
                          }
                          for (size_t j = 0; j < 8; ++j) sums[t * 8 + j] = s[j];
                        });
                      }
                      for (auto& worker : workers) worker.join();
                    }));
  }
  return kWords * sizeof(uint64_t) / best;
}

std::vector<int64_t> Numbers(const std::string& list, char separator = ',') {
  std::vector<int64_t> numbers;
  for (const auto part : absl::StrSplit(list, separator, absl::SkipEmpty())) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1) {
      std::fprintf(stderr, "not a number >= 1: %s\n",
                   std::string(part).c_str());
      std::exit(64);
    }
    numbers.push_back(number);
  }
  return numbers;
}

// One line of the report: a time and what it comes to.
void Report(const std::string& work, double seconds, double tokens,
            double floor) {
  if (absl::GetFlag(FLAGS_json)) {
    std::printf(
        "{\"work\": \"%s\", \"seconds\": %.6g, \"tokens_per_second\": %.6g, "
        "\"floor_seconds\": %.6g}\n",
        work.c_str(), seconds, tokens / seconds, floor);
  } else {
    std::printf("%-28s %10.3f ms %12.1f tokens/s", work.c_str(), seconds * 1e3,
                tokens / seconds);
    if (floor > 0) std::printf("   %.2fx the weights' floor", seconds / floor);
    std::printf("\n");
  }
  std::fflush(stdout);
}

class Bench {
 public:
  Bench(const ModelConfig& config, Checkpoint* checkpoint, Backend* backend,
        int32_t max_sequences, int32_t max_rows)
      : config_(config),
        model_(TttModel::Load(
                   config, checkpoint,
                   {.max_rows = max_rows, .max_sequences = max_sequences},
                   backend)
                   .value()),
        pool_(StatePool::Create(
                  {.session_slots = 1, .scratch_slots = max_sequences},
                  TttModel::MakeStateLayout(config), backend)
                  .value()) {
    for (int32_t i = 0; i < max_sequences; ++i) {
      slots_.push_back(pool_->AcquireSlot().value());
    }
  }

  const TttModel& model() const { return *model_; }

  // The median time of a step of `batch` sequences with `tokens` each, sampling
  // after the last. Sequences begin at different phases.
  double Step(int64_t batch, int64_t tokens, int64_t position, int32_t steps) {
    std::vector<int32_t> ids(tokens);
    SamplingParams greedy;
    std::vector<StepSequence> sequences;
    std::vector<LogitsRequest> requests;
    for (int64_t i = 0; i < batch; ++i) {
      if (!model_->InitState(*pool_, slots_[i].index()).ok()) std::exit(70);
      sequences.push_back({slots_[i].index(), position + i * 5, ids});
      requests.push_back({.sequence = static_cast<int32_t>(i),
                          .row = static_cast<int32_t>(tokens - 1),
                          .sampling = &greedy});
    }
    std::vector<double> times;
    for (int32_t step = -3; step < steps; ++step) {
      for (int64_t t = 0; t < tokens; ++t) {
        ids[t] = static_cast<int32_t>((7919 * (step + 3) + 31 * t) %
                                      config_.vocab_size);
      }
      const double seconds = Seconds([&] {
        if (!model_->Step(*pool_, sequences, requests).ok()) std::exit(70);
      });
      if (step >= 0) times.push_back(seconds);
      for (StepSequence& sequence : sequences) sequence.position += tokens;
    }
    return Median(times);
  }

 private:
  const ModelConfig config_;
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<StatePool> pool_;
  std::vector<StateSlot> slots_;
};

int Run() {
  const std::string folder = absl::GetFlag(FLAGS_model);
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(folder);
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", config.status().ToString().c_str());
    return 65;
  }
  const std::string precision = absl::GetFlag(FLAGS_precision);
  const bool bf16 =
      precision == "bf16" || (precision == "auto" && CpuHasBFloat16());
  auto backend = CreateCpuBackend(
      {.precision = bf16 ? Precision::kBFloat16 : Precision::kFloat32,
       .num_threads = absl::GetFlag(FLAGS_threads)});
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 69;
  }
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      absl::GetFlag(FLAGS_load_format) == "dummy"
          ? MakeDummyCheckpoint(*config)
          : OpenCheckpoint(folder, *config);
  if (!checkpoint.ok()) {
    std::fprintf(stderr, "%s\n", checkpoint.status().ToString().c_str());
    return 65;
  }
  const std::vector<int64_t> batches = Numbers(absl::GetFlag(FLAGS_batch));
  std::vector<std::vector<int64_t>> prefills;
  int64_t max_rows = 1;
  int64_t max_sequences = 1;
  for (const int64_t batch : batches)
    max_rows = max_sequences = std::max(batch, max_rows);
  for (const auto part :
       absl::StrSplit(absl::GetFlag(FLAGS_prefill), ',', absl::SkipEmpty())) {
    prefills.push_back(Numbers(std::string(part), 'x'));
    if (prefills.back().size() != 2) return 64;
    max_sequences = std::max(max_sequences, prefills.back()[0]);
    max_rows = std::max(max_rows, prefills.back()[0] * prefills.back()[1]);
  }
  Bench bench(*config, checkpoint->get(), backend->get(),
              static_cast<int32_t>(max_sequences),
              static_cast<int32_t>(max_rows));
  const double bandwidth = ReadBandwidth();
  // A step reads all of them but the embedding, of which it takes single rows.
  const double streamed = static_cast<double>(
      bench.model().weight_bytes() -
      int64_t{config->vocab_size} * config->hidden_size * (bf16 ? 2 : 4) -
      TttModel::MakeStateLayout(*config).slot_bytes);
  const double floor = streamed / bandwidth;
  if (!absl::GetFlag(FLAGS_json)) {
    std::printf(
        "%s, %s, %.1f M parameters, %.1f MB weights a step, memory reads %.1f "
        "GB/s\n",
        folder.c_str(), (*backend)->info().description.c_str(),
        bench.model().num_parameters() / 1e6, streamed / 1e6, bandwidth / 1e9);
  }
  const int32_t steps = absl::GetFlag(FLAGS_steps);
  for (const int64_t batch : batches) {
    Report("decode batch " + std::to_string(batch),
           bench.Step(batch, 1, 1000, steps), static_cast<double>(batch),
           floor);
  }
  for (const auto& shape : prefills) {
    Report("prefill " + std::to_string(shape[0]) + " x " +
               std::to_string(shape[1]),
           bench.Step(shape[0], shape[1], 0, std::max(3, steps / 4)),
           static_cast<double>(shape[0] * shape[1]), 0);
  }
  for (const int64_t position : Numbers(absl::GetFlag(FLAGS_positions))) {
    Report("decode at position " + std::to_string(position),
           bench.Step(1, 1, position, steps), 1, floor);
  }
  return 0;
}

}  // namespace
}  // namespace ttt

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "ttt_engine_bench --model=DIR: the engine without gRPC");
  absl::ParseCommandLine(argc, argv);
  return ttt::Run();
}
