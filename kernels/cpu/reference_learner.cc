#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/rows.h"

namespace ttt::reference {
namespace {

constexpr float kLayerNormEpsilon = 1e-6f;

using Vector = std::vector<float>;

// x W + b with W [x.size(), num_outputs].
Vector Affine(const Vector& x, const float* weights, const float* bias,
              int32_t num_outputs) {
  Vector y(num_outputs);
  for (int32_t j = 0; j < num_outputs; ++j) {
    float sum = 0.0f;
    for (size_t i = 0; i < x.size(); ++i) {
      sum += x[i] * weights[i * num_outputs + j];
    }
    y[j] = sum + bias[j];
  }
  return y;
}

float Dot(const Vector& a, const Vector& b) {
  float sum = 0.0f;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Normalises z in place; returns sqrt(variance + epsilon).
float Normalise(Vector& z) {
  float sum = 0.0f;
  for (const float x : z) sum += x;
  const float mean = sum / z.size();
  float squares = 0.0f;
  for (const float x : z) squares += (x - mean) * (x - mean);
  const float root = std::sqrt(squares / z.size() + kLayerNormEpsilon);
  for (float& x : z) x = (x - mean) / root;
  return root;
}

// Of the loss 1/2 |LN(z) - target|^2 with respect to z. Section 5.1.
Vector LossGradient(Vector z, const float* target, const float* norm_weight,
                    const float* norm_bias) {
  const float root = Normalise(z);
  const size_t d = z.size();
  Vector u(d);
  float sum_u = 0.0f;
  float sum_uz = 0.0f;
  for (size_t i = 0; i < d; ++i) {
    u[i] = (norm_weight[i] * z[i] + norm_bias[i] - target[i]) * norm_weight[i];
    sum_u += u[i];
    sum_uz += u[i] * z[i];
  }
  for (size_t i = 0; i < d; ++i) {
    u[i] = (d * u[i] - sum_u - z[i] * sum_uz) / (d * root);
  }
  return u;
}

// One affine map of the learner, P, and what the rows of the mini-batch so far
// fed into it and found as gradients.
struct Layer {
  float* weights;  // [num_inputs, num_outputs]
  float* bias;     // [num_outputs]
  int32_t num_inputs;
  int32_t num_outputs;
  std::vector<Vector> inputs = {};     // of the keys
  std::vector<Vector> gradients = {};  // at P

  // What row t reads: x (W - tau G_W) + b - tau G_b, G over all rows so far.
  Vector Read(const Vector& x, const Vector& rates, float tau) const {
    Vector y = Affine(x, weights, bias, num_outputs);
    for (int32_t j = 0; j < num_outputs; ++j) {
      float sum = 0.0f;
      for (size_t s = 0; s < gradients.size(); ++s) {
        sum += rates[s] * (Dot(x, inputs[s]) + 1.0f) * gradients[s][j];
      }
      y[j] -= tau * sum;
    }
    return y;
  }

  void Commit(const Vector& rates, float tau) {
    for (int32_t j = 0; j < num_outputs; ++j) {
      for (int32_t i = 0; i < num_inputs; ++i) {
        float sum = 0.0f;
        for (size_t s = 0; s < gradients.size(); ++s) {
          sum += rates[s] * inputs[s][i] * gradients[s][j];
        }
        weights[int64_t{i} * num_outputs + j] -= tau * sum;
      }
      float sum = 0.0f;
      for (size_t s = 0; s < gradients.size(); ++s) {
        sum += rates[s] * gradients[s][j];
      }
      bias[j] -= tau * sum;
    }
    inputs.clear();
    gradients.clear();
  }
};

// One head of one session.
class Head {
 public:
  Head(const LearnerArgs& args, int32_t slot, int32_t head)
      : args_(args),
        norm_weight_(args.norm_weight + int64_t{head} * args.head_dim),
        norm_bias_(args.norm_bias + int64_t{head} * args.head_dim) {
    const int32_t d = args.head_dim;
    const int32_t inner = args.is_mlp ? 4 * d : d;
    first_ = {SlotOf<float>(args.w1, slot) + int64_t{head} * d * inner,
              SlotOf<float>(args.b1, slot) + int64_t{head} * inner, d, inner};
    if (!args.is_mlp) return;
    second_ = {SlotOf<float>(args.w2, slot) + int64_t{head} * inner * d,
               SlotOf<float>(args.b2, slot) + int64_t{head} * d, inner, d};
  }

  // Adds a row of the mini-batch: its gradients at P.
  void Learn(const float* key, const float* target, float rate) {
    const Vector k(key, key + args_.head_dim);
    Vector z = Affine(k, first_.weights, first_.bias, first_.num_outputs);
    first_.inputs.push_back(k);
    rates_.push_back(rate);
    if (!args_.is_mlp) {
      first_.gradients.push_back(
          LossGradient(z, target, norm_weight_, norm_bias_));
      return;
    }
    Vector inner = z;
    for (float& x : inner) x = Gelu(x);
    const Vector output =
        Affine(inner, second_.weights, second_.bias, second_.num_outputs);
    const Vector g2 = LossGradient(output, target, norm_weight_, norm_bias_);
    Vector g1(z.size());
    for (size_t j = 0; j < z.size(); ++j) {
      float sum = 0.0f;
      for (size_t i = 0; i < g2.size(); ++i) {
        sum += g2[i] * second_.weights[j * g2.size() + i];
      }
      g1[j] = sum * GeluDerivative(z[j]);
    }
    first_.gradients.push_back(g1);
    second_.inputs.push_back(inner);
    second_.gradients.push_back(g2);
  }

  // Reads with the rows learnt so far.
  void Read(const float* query, float tau, float* output) const {
    const Vector q(query, query + args_.head_dim);
    Vector z = first_.Read(q, rates_, tau);
    if (args_.is_mlp) {
      for (float& x : z) x = Gelu(x);
      z = second_.Read(z, rates_, tau);
    }
    Normalise(z);
    for (size_t i = 0; i < z.size(); ++i) {
      output[i] = q[i] + (norm_weight_[i] * z[i] + norm_bias_[i]);
    }
  }

  void Commit(float tau) {
    first_.Commit(rates_, tau);
    if (args_.is_mlp) second_.Commit(rates_, tau);
    rates_.clear();
  }

 private:
  const LearnerArgs& args_;
  const float* const norm_weight_;
  const float* const norm_bias_;
  Layer first_ = {};
  Layer second_ = {};
  Vector rates_;
};

void RunHead(const LearnerArgs& args, const SequenceRows& sequence,
             int32_t head_index) {
  const int32_t d = args.head_dim;
  const int32_t slot = sequence.slot;
  const int64_t pending = int64_t{head_index} * (args.mini_batch - 1);
  float* const pending_keys = SlotOf<float>(args.pending_keys, slot);
  float* const pending_targets = SlotOf<float>(args.pending_targets, slot);
  float* const pending_rates = SlotOf<float>(args.pending_rates, slot);
  const auto* const queries = static_cast<const float*>(args.queries.data);
  const auto* const keys = static_cast<const float*>(args.keys.data);
  const auto* const targets = static_cast<const float*>(args.targets.data);
  Head head(args, slot, head_index);
  const int64_t phase = sequence.position % args.mini_batch;
  for (int64_t s = pending; s < pending + phase; ++s) {
    head.Learn(pending_keys + s * d, pending_targets + s * d, pending_rates[s]);
  }
  for (int32_t row = 0; row < sequence.num_rows; ++row) {
    const int64_t index =
        int64_t{sequence.first_row + row} * args.num_heads + head_index;
    const int64_t t = (sequence.position + row) % args.mini_batch;
    head.Learn(keys + index * d, targets + index * d, args.rates[index]);
    head.Read(queries + index * d, args.token_scale[t],
              args.output + index * d);
    if (t == args.mini_batch - 1) {
      head.Commit(args.token_scale[t]);
      continue;
    }
    std::memcpy(pending_keys + (pending + t) * d, keys + index * d,
                d * sizeof(float));
    std::memcpy(pending_targets + (pending + t) * d, targets + index * d,
                d * sizeof(float));
    pending_rates[pending + t] = args.rates[index];
  }
}

}  // namespace

void Learner(const LearnerArgs& args) {
  for (int32_t i = 0; i < args.rows.batch; ++i) {
    for (int32_t head = 0; head < args.num_heads; ++head) {
      RunHead(args, args.rows.sequences[i], head);
    }
  }
}

}  // namespace ttt::reference
