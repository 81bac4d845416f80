#include "tests/bench/op_bench_cases.h"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.h"

namespace ttt {
namespace {

// That CasesOf knows every kind is the compiler's to see; that every op of a
// backend has a kind, timing_backend_test's.
TEST(OpBenchCasesTest, EveryKindOfOpHasABenchmarkThatRuns) {
  const auto backend =
      CreateCpuBackend({.precision = Precision::kFloat32, .num_threads = 1})
          .value();
  for (const OpKind kind : kAllOpKinds) {
    const std::vector<OpCase> cases = CasesOf(kind);
    ASSERT_FALSE(cases.empty()) << OpName(kind);
    EXPECT_EQ(cases[0].kind, kind);
    OpInputs inputs(backend.get());
    const PreparedOp op = cases[0].prepare(inputs);
    EXPECT_GT(op.cost.bytes, 0) << cases[0].name;
    EXPECT_TRUE(op.call().ok()) << cases[0].name << ": " << op.call();
  }
}

}  // namespace
}  // namespace ttt
