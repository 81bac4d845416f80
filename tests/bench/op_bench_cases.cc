#include "tests/bench/op_bench_cases.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"

namespace ttt {
namespace {

constexpr int64_t kSetsBytes = int64_t{128} << 20;  // more than the caches hold

constexpr int32_t kMostDecodeRows = 256;
constexpr int32_t kPromptRows = 2048;

// Sequences of num_tokens rows each, at different places of their mini-batches,
// in several sets of slots.
struct SequenceSets {
  SequenceSets(OpInputs& inputs, int32_t batch, int64_t slot_bytes,
               int32_t num_tokens = 1, int64_t sets_bytes = kSetsBytes,
               int64_t least_sets = 1)
      : batch(batch),
        num_tokens(num_tokens),
        num_sets(static_cast<int32_t>(std::clamp<int64_t>(
            sets_bytes / (slot_bytes * batch), least_sets, 1024))),
        num_slots(int64_t{batch} * num_sets) {
    std::vector<SequenceRows> all;
    for (int32_t slot = 0; slot < num_slots; ++slot) {
      all.push_back(
          {slot % batch * num_tokens, num_tokens, slot, 32 + slot * 5});
    }
    sequences = inputs.Upload(all);
    std::vector<int32_t> indices(int64_t{batch} * num_tokens);
    for (size_t row = 0; row < indices.size(); ++row) {
      indices[row] = static_cast<int32_t>(row / num_tokens);
    }
    row_sequence = inputs.Upload(indices);
  }

  StepRows Next() {
    next = (next + 1) % num_sets;
    return {sequences + int64_t{next} * batch, row_sequence, batch,
            batch * num_tokens};
  }

  int32_t batch;
  int32_t num_tokens;
  int32_t num_sets;
  int64_t num_slots;
  const SequenceRows* sequences;
  const int32_t* row_sequence;
  int32_t next = 0;
};

// Of one row each, or, if there are more than are decoded, prompts.
SequenceSets SetsOfRows(OpInputs& inputs, int32_t num_rows,
                        int64_t slot_bytes) {
  const int32_t rows_each = num_rows <= kMostDecodeRows ? 1 : kPromptRows;
  return SequenceSets(inputs, num_rows / rows_each, slot_bytes, rows_each);
}

PreparedOp PrepareEndSequences(OpInputs& in, const ModelSizes&, int32_t n) {
  std::vector<SequenceRows> sequences(n);
  std::vector<int32_t> before(n);
  for (int32_t i = 0; i < n; ++i) {
    sequences[i] = {i, 1, i, 0};
    before[i] = i;
  }
  const EndSequencesArgs args = {.sequences = in.Upload(sequences),
                                 .before = in.Upload(before),
                                 .ended = in.Upload(std::vector<uint8_t>(n)),
                                 .batch = n};
  return {CostOf(args),
          [&in, args] { return in.backend().EndSequences(args); }};
}

PreparedOp PrepareEmbedTokens(OpInputs& in, const ModelSizes& m, int32_t n) {
  SequenceSets rows = SetsOfRows(in, n, kTokenRingSize * sizeof(int32_t));
  std::vector<int32_t> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = i * 7919 % m.vocab_size;
  const EmbedTokensArgs args = {
      .rows = rows.Next(),
      .token_ids = in.Upload(ids),
      .chosen_ids = nullptr,
      .table = in.Operands(int64_t{m.vocab_size} * m.hidden_size),
      .hidden = in.Floats(int64_t{n} * m.hidden_size),
      .ring = in.Plane(rows.num_slots, kTokenRingSize),
      .vocab_size = m.vocab_size,
      .hidden_size = m.hidden_size};
  return {CostOf(args), [&in, args] { return in.backend().EmbedTokens(args); }};
}

PreparedOp PrepareRmsNorm(OpInputs& in, const ModelSizes& m, int32_t n) {
  const RmsNormArgs args = {.input = in.Floats(int64_t{n} * m.hidden_size),
                            .weight = in.Floats(m.hidden_size),
                            .output = in.Operands(int64_t{n} * m.hidden_size),
                            .num_rows = n,
                            .hidden_size = m.hidden_size,
                            .epsilon = 1e-6f};
  return {CostOf(args), [&in, args] { return in.backend().RmsNorm(args); }};
}

PreparedOp PrepareConvNorm(OpInputs& in, const ModelSizes& m, int32_t n) {
  const int64_t tail = (m.conv_kernel - 1) * m.hidden_size;
  const int64_t floats = int64_t{n} * m.hidden_size;
  SequenceSets rows = SetsOfRows(in, n, tail * sizeof(float));
  ConvNormArgs args = {
      .rows = rows.Next(),
      .input = in.Floats(floats),
      .conv_norm_weight = in.Floats(m.hidden_size),
      .weight = in.Floats(int64_t{m.conv_kernel} * m.hidden_size),
      .bias = in.Floats(m.hidden_size),
      .tail = in.Plane(rows.num_slots, tail),
      .sum = in.Floats(floats),
      .norm_weight = in.Floats(m.hidden_size),
      .output = in.Operands(floats),
      .hidden_size = m.hidden_size,
      .kernel = m.conv_kernel,
      .epsilon = 1e-6f};
  return {CostOf(args), [&in, args, rows]() mutable {
            args.rows = rows.Next();
            return in.backend().ConvNorm(args);
          }};
}

// In floats of a slot.
int64_t TailOf(const ModelSizes& m) {
  return int64_t{m.conv_kernel - 1} * m.hidden_size;
}

// All but the rows, of which there are n.
LearnerInputsArgs MakeLearnerInputs(OpInputs& in, const ModelSizes& m,
                                    int32_t n, int64_t num_slots) {
  const int64_t width = m.hidden_size;
  const int64_t stride =
      WholeLines((3 * width + m.num_heads) * sizeof(float)) / sizeof(float);
  const auto weight = [&] { return in.Floats(m.conv_kernel * width); };
  return {.rows = {},
          .projections = in.Floats(n * stride),
          .row_stride = stride,
          .query_offset = 0,
          .key_offset = 0,
          .value_offset = m.hidden_size,
          .rate_offset = 3 * m.hidden_size,
          .conv_q_weight = weight(),
          .conv_q_bias = in.Floats(width),
          .conv_k_weight = weight(),
          .conv_k_bias = in.Floats(width),
          .tail = in.Plane(num_slots, TailOf(m)),
          .rate_bias = in.Floats(m.num_heads),
          .rope = in.Floats(int64_t{m.mini_batch} * m.head_dim),
          .queries = in.Rows(n * width),
          .keys = in.Rows(n * width),
          .targets = in.Rows(n * width),
          .rates = in.Floats(int64_t{n} * m.num_heads),
          .num_heads = m.num_heads,
          .head_dim = m.head_dim,
          .mini_batch = m.mini_batch,
          .kernel = m.conv_kernel,
          .base_lr = 0.1f};
}

PreparedOp PrepareLearnerInputs(OpInputs& in, const ModelSizes& m, int32_t n) {
  SequenceSets rows = SetsOfRows(in, n, TailOf(m) * sizeof(float));
  LearnerInputsArgs args = MakeLearnerInputs(in, m, n, rows.num_slots);
  args.rows = rows.Next();
  return {CostOf(args), [&in, args, rows]() mutable {
            args.rows = rows.Next();
            return in.backend().LearnerInputs(args);
          }};
}

// Of `batch` sequences of num_tokens rows each. Caches hold none of the halves
// that a step reads, and no call has the states of the two before, as a GPU
// reads them early.
SequenceSets SetsOfStates(OpInputs& in, const ModelSizes& m, bool is_mlp,
                          int32_t batch, int32_t num_tokens) {
  const int64_t values = int64_t{m.num_heads} * m.head_dim * m.head_dim;
  return SequenceSets(in, batch, (is_mlp ? 8 : 1) * values * sizeof(float),
                      num_tokens, 2 * kSetsBytes, /*least_sets=*/3);
}

// All but the rows, of which there are n.
LearnerArgs MakeLearner(OpInputs& in, const ModelSizes& m, bool is_mlp,
                        int64_t n, int64_t slots) {
  const int64_t d = m.head_dim;
  const int64_t e = is_mlp ? 4 * d : d;
  const int64_t heads = m.num_heads;
  const int64_t pending = heads * (m.mini_batch - 1);
  const int64_t width = heads * d;
  return {
      .rows = {},
      .queries = in.Rows(n * width),
      .keys = in.Rows(n * width),
      .targets = in.Rows(n * width),
      // Small and of both signs, so that the weights stay where they are.
      .rates = in.Floats(n * heads, 1e-5f),
      .token_scale = in.Upload(std::vector<float>(m.mini_batch, 0.5f)),
      .norm_weight = in.Floats(width),
      .norm_bias = in.Floats(width),
      .w1 = in.MatrixPlane(slots, heads, d * e, 0.1f),
      .b1 = in.Plane(slots, heads * e, 0.1f),
      .w2 = is_mlp ? in.MatrixPlane(slots, heads, e * d, 0.1f) : StatePlane{},
      .b2 = is_mlp ? in.Plane(slots, heads * d, 0.1f) : StatePlane{},
      .pending_keys = in.RowPlane(slots, pending * d),
      .pending_targets = in.RowPlane(slots, pending * d),
      .pending_rates = in.Plane(slots, pending, 1e-5f),
      .output = in.Zeros(n * width),
      .is_mlp = is_mlp,
      .num_heads = m.num_heads,
      .head_dim = m.head_dim,
      .mini_batch = m.mini_batch};
}

// The mean over the places of a mini-batch: a set has each equally often, or
// the sets have.
OpCost CostOfSets(const LearnerArgs& args, int32_t batch, int32_t num_tokens) {
  OpCost cost;
  for (int32_t place = 0; place < args.mini_batch; ++place) {
    const SequenceRows row = {0, num_tokens, 0, place};
    cost += CostOf(args, absl::MakeConstSpan(&row, 1));
  }
  return {cost.bytes * batch / args.mini_batch,
          cost.flops * batch / args.mini_batch};
}

PreparedOp PrepareLearner(OpInputs& in, const ModelSizes& m, bool is_mlp,
                          int32_t batch, int32_t num_tokens) {
  SequenceSets rows = SetsOfStates(in, m, is_mlp, batch, num_tokens);
  LearnerArgs args =
      MakeLearner(in, m, is_mlp, int64_t{batch} * num_tokens, rows.num_slots);
  args.rows = rows.Next();
  return {CostOfSets(args, batch, num_tokens), [&in, args, rows]() mutable {
            args.rows = rows.Next();
            return in.backend().Learner(args);
          }};
}

PreparedOp PrepareLearnerOfProjections(OpInputs& in, const ModelSizes& m,
                                       bool is_mlp, int32_t batch) {
  SequenceSets rows = SetsOfStates(in, m, is_mlp, batch, 1);
  LearnerOfProjectionsArgs args = {
      MakeLearnerInputs(in, m, batch, rows.num_slots),
      MakeLearner(in, m, is_mlp, batch, rows.num_slots)};
  args.learner.queries = args.inputs.queries;
  args.learner.keys = args.inputs.keys;
  args.learner.targets = args.inputs.targets;
  args.learner.rates = args.inputs.rates;
  // As small as those that MakeLearner has.
  args.inputs.base_lr = 1e-5f;
  args.inputs.rows = args.learner.rows = rows.Next();
  OpCost cost = CostOf(args.inputs);
  cost += CostOfSets(args.learner, batch, 1);
  return {cost, [&in, args, rows]() mutable {
            args.inputs.rows = args.learner.rows = rows.Next();
            return in.backend().LearnerOfProjections(args);
          }};
}

PreparedOp PrepareNormGate(OpInputs& in, const ModelSizes& m, int32_t n) {
  const int64_t size = int64_t{n} * m.hidden_size;
  const NormGateArgs args = {.input = in.Floats(size),
                             .weight = in.Floats(m.hidden_size),
                             .bias = in.Floats(m.hidden_size),
                             .gate = in.Floats(size),
                             .gate_stride = m.hidden_size,
                             .output = in.Operands(size),
                             .num_rows = n,
                             .hidden_size = m.hidden_size};
  return {CostOf(args), [&in, args] { return in.backend().NormGate(args); }};
}

PreparedOp PrepareSwiGlu(OpInputs& in, const ModelSizes& m, int32_t n) {
  const SwiGluArgs args = {.gate_up = in.Floats(int64_t{2} * n * m.inner),
                           .output = in.Operands(int64_t{n} * m.inner),
                           .num_rows = n,
                           .inner = m.inner};
  return {CostOf(args), [&in, args] { return in.backend().SwiGlu(args); }};
}

PreparedOp PrepareGemm(OpInputs& in, int32_t num_outputs, int32_t num_inputs,
                       int32_t n) {
  std::vector<const GemmWeights*> sets = {in.Weights(num_outputs, num_inputs)};
  const int64_t num_sets =
      std::clamp<int64_t>(kSetsBytes / sets[0]->bytes(), 1, 32);
  while (static_cast<int64_t>(sets.size()) < num_sets) {
    sets.push_back(in.Weights(num_outputs, num_inputs));
  }
  GemmArgs args = {.input = in.Operands(int64_t{n} * num_inputs),
                   .weights = sets[0],
                   .output = in.Zeros(int64_t{n} * num_outputs),
                   .output_stride = num_outputs,
                   .num_rows = n,
                   .accumulate = false};
  return {CostOf(args), [&in, args, sets, next = size_t{0}]() mutable {
            next = (next + 1) % sets.size();
            args.weights = sets[next];
            return in.backend().Gemm(args);
          }};
}

PreparedOp PrepareGemmSwiGlu(OpInputs& in, const ModelSizes& m, int32_t n) {
  std::vector<const GemmWeights*> sets = {in.GateUp(m.inner, m.hidden_size)};
  const int64_t num_sets =
      std::clamp<int64_t>(kSetsBytes / sets[0]->bytes(), 1, 32);
  while (static_cast<int64_t>(sets.size()) < num_sets) {
    sets.push_back(in.GateUp(m.inner, m.hidden_size));
  }
  GemmSwiGluArgs args = {
      .input = in.Operands(int64_t{n} * m.hidden_size),
      .weights = sets[0],
      .scratch = in.Zeros(int64_t{n} * 2 * m.inner),
      .output = {in.Zeros(int64_t{n} * m.inner), in.backend().operand_type()},
      .num_rows = n};
  return {CostOf(args), [&in, args, sets, next = size_t{0}]() mutable {
            next = (next + 1) % sets.size();
            args.weights = sets[next];
            return in.backend().GemmSwiGlu(args);
          }};
}

PreparedOp PrepareSaveHidden(OpInputs& in, const ModelSizes& m, int32_t n) {
  SequenceSets rows = SetsOfRows(in, n, m.hidden_size * sizeof(float));
  const SaveHiddenArgs args = {
      .rows = rows.Next(),
      .hidden = in.Floats(int64_t{n} * m.hidden_size),
      .last_hidden = in.Plane(rows.num_slots, m.hidden_size),
      .finite = in.Upload(std::vector<uint8_t>(n)),
      .hidden_size = m.hidden_size};
  return {CostOf(args), [&in, args] { return in.backend().SaveHidden(args); }};
}

PreparedOp PrepareGatherHidden(OpInputs& in, const ModelSizes& m, int32_t n) {
  std::vector<int32_t> rows(n);
  for (int32_t i = 0; i < n; ++i) rows[i] = i;
  const GatherHiddenArgs args = {
      .hidden = in.Floats(int64_t{n} * m.hidden_size),
      .last_hidden = in.Plane(1, m.hidden_size),
      .rows = in.Upload(rows),
      .slots = in.Upload(std::vector<int32_t>(n)),
      .output = in.Floats(int64_t{n} * m.hidden_size),
      .num_rows = n,
      .hidden_size = m.hidden_size};
  return {CostOf(args),
          [&in, args] { return in.backend().GatherHidden(args); }};
}

struct Sampler {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};

PreparedOp PrepareSampleTokens(OpInputs& in, const ModelSizes& m, int32_t n,
                               const Sampler& sampler) {
  constexpr int32_t kCandidates = 1;
  const SampleRow row = {.given_token = kSampleToken,
                         .slot = -1,
                         .position = 1,
                         .seed = 1,
                         .temperature = sampler.temperature,
                         .top_k = sampler.top_k,
                         .top_p = sampler.top_p,
                         .min_p = sampler.min_p,
                         .repetition_penalty = 1,
                         .presence_penalty = 0,
                         .frequency_penalty = 0,
                         .bias_begin = 0,
                         .bias_end = 0,
                         .num_candidates = 0};
  const SampleTokensArgs args = {
      .logits = in.Floats(int64_t{n} * m.vocab_size, 8.0f),
      .samples = in.Upload(std::vector<SampleRow>(n, row)),
      .bias_ids = nullptr,
      .bias_values = nullptr,
      .ring = in.Plane(1, kTokenRingSize),
      .token_ids = in.Upload(std::vector<int32_t>(n)),
      .logprobs = in.Floats(n),
      .candidate_ids = in.Upload(std::vector<int32_t>(n)),
      .candidate_logprobs = in.Floats(n),
      .finite = in.Upload(std::vector<uint8_t>(n)),
      .num_rows = n,
      .vocab_size = m.vocab_size,
      .max_candidates = kCandidates};
  return {CostOf(args),
          [&in, args] { return in.backend().SampleTokens(args); }};
}

// Whole states of the linear 125m, 12 layers.
PreparedOp PrepareDigestStates(OpInputs& in, const ModelSizes& m, int32_t n) {
  struct Host {
    std::vector<int32_t> slot_ids;
    std::vector<int64_t> positions;
    std::vector<DigestPlane> planes;
    std::vector<uint32_t> header = std::vector<uint32_t>(16, 1);
    std::vector<uint8_t> digests;
  };
  constexpr int64_t kLayers = 12;
  const int64_t words = kLayers * m.num_heads * m.head_dim * (m.head_dim + 1);
  const auto host = std::make_shared<Host>();
  host->planes = {{0, 1, words, words, false}};
  host->digests.resize(int64_t{n} * kDigestBytes);
  for (int32_t i = 0; i < n; ++i) {
    host->slot_ids.push_back(i);
    host->positions.push_back(31);
  }
  const DigestStatesArgs args = {.slots = in.Plane(n, words),
                                 .slot_ids = host->slot_ids.data(),
                                 .positions = host->positions.data(),
                                 .planes = host->planes.data(),
                                 .num_planes = 1,
                                 .header = host->header.data(),
                                 .header_words = 16,
                                 .digests = host->digests.data(),
                                 .finite = nullptr,
                                 .batch = n,
                                 .mini_batch = m.mini_batch};
  return {CostOf(args),
          [&in, args, host] { return in.backend().DigestStates(args); }};
}

// `n` states of the linear 125m, in turn, as a fork copies them.
PreparedOp PrepareCopy(OpInputs& in, int32_t n) {
  constexpr int64_t kStateBytes = 3739136;
  std::byte* const states =
      reinterpret_cast<std::byte*>(in.Floats(2 * n * kStateBytes / 4));
  return {{2.0 * n * kStateBytes, 0}, [&in, states, n] {
            absl::Status status;
            for (int32_t i = 0; i < n; ++i) {
              std::byte* const from = states + 2 * i * kStateBytes;
              status.Update(in.backend().CopyOnDevice(from + kStateBytes, from,
                                                      kStateBytes));
            }
            return status;
          }};
}

constexpr std::array<int32_t, 4> kRows = {1, 16, 64, 256};
constexpr int32_t kPrefillRows = 16 * kPromptRows;
constexpr std::array<int32_t, 6> kProductRows = {1, 16, 64, 256, 4096, 32768};

// Cases of one op for each number of rows and both sizes; with those of a
// prefill of the larger one.
template <typename Prepare>
std::vector<OpCase> ForSizes(OpKind kind, const Prepare& prepare) {
  std::vector<OpCase> cases;
  for (const ModelSizes& sizes : {k125m, k1300m}) {
    std::vector<int32_t> rows(kRows.begin(), kRows.end());
    if (sizes.name == k1300m.name) rows.push_back(kPrefillRows);
    for (const int32_t n : rows) {
      cases.push_back({kind,
                       absl::StrCat(OpName(kind), "/", sizes.name, "/", n),
                       [=](OpInputs& in) { return prepare(in, sizes, n); }});
    }
  }
  return cases;
}

std::vector<OpCase> LearnerCases() {
  struct Rows {
    int32_t batch;
    int32_t num_tokens;
  };
  std::vector<OpCase> cases;
  for (const bool is_mlp : {false, true}) {
    for (const ModelSizes& sizes : {k125m, k1300m}) {
      for (const Rows& rows :
           {Rows{1, 1}, Rows{16, 1}, Rows{64, 1}, Rows{256, 1}, Rows{1, 2048},
            Rows{16, 2048}, Rows{1, 32768}}) {
        const int32_t batch = rows.batch;
        const int32_t num_tokens = rows.num_tokens;
        std::string name = absl::StrCat("Learner/", sizes.name,
                                        is_mlp ? " mlp/" : " linear/", batch);
        if (num_tokens > 1) absl::StrAppend(&name, "x", num_tokens);
        // Of prompts the larger model will do; the smaller has fewer heads.
        if (num_tokens > 1 && sizes.num_heads == k125m.num_heads) continue;
        cases.push_back({OpKind::kLearner, name,
                         [=](OpInputs& in) {
                           return PrepareLearner(in, sizes, is_mlp, batch,
                                                 num_tokens);
                         },
                         num_tokens > 1 || (is_mlp && batch > 16)});
      }
    }
  }
  for (const bool is_mlp : {false, true}) {
    for (const ModelSizes& sizes : {k125m, k1300m}) {
      for (const int32_t n : kRows) {
        cases.push_back({OpKind::kLearner,
                         absl::StrCat("LearnerOfProjections/", sizes.name,
                                      is_mlp ? " mlp/" : " linear/", n),
                         [=](OpInputs& in) {
                           return PrepareLearnerOfProjections(in, sizes, is_mlp,
                                                              n);
                         },
                         is_mlp && n > 16});
      }
    }
  }
  return cases;
}

std::vector<OpCase> GemmCases() {
  struct Matrix {
    std::string name;
    int32_t num_outputs;
    int32_t num_inputs;
  };
  std::vector<Matrix> matrices;
  for (const ModelSizes& m : {k125m, k350m, k760m, k1300m}) {
    const int32_t hidden = m.hidden_size;
    // Queries and keys in one, values, gate, rates.
    matrices.push_back({absl::StrCat(m.name, " projections"),
                        3 * hidden + m.num_heads, hidden});
    matrices.push_back({absl::StrCat(m.name, " output"), hidden, hidden});
    matrices.push_back({absl::StrCat(m.name, " gate_up"), 2 * m.inner, hidden});
    matrices.push_back({absl::StrCat(m.name, " down"), hidden, m.inner});
    matrices.push_back({absl::StrCat(m.name, " head"), m.vocab_size, hidden});
  }
  std::vector<OpCase> cases;
  for (const Matrix& matrix : matrices) {
    for (const int32_t n : kProductRows) {
      const bool is_large = n > 256;
      if (is_large && matrix.num_outputs == k1300m.vocab_size) continue;
      cases.push_back(
          {OpKind::kGemm, absl::StrCat("Gemm/", matrix.name, "/", n),
           [=](OpInputs& in) {
             return PrepareGemm(in, matrix.num_outputs, matrix.num_inputs, n);
           },
           is_large});
    }
  }
  for (const ModelSizes& sizes : {k125m, k1300m}) {
    for (const int32_t n : kProductRows) {
      cases.push_back(
          {OpKind::kGemm, absl::StrCat("GemmSwiGlu/", sizes.name, "/", n),
           [=](OpInputs& in) { return PrepareGemmSwiGlu(in, sizes, n); },
           n > 256});
    }
  }
  return cases;
}

std::vector<OpCase> SampleCases() {
  std::vector<OpCase> cases;
  constexpr Sampler kSamplers[] = {
      {"greedy", 0.0f, 0, 1.0f, 0.0f},
      {"0.8", 0.8f, 0, 1.0f, 0.0f},
      {"0.8, top_p 0.95", 0.8f, 0, 0.95f, 0.0f},
      {"0.8, min_p 0.05", 0.8f, 0, 1.0f, 0.05f},
      {"0.8, top_k 40, top_p 0.95", 0.8f, 40, 0.95f, 0.0f}};
  for (const Sampler& sampler : kSamplers) {
    for (const int32_t n : kRows) {
      cases.push_back({OpKind::kSampleTokens,
                       absl::StrCat("SampleTokens/", sampler.name, "/", n),
                       [=](OpInputs& in) {
                         return PrepareSampleTokens(in, k125m, n, sampler);
                       }});
    }
  }
  return cases;
}

std::vector<OpCase> StateCases(OpKind kind) {
  std::vector<OpCase> cases;
  for (const int32_t n : {1, 16}) {
    cases.push_back({kind, absl::StrCat(OpName(kind), "/125m linear/", n),
                     [=](OpInputs& in) {
                       return kind == OpKind::kCopy
                                  ? PrepareCopy(in, n)
                                  : PrepareDigestStates(in, k125m, n);
                     }});
  }
  return cases;
}

}  // namespace

std::vector<OpCase> CasesOf(OpKind kind) {
  switch (kind) {
    case OpKind::kEndSequences:
      return ForSizes(kind, PrepareEndSequences);
    case OpKind::kEmbedTokens:
      return ForSizes(kind, PrepareEmbedTokens);
    case OpKind::kRmsNorm:
      return ForSizes(kind, PrepareRmsNorm);
    case OpKind::kConvNorm:
      return ForSizes(kind, PrepareConvNorm);
    case OpKind::kLearnerInputs:
      return ForSizes(kind, PrepareLearnerInputs);
    case OpKind::kLearner:
      return LearnerCases();
    case OpKind::kNormGate:
      return ForSizes(kind, PrepareNormGate);
    case OpKind::kSwiGlu:
      return ForSizes(kind, PrepareSwiGlu);
    case OpKind::kGemm:
      return GemmCases();
    case OpKind::kSaveHidden:
      return ForSizes(kind, PrepareSaveHidden);
    case OpKind::kGatherHidden:
      return ForSizes(kind, PrepareGatherHidden);
    case OpKind::kSampleTokens:
      return SampleCases();
    case OpKind::kDigestStates:
    case OpKind::kCopy:
      return StateCases(kind);
  }
  return {};
}

}  // namespace ttt
