// What ttt_engine_bench prints: tables, or one JSON object a line.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/ceilings.h"
#include "tests/bench/engine_cases.h"

namespace ttt {

struct ReportOptions {
  bool json = false;
  DType operand_type = DType::kFloat32;
  double streamed_bytes = 0;  // weights of a step
  Ceilings ceilings;
};

// The machine and its ceilings.
void ReportMachine(const std::string& model, const std::string& device,
                   const ReportOptions& options);
// Time, rate, and shares of the ceilings of one case.
void ReportResult(const BenchCase& bench_case, const BenchResult& result,
                  const ReportOptions& options);
// The cases of mode "arms": how much faster each is than the first of as many
// streams, which runs them one by one.
void ReportArms(const std::vector<BenchCase>& cases,
                const std::vector<BenchResult>& results,
                const ReportOptions& options);
// The time of each kind of op, in groups; ops of the head are those from the
// first GatherHidden of a step on.
void ReportBreakdown(const BenchCase& bench_case, const BenchResult& result,
                     const ReportOptions& options);

}  // namespace ttt
