#include "kernels/cpu/reference_ops.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/rows.h"

namespace ttt::reference {
namespace {

constexpr float kLayerNormEpsilon = 1e-6f;
constexpr float kGeluScale = 0.7978845608f;  // sqrt(2 / pi)

void Store(const Operand& operand, int64_t index, float value) {
  if (operand.type == DType::kFloat32) {
    static_cast<float*>(operand.data)[index] = value;
  } else {
    static_cast<uint16_t*>(operand.data)[index] = FloatToBFloat16(value);
  }
}

float Load(const Operand& operand, int64_t index) {
  if (operand.type == DType::kFloat32) {
    return static_cast<const float*>(operand.data)[index];
  }
  return BFloat16ToFloat(static_cast<const uint16_t*>(operand.data)[index]);
}

// The last inputs of a sequence before its rows of this step, and those rows.
struct ConvInput {
  const float* tail;   // [kernel - 1, width]
  const float* input;  // of the sequence's first row
  int64_t stride;      // of input, in floats
  int32_t width;
  int32_t kernel;

  // Channel `channel` of the sequence's row `row`, which may be as low as
  // 1 - kernel.
  float at(int32_t row, int32_t channel) const {
    if (row >= 0) return input[row * stride + channel];
    return tail[int64_t{row + kernel - 1} * width + channel];
  }
  float Convolve(const float* weight, const float* bias, int32_t row,
                 int32_t channel) const {
    float sum = bias[channel];
    for (int32_t j = 0; j < kernel; ++j) {
      sum += weight[int64_t{j} * width + channel] *
             at(row - kernel + 1 + j, channel);
    }
    return sum;
  }
  // The tail after num_rows rows.
  std::vector<float> NextTail(int32_t num_rows) const {
    std::vector<float> next(int64_t{kernel - 1} * width);
    for (int32_t j = 0; j < kernel - 1; ++j) {
      for (int32_t c = 0; c < width; ++c) {
        next[int64_t{j} * width + c] = at(num_rows - kernel + 1 + j, c);
      }
    }
    return next;
  }
};

// Rotates adjacent pairs of values[head_dim] in place.
void Rotate(const float* rope, int32_t head_dim, float* values) {
  for (int32_t i = 0; i < head_dim; i += 2) {
    const float cosine = rope[i];
    const float sine = rope[i + 1];
    const float even = values[i];
    const float odd = values[i + 1];
    values[i] = even * cosine - odd * sine;
    values[i + 1] = odd * cosine + even * sine;
  }
}

}  // namespace

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

float Gelu(float x) {
  return 0.5f * x *
         (1.0f + std::tanh(kGeluScale * (x + 0.044715f * x * x * x)));
}

float GeluDerivative(float x) {
  const float t = std::tanh(kGeluScale * x * (1.0f + 0.044715f * x * x));
  return 0.5f * x * (1.0f - t * t) * (kGeluScale + 0.1070322243f * x * x) +
         0.5f * (1.0f + t);
}

void RmsNorm(const RmsNormArgs& args) {
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* const input = args.input + row * args.hidden_size;
    float sum = 0.0f;
    for (int32_t c = 0; c < args.hidden_size; ++c) sum += input[c] * input[c];
    const float root = std::sqrt(sum / args.hidden_size + args.epsilon);
    for (int32_t c = 0; c < args.hidden_size; ++c) {
      Store(args.output, row * args.hidden_size + c,
            args.weight[c] * (input[c] / root));
    }
  }
}

void CausalConv(const CausalConvArgs& args) {
  const int32_t width = args.hidden_size;
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    const SequenceRows& sequence = args.rows.sequences[i];
    const int64_t first = int64_t{sequence.first_row} * width;
    float* const tail = SlotOf<float>(args.tail, sequence.slot);
    const ConvInput input = {tail, args.input + first, width, width,
                             args.kernel};
    for (int32_t row = 0; row < sequence.num_rows; ++row) {
      for (int32_t c = 0; c < width; ++c) {
        args.output[first + int64_t{row} * width + c] +=
            input.Convolve(args.weight, args.bias, row, c);
      }
    }
    const std::vector<float> next = input.NextTail(sequence.num_rows);
    std::memcpy(tail, next.data(), next.size() * sizeof(float));
  }
}

void LearnerInputs(const LearnerInputsArgs& args) {
  const bool share_qk = args.conv_q_weight != nullptr;
  const int32_t head_dim = args.head_dim;
  const int32_t width = args.num_heads * head_dim;
  auto* const queries = static_cast<float*>(args.queries.data);
  auto* const keys = static_cast<float*>(args.keys.data);
  auto* const targets = static_cast<float*>(args.targets.data);
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    const SequenceRows& sequence = args.rows.sequences[i];
    const float* const first =
        args.projections + sequence.first_row * args.row_stride;
    float* const tail =
        share_qk ? SlotOf<float>(args.tail, sequence.slot) : nullptr;
    const ConvInput shared = {tail, first + args.query_offset, args.row_stride,
                              width, args.kernel};
    for (int32_t row = 0; row < sequence.num_rows; ++row) {
      const float* const projection = first + row * args.row_stride;
      const int64_t out = int64_t{sequence.first_row + row} * width;
      for (int32_t c = 0; c < width; ++c) {
        queries[out + c] = share_qk ? shared.Convolve(args.conv_q_weight,
                                                      args.conv_q_bias, row, c)
                                    : projection[args.query_offset + c];
        keys[out + c] = share_qk ? shared.Convolve(args.conv_k_weight,
                                                   args.conv_k_bias, row, c)
                                 : projection[args.key_offset + c];
      }
      const int64_t phase = (sequence.position + row) % args.mini_batch;
      const float* const rope = args.rope + phase * head_dim;
      for (int32_t head = 0; head < args.num_heads; ++head) {
        Rotate(rope, head_dim, queries + out + head * head_dim);
        Rotate(rope, head_dim, keys + out + head * head_dim);
        const float logit = projection[args.rate_offset + head];
        args.rates[int64_t{sequence.first_row + row} * args.num_heads + head] =
            args.base_lr * Sigmoid(logit + args.rate_bias[head]) / head_dim;
      }
      for (int32_t c = 0; c < width; ++c) {
        targets[out + c] = projection[args.value_offset + c] - keys[out + c];
      }
    }
    if (!share_qk) continue;
    const std::vector<float> next = shared.NextTail(sequence.num_rows);
    std::memcpy(tail, next.data(), next.size() * sizeof(float));
  }
}

void NormGate(const NormGateArgs& args) {
  const int32_t size = args.hidden_size;
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* const input = args.input + row * size;
    float sum = 0.0f;
    for (int32_t c = 0; c < size; ++c) sum += input[c];
    const float mean = sum / size;
    float squares = 0.0f;
    for (int32_t c = 0; c < size; ++c) {
      squares += (input[c] - mean) * (input[c] - mean);
    }
    const float root = std::sqrt(squares / size + kLayerNormEpsilon);
    for (int32_t c = 0; c < size; ++c) {
      float value = args.weight[c] * ((input[c] - mean) / root) + args.bias[c];
      if (args.gate != nullptr) {
        value *= Gelu(args.gate[row * args.gate_stride + c]);
      }
      Store(args.output, row * size + c, value);
    }
  }
}

void SwiGlu(const SwiGluArgs& args) {
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* const gate = args.gate_up + row * 2 * args.inner;
    const float* const up = gate + args.inner;
    for (int32_t c = 0; c < args.inner; ++c) {
      Store(args.output, row * args.inner + c,
            gate[c] * Sigmoid(gate[c]) * up[c]);
    }
  }
}

void Gemm(const GemmArgs& args, const float* weights) {
  const int32_t num_inputs = args.weights->num_inputs();
  const int32_t num_outputs = args.weights->num_outputs();
  for (int64_t row = 0; row < args.num_rows; ++row) {
    for (int64_t n = 0; n < num_outputs; ++n) {
      float sum = 0.0f;
      for (int64_t k = 0; k < num_inputs; ++k) {
        sum += Load(args.input, row * num_inputs + k) *
               weights[n * num_inputs + k];
      }
      float& output = args.output[row * args.output_stride + n];
      output = args.accumulate ? output + sum : sum;
    }
  }
}

}  // namespace ttt::reference
