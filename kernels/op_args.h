// What each op of a backend computes, on which shapes.
//
// Section numbers refer to the model specification, spec/TTT_MODEL.md of the
// published TTT language models (arXiv:2407.04620). All arrays are device
// memory, row-major, last index fastest. `num_rows` counts the tokens of a step
// over all its sequences; `batch` counts the sequences. Row results never
// depend on what other rows are in the step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ttt {

inline constexpr int kMaxMiniBatch = 16;
inline constexpr int kMaxConvKernel = 8;
inline constexpr int kTokenRingSize = 1024;  // ids kept for penalties
inline constexpr int kDigestBytes = 32;

enum class DType : uint8_t { kFloat32, kBFloat16 };

// Input of a matrix product: float32, or bfloat16 rounded to nearest even.
struct Operand {
  void* data;
  DType type;
};

// How the float32 matrices of the fast weights stand in a slot. Either way a
// matrix of n values takes 4 n bytes.
enum class FastWeightsForm : uint8_t {
  kFloat32,  // row-major
  // Each head's matrix as n high halves, row-major, and then n low halves, so
  // that the high ones alone are a matrix of bfloat16 (state_forms.h).
  kSplit,
};

// How a backend keeps what its learner reads and writes.
struct StateForms {
  FastWeightsForm fast_weights = FastWeightsForm::kFloat32;
  // Of queries, keys and targets, and of the pending ones of a slot.
  DType rows = DType::kFloat32;
};

// How the 32-bit words of a plane stand in a slot.
enum class PlaneForm : uint8_t {
  kWords,     // as they are
  kSplit,     // matrices of float32, each as FastWeightsForm::kSplit
  kBFloat16,  // float32 of which the low halves are zero: the high halves
};

// One part of the state of all slots. Slot s begins at base + s * slot_stride.
struct StatePlane {
  std::byte* base;
  int64_t slot_stride;  // in bytes
};

// The rows that one sequence has in a step: consecutive tokens of one session.
struct SequenceRows {
  int32_t first_row;  // in [0, num_rows]
  int32_t num_rows;   // >= 0
  int32_t slot;       // of its state; no two sequences of a step share one
  int64_t position;   // >= 0, tokens of the session before the first row
};

// A line of a GPU's caches. What begins within one takes longer to read and
// write, as measured (tests/bench/TRIED.md).
inline constexpr int64_t kLineBytes = 128;
// Rounded up to lines.
constexpr int64_t WholeLines(int64_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

// The sequences of a step. Their rows are disjoint and cover [0, num_rows), but
// for the row of a sequence that has ended: its own num_rows is 0, so that no
// op touches its state, and what an op puts out of the row means nothing. No op
// of the step writes these arrays but EndSequences, its first.
struct StepRows {
  const SequenceRows* sequences;  // [batch]
  const int32_t* row_sequence;    // [num_rows], the index of each row's own
  int32_t batch;                  // >= 0; 0 does nothing
  int32_t num_rows;               // >= 0
};

// A weight matrix [num_outputs, num_inputs] in the form that a backend's Gemm
// wants. Made by Backend::PackWeights.
class GemmWeights {
 public:
  virtual ~GemmWeights() = default;
  virtual int64_t bytes() const = 0;
  virtual int32_t num_outputs() const = 0;
  virtual int32_t num_inputs() const = 0;
};

// Takes the rows of sequences that EmbedTokens of the step before told to have
// ended, where the host did not know.
struct EndSequencesArgs {
  SequenceRows* sequences;  // [batch] in/out: num_rows becomes 0
  const int32_t* before;    // [batch] the place of each in `ended`, or -1: it
                            // has not ended
  const uint8_t* ended;     // [..]
  int32_t batch;            // >= 0
};

// hidden[r] = table[the id of row r]; and writes each id into its session's
// ring at place position % kTokenRingSize. See TokenOfRow.
//
// Of steps that are begun one behind the other, unseen: also tells which
// sequences have ended, as their row reads one of their stop ids, or as they
// have none; and takes the rows of these in the next step.
struct EmbedTokensArgs {
  StepRows rows;
  const int32_t* token_ids;   // [num_rows], each < vocab_size
  const int32_t* chosen_ids;  // [..]; null if no id of token_ids is negative
  Operand table;              // [vocab_size, hidden_size]
  float* hidden;              // [num_rows, hidden_size] out
  StatePlane ring;            // int32 [kTokenRingSize] a slot, in/out
  int32_t vocab_size;         // > 0
  int32_t hidden_size;        // > 0
  uint8_t* ended;  // [batch] out, row i being of sequence i; null: nobody asks,
                   // and what follows is not read
  // Of sequence i the ids from stop_begin[i] to before stop_begin[i + 1].
  const int32_t* stop_begin;     // [batch + 1]
  const int32_t* stop_ids;       // flat
  SequenceRows* next_sequences;  // [batch] in/out: num_rows; null: no next step
};

// The id that a row reads: its own, or where that is negative, -1 - id is the
// place in chosen_ids of one that the device chose before. What is no id there,
// of a row that was not finite, is read as 0.
constexpr int32_t TokenOfRow(const EmbedTokensArgs& args, int64_t row) {
  const int32_t id = args.token_ids[row];
  if (id >= 0) return id;
  const int32_t chosen = args.chosen_ids[-1 - id];
  return chosen >= 0 && chosen < args.vocab_size ? chosen : 0;
}

// output[r] = weight * input[r] / sqrt(mean(input[r]^2) + epsilon). Section 4.
struct RmsNormArgs {
  const float* input;   // [num_rows, hidden_size]
  const float* weight;  // [hidden_size]
  Operand output;       // [num_rows, hidden_size] out
  int32_t num_rows;     // >= 0
  int32_t hidden_size;  // > 0
  float epsilon;        // >= 0
};

// The head of a layer that begins with a convolution:
//     sum[r] = input[r] + conv(u)[r],  u = RmsNorm(input; conv_norm_weight)
//     output[r] = RmsNorm(sum[r]; norm_weight)
// The convolution is causal, depthwise and carries its history:
//     conv(u)[p, c] = bias[c] + sum_j weight[j, c] * u[p - K + 1 + j, c]
// with p the row's place in the session and u zero before its start. Section 4.
// Leaves the last K - 1 of u in `tail`.
struct ConvNormArgs {
  StepRows rows;
  float* input;                   // [num_rows, hidden_size]; left undefined
  const float* conv_norm_weight;  // [hidden_size]
  const float* weight;  // [kernel, hidden_size], tap kernel - 1 is the newest
  const float* bias;    // [hidden_size]
  StatePlane tail;      // float [kernel - 1, hidden_size] a slot, in/out
  float* sum;           // [num_rows, hidden_size] out; not the input
  const float* norm_weight;  // [hidden_size]
  Operand output;            // [num_rows, hidden_size] out
  int32_t hidden_size;       // > 0
  int32_t kernel;            // in [2, kMaxConvKernel]
  float epsilon;             // of both norms, >= 0
};

// From the projections of a TTT layer's input to what the learner reads.
// Sections 5.1 to 5.3: with share_qk both convolutions of the shared
// projection, RoPE on adjacent pairs of queries and keys at position %
// mini_batch, the target v - k, and the rates base_lr * sigmoid(logit + bias) /
// head_dim.
struct LearnerInputsArgs {
  StepRows rows;
  // A row of `projections` holds at these offsets: queries (or the shared
  // projection), keys (unless shared), values, and a rate logit a head.
  const float* projections;  // [num_rows, row_stride]
  int64_t row_stride;        // in floats
  int32_t query_offset;
  int32_t key_offset;  // unread with share_qk
  int32_t value_offset;
  int32_t rate_offset;
  const float* conv_q_weight;  // [kernel, hidden_size], or null: no share_qk
  const float* conv_q_bias;    // [hidden_size], or null
  const float* conv_k_weight;  // as conv_q_weight
  const float* conv_k_bias;
  StatePlane tail;         // float [kernel - 1, hidden_size] a slot, in/out;
                           // unread without share_qk
  const float* rate_bias;  // [num_heads]
  const float* rope;       // [mini_batch, head_dim / 2, 2] cosine, sine
  // Of the type that Backend::state_forms has of rows: rounded here and, the
  // targets being of keys not yet rounded, nowhere before.
  Operand queries;     // [num_rows, num_heads, head_dim] out
  Operand keys;        // [num_rows, num_heads, head_dim] out
  Operand targets;     // [num_rows, num_heads, head_dim] out, v - k
  float* rates;        // [num_rows, num_heads] out
  int32_t num_heads;   // > 0
  int32_t head_dim;    // 32, 64 or 96
  int32_t mini_batch;  // in [1, kMaxMiniBatch]
  int32_t kernel;      // in [2, kMaxConvKernel]
  float base_lr;       // >= 0
};

// The inner learner: reads its rows with weights that every token adapts, and
// commits a gradient step at the end of each mini-batch. Sections 5.1 to 5.3,
// in the dual form over the pending rows: no gradient accumulator. For each
// head, with P the fast weights at the start of the mini-batch, rows s = 0..t
// of it and g_s the gradient of row s at P:
//     linear: z_t = q_t W + b - tau_t sum_{s<=t} lr_s (q_t . k_s + 1) g_s
//     mlp:    as spec 5.3, for both layers
//     output_t = q_t + LN(z_t)
//     at t = mini_batch - 1: P <- P - tau_t sum_s lr_s (input_s^T g_s, g_s)
// The pending rows (k, v - k, lr) of an unfinished mini-batch stay in the slot.
// Accumulates in float32, over s and over channels in rising order.
struct LearnerArgs {
  StepRows rows;
  // Of the type that Backend::state_forms has of rows.
  Operand queries;           // [num_rows, num_heads, head_dim], rotated
  Operand keys;              // [num_rows, num_heads, head_dim], rotated
  Operand targets;           // [num_rows, num_heads, head_dim], v - k
  const float* rates;        // [num_rows, num_heads]
  const float* token_scale;  // [mini_batch], tau >= 0
  const float* norm_weight;  // [num_heads, head_dim]
  const float* norm_bias;    // [num_heads, head_dim]
  // Fast weights a slot; w1 [num_heads, head_dim, inner], b1 [num_heads, inner]
  // with inner = head_dim (linear) or 4 * head_dim (mlp); w2 [num_heads, inner,
  // head_dim], b2 [num_heads, head_dim], unread when linear. Matrices are in
  // the backend's form, biases float32.
  StatePlane w1, b1, w2, b2;
  // Pending rows a slot: [num_heads, mini_batch - 1, head_dim] twice, of the
  // type of the rows, and float [num_heads, mini_batch - 1]. The first
  // position % mini_batch are valid.
  StatePlane pending_keys, pending_targets, pending_rates;
  float* output;  // [num_rows, num_heads, head_dim] out
  bool is_mlp;
  int32_t num_heads;   // > 0
  int32_t head_dim;    // 32, 64 or 96
  int32_t mini_batch;  // in [1, kMaxMiniBatch]
};

// Both of the above in one: `learner` is of the rows, and of the arrays, that
// `inputs` makes, with the same bits. What these arrays hold after it is not
// said: a backend may do without them.
struct LearnerOfProjectionsArgs {
  LearnerInputsArgs inputs;
  LearnerArgs learner;
};

// output[r] = LN(input[r]; weight, bias) * gelu(gate[r]), over all channels;
// without a gate the first factor alone. Section 5, steps 6 and 7.
struct NormGateArgs {
  const float* input;   // [num_rows, hidden_size]
  const float* weight;  // [hidden_size]
  const float* bias;    // [hidden_size]
  const float* gate;    // [num_rows, gate_stride], or null
  int64_t gate_stride;  // in floats
  Operand output;       // [num_rows, hidden_size] out
  int32_t num_rows;     // >= 0
  int32_t hidden_size;  // > 0
};

// output[r] = silu(gate_up[r, :inner]) * gate_up[r, inner:]. Section 4.
struct SwiGluArgs {
  const float* gate_up;  // [num_rows, 2 * inner]
  Operand output;        // [num_rows, inner] out
  int32_t num_rows;      // >= 0
  int32_t inner;         // > 0
};

// output[r] = input[r] * weights^T, or output[r] += it. A row has the same bits
// for every num_rows and every number of threads. Accumulates in float32.
struct GemmArgs {
  Operand input;               // [num_rows, num_inputs], type as the weights'
  const GemmWeights* weights;  // [num_outputs, num_inputs]
  float* output;               // [num_rows, output_stride] out, or in/out
  int64_t output_stride;       // in floats, >= num_outputs
  int32_t num_rows;            // >= 0
  bool accumulate;
};

// output[r] = silu(g) * u, with g and u the halves of input[r] * weights^T:
// both of the above in one. A row has the bits that Gemm and then SwiGlu give
// it.
struct GemmSwiGluArgs {
  Operand input;               // [num_rows, num_inputs]
  const GemmWeights* weights;  // [2 * inner, num_inputs], of PackGateUp
  float* scratch;              // [num_rows, 2 * inner], for backends in need
  Operand output;              // [num_rows, inner] out; not where input is
  int32_t num_rows;            // >= 0
};

// Keeps the last row's hidden vector of each sequence that has rows in its
// slot, and tells whether all of it is finite.
struct SaveHiddenArgs {
  StepRows rows;
  const float* hidden;     // [num_rows, hidden_size]
  StatePlane last_hidden;  // float [hidden_size] a slot, out
  uint8_t* finite;         // [batch] out; 1 for a sequence without rows
  int32_t hidden_size;     // > 0
};

// Copies the hidden vectors that logits are wanted of: row rows[i] of this
// step, or, where rows[i] < 0, the one kept in slot slots[i].
struct GatherHiddenArgs {
  const float* hidden;     // [.., hidden_size]
  StatePlane last_hidden;  // float [hidden_size] a slot
  const int32_t* rows;     // [num_rows]
  const int32_t* slots;    // [num_rows]
  float* output;           // [num_rows, hidden_size] out
  int32_t num_rows;        // >= 0
  int32_t hidden_size;     // > 0
};

inline constexpr int kMaxSampleBias = 1024;  // entries a row

inline constexpr int32_t kSampleToken = -1;  // draw one
inline constexpr int32_t kNoToken = -2;      // report candidates only

// How the token after one logits row is chosen, and what is reported of it.
struct SampleRow {
  int32_t given_token;  // kSampleToken, kNoToken, or the id to report on
  int32_t slot;         // whose ring the penalties count; -1: none
  int64_t position;     // tokens of the session up to here; index of the token
                        // that is chosen, and the generator's counter
  uint64_t seed;
  float temperature;         // >= 0; 0 is greedy, ties to the lowest id
  int32_t top_k;             // >= 0; 0 is off
  float top_p;               // (0, 1]
  float min_p;               // [0, 1]
  float repetition_penalty;  // > 0; 1 is off
  float presence_penalty;
  float frequency_penalty;
  int32_t bias_begin;      // of this row in bias_ids and bias_values
  int32_t bias_end;        // at most kMaxSampleBias after it
  int32_t num_candidates;  // in [0, max_candidates]
};

// Chooses the next token of each row. Order: bias, penalties over the last
// kTokenRingSize tokens of the session, temperature, top_k, top_p, min_p, draw
// by a counter-based generator of (seed, position). A log-probability is that
// of the model's own distribution: log-softmax of the logits before any of
// these. cpu/sample_tokens.h has the algorithm to the last tie.
struct SampleTokensArgs {
  float* logits;              // [num_rows, vocab_size]; of a row that draws,
                              // left undefined
  const SampleRow* samples;   // [num_rows]
  const int32_t* bias_ids;    // flat, each in [0, vocab_size)
  const float* bias_values;   // flat
  StatePlane ring;            // int32 [kTokenRingSize] a slot
  int32_t* token_ids;         // [num_rows] out; kNoToken where none is wanted
  float* logprobs;            // [num_rows] out; 0 where none is wanted
  int32_t* candidate_ids;     // [num_rows, max_candidates] out, best first,
                              // ties to the lowest id; num_candidates of
                              // each row are written
  float* candidate_logprobs;  // [num_rows, max_candidates] out
  uint8_t* finite;            // [num_rows] out; 0: a logit is NaN or infinite,
                              // and nothing else of the row is valid
  int32_t num_rows;           // >= 0
  int32_t vocab_size;         // > 0
  int32_t max_candidates;     // in [0, vocab_size]
};

// A run of 32-bit words of every slot that goes into its digest: `count` runs
// of `words` words, `stride` words apart, of which pending planes give only the
// rows that are valid. All are counted in words, whatever the form.
struct DigestPlane {
  int64_t offset_bytes;  // within the slot
  int64_t count;         // >= 0
  int64_t stride;        // in words
  int64_t words;         // a run; with is_pending, a pending row
  bool is_pending;       // take position % mini_batch rows of each run
  PlaneForm form = PlaneForm::kWords;
  int64_t matrix_words = 0;  // of kSplit: a multiple of 64, > 0
};

// A 32-byte digest of each slot's canonical words: the planes in order, then
// the words of `header`, and the position. Same bits on every backend; see
// digest.h. Only the slots are device memory; the rest is the host's, and the
// digests are there on return.
struct DigestStatesArgs {
  StatePlane slots;           // whole slots
  const int32_t* slot_ids;    // [batch]
  const int64_t* positions;   // [batch]
  const DigestPlane* planes;  // [num_planes]
  int32_t num_planes;
  const uint32_t* header;  // [header_words], the same for all
  int32_t header_words;
  uint8_t* digests;  // [batch, kDigestBytes] out
  uint8_t* finite;   // [batch] out: 0 if a word of the planes, as a float32, is
                     // NaN or infinite; or null
  int32_t batch;     // >= 0
  int32_t mini_batch;  // in [1, kMaxMiniBatch]
};

}  // namespace ttt
