#include "tests/bench/op_cost.h"

#include <algorithm>

namespace ttt {
namespace {

constexpr double kFloat = sizeof(float);

double OperandBytes(DType type) {
  return type == DType::kFloat32 ? sizeof(float) : sizeof(uint16_t);
}

// Of the rows of one sequence that fall into one mini-batch: `pending` of it
// came in earlier steps, `added` come now. For one head; see LearnerArgs.
OpCost MiniBatchCost(const LearnerArgs& args, double pending, double added) {
  const double d = args.head_dim;
  const double e = args.is_mlp ? 4 * d : d;
  const double rows = pending + added;
  const bool commits = rows == args.mini_batch;
  const double value = OperandBytes(args.keys.type);
  // Pairs (s, t), s <= t, of a new row t.
  const double pairs = rows * (rows + 1) / 2 - pending * (pending + 1) / 2;
  const double matrices = args.is_mlp ? 2 : 1;
  OpCost cost;
  // Keys and queries by w1; for a pair a score and its share of a gradient.
  cost.flops = 2 * d * e * (rows + added) + 2 * (d + e) * pairs;
  if (args.is_mlp) {
    // The same by w2, and the gradients back through it. A gelu is about 20.
    cost.flops *= 2;
    cost.flops += 2 * d * e * rows + 20 * e * (rows + added);
  }
  cost.flops += 20 * d * (rows + added);  // layer norms
  if (commits) cost.flops += matrices * 2 * d * e * rows;
  // Keys, targets and rates: read; those of this step come from memory as well
  // and, unless it commits, go there. Queries in, outputs out.
  cost.bytes = (2 * d * value + kFloat) * (rows + (commits ? 0 : added));
  cost.bytes += (value + kFloat) * d * added;
  return cost;
}

// The fast weights of one head, which a step reads once, and writes if it
// commits. Beside rows of bfloat16 stand split matrices, whose low halves a
// commit alone needs.
double FastWeightsBytes(const LearnerArgs& args, bool commits) {
  const double d = args.head_dim;
  const double e = args.is_mlp ? 4 * d : d;
  const double matrices = (args.is_mlp ? 2 : 1) * d * e;
  const double biases = args.is_mlp ? e + d : d;
  const bool is_split = args.keys.type == DType::kBFloat16;
  const double read = matrices * (is_split && !commits ? kFloat / 2 : kFloat);
  const double written = commits ? (matrices + biases) * kFloat : 0;
  return read + biases * kFloat + written;
}

}  // namespace

// Of sequences that go on.
OpCost CostOf(const EndSequencesArgs& args) {
  return {double(args.batch) * (sizeof(int32_t) + sizeof(uint8_t)), 0};
}

OpCost CostOf(const EmbedTokensArgs& args) {
  const double elements = double(args.rows.num_rows) * args.hidden_size;
  return {elements * (OperandBytes(args.table.type) + kFloat), 0};
}

OpCost CostOf(const RmsNormArgs& args) {
  const double elements = double(args.num_rows) * args.hidden_size;
  return {elements * (kFloat + OperandBytes(args.output.type)) +
              args.hidden_size * kFloat,
          4 * elements};
}

OpCost CostOf(const ConvNormArgs& args) {
  const double elements = double(args.rows.num_rows) * args.hidden_size;
  const double tails =
      2.0 * args.rows.batch * (args.kernel - 1) * args.hidden_size;
  const double weights = double(args.kernel + 3) * args.hidden_size;
  return {(2 * elements + tails + weights) * kFloat +
              elements * OperandBytes(args.output.type),
          (2 * args.kernel + 10) * elements};
}

OpCost CostOf(const LearnerInputsArgs& args) {
  const double width = double(args.num_heads) * args.head_dim;
  const double elements = args.rows.num_rows * width;
  const bool share_qk = args.conv_q_weight != nullptr;
  double floats =
      (share_qk ? 2 : 3) * elements + 2.0 * args.rows.num_rows * args.num_heads;
  double flops = 7 * elements;  // rotations of q and k, target
  if (share_qk) {
    floats += 2.0 * args.rows.batch * (args.kernel - 1) * width +
              2.0 * (args.kernel + 1) * width;
    flops += 2 * (2 * args.kernel + 1) * elements;
  }
  const double written = 3 * elements * OperandBytes(args.queries.type);
  return {floats * kFloat + written, flops};
}

OpCost CostOf(const LearnerArgs& args,
              absl::Span<const SequenceRows> sequences) {
  OpCost head;
  for (const SequenceRows& sequence : sequences) {
    if (sequence.num_rows == 0) continue;
    int64_t position = sequence.position;
    const int64_t begin = position % args.mini_batch;
    head.bytes +=
        FastWeightsBytes(args, begin + sequence.num_rows >= args.mini_batch);
    for (int64_t left = sequence.num_rows; left > 0;) {
      const int64_t pending = position % args.mini_batch;
      const int64_t added = std::min(left, args.mini_batch - pending);
      head += MiniBatchCost(args, double(pending), double(added));
      position += added;
      left -= added;
    }
  }
  return {head.bytes * args.num_heads, head.flops * args.num_heads};
}

OpCost CostOf(const NormGateArgs& args) {
  const double elements = double(args.num_rows) * args.hidden_size;
  const bool has_gate = args.gate != nullptr;
  return {elements * ((has_gate ? 2 : 1) * kFloat +
                      OperandBytes(args.output.type)) +
              2 * args.hidden_size * kFloat,
          elements * (has_gate ? 28 : 8)};
}

OpCost CostOf(const SwiGluArgs& args) {
  const double elements = double(args.num_rows) * args.inner;
  return {elements * (2 * kFloat + OperandBytes(args.output.type)),
          5 * elements};
}

OpCost CostOf(const GemmArgs& args) {
  const double rows = args.num_rows;
  const double inputs = args.weights->num_inputs();
  const double outputs = args.weights->num_outputs();
  return {double(args.weights->bytes()) +
              rows * inputs * OperandBytes(args.input.type) +
              rows * outputs * kFloat * (args.accumulate ? 2 : 1),
          2 * rows * inputs * outputs};
}

OpCost CostOf(const GemmSwiGluArgs& args) {
  const double rows = args.num_rows;
  const double inputs = args.weights->num_inputs();
  const double outputs = args.weights->num_outputs();
  return {double(args.weights->bytes()) +
              rows * inputs * OperandBytes(args.input.type) +
              rows * outputs / 2 * OperandBytes(args.output.type),
          2 * rows * inputs * outputs + 5 * rows * outputs / 2};
}

OpCost CostOf(const SaveHiddenArgs& args) {
  return {2.0 * args.rows.batch * args.hidden_size * kFloat,
          double(args.rows.batch) * args.hidden_size};
}

OpCost CostOf(const GatherHiddenArgs& args) {
  return {2.0 * args.num_rows * args.hidden_size * kFloat, 0};
}

OpCost CostOf(const SampleTokensArgs& args) {
  const double logits = double(args.num_rows) * args.vocab_size;
  return {2 * logits * kFloat, 4 * logits};
}

OpCost CostOf(const DigestStatesArgs& args) {
  double words = 0;
  for (int32_t i = 0; i < args.batch; ++i) {
    for (int32_t p = 0; p < args.num_planes; ++p) {
      const DigestPlane& plane = args.planes[p];
      const int64_t rows =
          plane.is_pending ? args.positions[i] % args.mini_batch : 1;
      words += double(plane.count) * double(plane.words) * double(rows);
    }
  }
  return {words * sizeof(uint32_t), 0};
}

}  // namespace ttt
