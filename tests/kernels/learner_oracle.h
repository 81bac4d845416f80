// The inner learner in double precision and in its primal form: specification
// section 5.2, one token at a time with gradient accumulators. It shares no
// formula with the ops, which use the dual form.
#pragma once

#include <cmath>
#include <vector>

namespace ttt {

// One head of one session.
class LearnerOracle {
 public:
  using Vector = std::vector<double>;

  // w1 [d, e], b1 [e], w2 [e, d], b2 [d]; without w2: linear, e = d.
  Vector w1, b1, w2, b2;
  Vector norm_weight, norm_bias;  // [d]
  Vector token_scale;             // [mini_batch]

  // Reads one token; returns z.
  Vector Next(const Vector& q, const Vector& k, const Vector& target,
              double rate) {
    if (grad_b1_.empty()) Clear();
    const bool is_mlp = !w2.empty();
    const Vector z1 = Affine(k, w1, b1);
    if (!is_mlp) {
      Accumulate(k, LossGradient(z1, target), rate, grad_w1_, grad_b1_);
    } else {
      Vector x2 = z1;
      for (double& x : x2) x = Gelu(x);
      const Vector g2 = LossGradient(Affine(x2, w2, b2), target);
      Vector g1(z1.size());
      for (size_t j = 0; j < g1.size(); ++j) {
        for (size_t i = 0; i < g2.size(); ++i) {
          g1[j] += g2[i] * w2[j * g2.size() + i];
        }
        // The derivative by differences: not the formula of the ops.
        const double h = 1e-5;
        g1[j] *= (Gelu(z1[j] + h) - Gelu(z1[j] - h)) / (2 * h);
      }
      Accumulate(x2, g2, rate, grad_w2_, grad_b2_);
      Accumulate(k, g1, rate, grad_w1_, grad_b1_);
    }
    const double tau = token_scale[slot_];
    Vector z =
        Affine(q, Adapted(w1, grad_w1_, tau), Adapted(b1, grad_b1_, tau));
    if (is_mlp) {
      for (double& x : z) x = Gelu(x);
      z = Affine(z, Adapted(w2, grad_w2_, tau), Adapted(b2, grad_b2_, tau));
    }
    Normalise(z);
    for (size_t i = 0; i < z.size(); ++i) {
      z[i] = q[i] + norm_weight[i] * z[i] + norm_bias[i];
    }
    if (++slot_ == token_scale.size()) {
      w1 = Adapted(w1, grad_w1_, tau);
      b1 = Adapted(b1, grad_b1_, tau);
      w2 = Adapted(w2, grad_w2_, tau);
      b2 = Adapted(b2, grad_b2_, tau);
      Clear();
    }
    return z;
  }

 private:
  static double Gelu(double x) {
    return 0.5 * x *
           (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  static Vector Affine(const Vector& x, const Vector& w, const Vector& b) {
    Vector y = b;
    for (size_t i = 0; i < x.size(); ++i) {
      for (size_t j = 0; j < y.size(); ++j) y[j] += x[i] * w[i * y.size() + j];
    }
    return y;
  }
  static double Normalise(Vector& z) {
    double mean = 0;
    for (const double x : z) mean += x / z.size();
    double variance = 0;
    for (const double x : z) variance += (x - mean) * (x - mean) / z.size();
    const double root = std::sqrt(variance + 1e-6);
    for (double& x : z) x = (x - mean) / root;
    return root;
  }
  Vector LossGradient(Vector z, const Vector& target) const {
    const double root = Normalise(z);
    Vector u(z.size());
    double sum_u = 0, sum_uz = 0;
    for (size_t i = 0; i < z.size(); ++i) {
      u[i] =
          (norm_weight[i] * z[i] + norm_bias[i] - target[i]) * norm_weight[i];
      sum_u += u[i];
      sum_uz += u[i] * z[i];
    }
    for (size_t i = 0; i < z.size(); ++i) {
      u[i] = (z.size() * u[i] - sum_u - z[i] * sum_uz) / (z.size() * root);
    }
    return u;
  }
  static void Accumulate(const Vector& input, const Vector& gradient,
                         double rate, Vector& w, Vector& b) {
    for (size_t j = 0; j < b.size(); ++j) {
      for (size_t i = 0; i < input.size(); ++i) {
        w[i * b.size() + j] += rate * input[i] * gradient[j];
      }
      b[j] += rate * gradient[j];
    }
  }
  static Vector Adapted(Vector w, const Vector& gradient, double tau) {
    for (size_t i = 0; i < w.size(); ++i) w[i] -= tau * gradient[i];
    return w;
  }
  void Clear() {
    slot_ = 0;
    grad_w1_.assign(w1.size(), 0);
    grad_b1_.assign(b1.size(), 0);
    grad_w2_.assign(w2.size(), 0);
    grad_b2_.assign(b2.size(), 0);
  }

  size_t slot_ = 0;
  Vector grad_w1_, grad_b1_, grad_w2_, grad_b2_;
};

}  // namespace ttt
