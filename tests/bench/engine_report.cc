#include "tests/bench/engine_report.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "nlohmann/json.hpp"

namespace ttt {
namespace {

enum Group { kMatrices, kTile, kRows, kHead, kHost, kNumGroups };
constexpr const char* kGroupNames[] = {"matrices (GEMM)", "tile (learner)",
                                       "norms, conv, rope, elementwise",
                                       "head and sampling", "the rest"};

Group GroupOf(const OpCall& call, bool is_head) {
  if (call.kind == OpKind::kCopy) return kHost;
  if (is_head) return kHead;
  if (call.kind == OpKind::kGemm) return kMatrices;
  return call.kind == OpKind::kLearner ? kTile : kRows;
}

struct Part {
  double seconds = 0;
  double calls = 0;
  OpCost cost;
};

void Print(const nlohmann::ordered_json& json) {
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
}

// Share of the ceiling that `amount` in `seconds` is.
double Share(double amount, double seconds, double ceiling) {
  return ceiling > 0 && seconds > 0 ? amount / seconds / ceiling : 0;
}

}  // namespace

void ReportMachine(const std::string& model, const std::string& device,
                   const ReportOptions& options) {
  const Ceilings& best = options.ceilings;
  if (options.json) {
    Print({{"model", model},
           {"device", device},
           {"streamed_weight_bytes", options.streamed_bytes},
           {"read_bytes_per_second", best.read_bytes_per_second},
           {"fp32_flops_per_second", best.fp32_flops},
           {"bf16_flops_per_second", best.bf16_flops}});
    return;
  }
  std::printf(
      "%s on %s\nceilings: reads %.1f GB/s, products %.0f GFLOP/s fp32, %.0f "
      "GFLOP/s bf16; %.1f MB of weights a step\n\n"
      "%-9s %-20s %10s %10s %6s %10s %9s %9s %6s %6s %8s\n",
      model.c_str(), device.c_str(), best.read_bytes_per_second / 1e9,
      best.fp32_flops / 1e9, best.bf16_flops / 1e9,
      options.streamed_bytes / 1e6, "mode", "case", "ms", "least", "+-",
      "tokens/s", "MB", "MFLOP", "bytes", "FLOPs", "weights");
}

void ReportResult(const BenchCase& bench_case, const BenchResult& result,
                  const ReportOptions& options) {
  const Summary time = Summarize(result.seconds);
  const Ceilings& best = options.ceilings;
  const double bytes_share =
      Share(result.cost.bytes, time.median, best.read_bytes_per_second);
  const double flops_share =
      Share(result.cost.flops, time.median, best.flops(options.operand_type));
  // How many times the reading of the weights alone.
  const double over_weights =
      bench_case.streams_weights
          ? time.median * best.read_bytes_per_second / options.streamed_bytes
          : 0;
  const double rate = bench_case.tokens / time.median;
  if (options.json) {
    Print({{"mode", bench_case.mode},
           {"case", bench_case.name},
           {"seconds", time.median},
           {"seconds_least", time.least},
           {"seconds_greatest", time.greatest},
           {"spread", time.spread},
           {"rounds", result.seconds.size()},
           {"operations", bench_case.operations},
           {"trains", bench_case.trains},
           {"tokens_per_second", rate},
           {"bytes", result.cost.bytes},
           {"flops", result.cost.flops},
           {"share_of_read_rate", bytes_share},
           {"share_of_product_rate", flops_share},
           {"times_weights_read", over_weights}});
    return;
  }
  char weights[32] = "";
  if (over_weights > 0) {
    std::snprintf(weights, sizeof(weights), "%7.2fx", over_weights);
  }
  std::printf(
      "%-9s %-20s %10.4f %10.4f %5.1f%% %10.1f %9.3f %9.1f %5.1f%% %5.1f%% "
      "%8s\n",
      bench_case.mode.c_str(), bench_case.name.c_str(), time.median * 1e3,
      time.least * 1e3, time.spread * 100, rate, result.cost.bytes / 1e6,
      result.cost.flops / 1e6, bytes_share * 100, flops_share * 100, weights);
  std::fflush(stdout);
}

void ReportArms(const std::vector<BenchCase>& cases,
                const std::vector<BenchResult>& results,
                const ReportOptions& options) {
  if (options.json) return;  // It follows from the times.
  std::printf("\narms: rate over that of the streams one by one\n");
  double first_rate = 0;
  double first_tokens = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    if (cases[i].mode != "arms") continue;
    const double rate = cases[i].tokens / Summarize(results[i].seconds).median;
    if (cases[i].tokens != first_tokens) {
      first_tokens = cases[i].tokens;
      first_rate = rate;
    }
    std::printf("%-20s %8.2fx\n", cases[i].name.c_str(), rate / first_rate);
  }
}

void ReportBreakdown(const BenchCase& bench_case, const BenchResult& result,
                     const ReportOptions& options) {
  std::map<std::pair<Group, std::string>, Part> parts;
  Part groups[kNumGroups];
  // A step's.
  const double share = 1.0 / (bench_case.operations * bench_case.steps);
  double total = 0;
  for (const std::vector<OpCall>& operation : result.calls) {
    bool is_head = false;
    for (const OpCall& call : operation) {
      if (call.kind == OpKind::kEmbedTokens) is_head = false;  // a step
      is_head |= call.kind == OpKind::kGatherHidden;
      const Group group = GroupOf(call, is_head);
      for (Part* part :
           {&parts[{group, std::string(OpName(call.kind))}], &groups[group]}) {
        part->seconds += call.seconds * share;
        part->calls += share;
        part->cost += {call.cost.bytes * share, call.cost.flops * share};
      }
      total += call.seconds * share;
    }
  }
  const double step = Summarize(result.seconds).median;
  const double reads = options.ceilings.read_bytes_per_second;
  const double products = options.ceilings.flops(options.operand_type);
  if (options.json) {
    for (const auto& [key, part] : parts) {
      Print(
          {{"mode", "breakdown"},
           {"case", bench_case.mode + " " + bench_case.name},
           {"group", kGroupNames[key.first]},
           {"op", key.second},
           {"seconds", part.seconds},
           {"share", part.seconds / total},
           {"calls", part.calls},
           {"bytes", part.cost.bytes},
           {"flops", part.cost.flops},
           {"share_of_read_rate", Share(part.cost.bytes, part.seconds, reads)},
           {"share_of_product_rate",
            Share(part.cost.flops, part.seconds, products)}});
    }
    return;
  }
  std::printf(
      "\nbreakdown of %s %s: ops %.3f ms, a step without a clock in it %.3f "
      "ms\n",
      bench_case.mode.c_str(), bench_case.name.c_str(), total * 1e3,
      step * 1e3);
  const auto print = [&](const char* indent, const char* name,
                         const Part& part) {
    std::printf(
        "%s%-*s %9.3f ms %5.1f%% %7.1f calls %5.1f%% bytes %5.1f%% "
        "FLOPs\n",
        indent, indent[0] == '\0' ? 32 : 30, name, part.seconds * 1e3,
        part.seconds / total * 100, part.calls,
        Share(part.cost.bytes, part.seconds, reads) * 100,
        Share(part.cost.flops, part.seconds, products) * 100);
  };
  for (int group = 0; group < kNumGroups; ++group) {
    if (groups[group].calls == 0) continue;
    print("", kGroupNames[group], groups[group]);
    for (const auto& [key, part] : parts) {
      if (key.first == group) print("  ", key.second.c_str(), part);
    }
  }
  std::fflush(stdout);
}

}  // namespace ttt
