// Arrays in device memory for benchmarks of ops.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "server/base/check.h"

namespace ttt {

// Sizes of a published model.
struct ModelSizes {
  const char* name;
  int32_t hidden_size;
  int32_t inner;  // of the feed-forward network
  int32_t num_heads;
  int32_t vocab_size = 32000;
  int32_t head_dim = 64;
  int32_t mini_batch = 16;
  int32_t conv_kernel = 4;
};
inline constexpr ModelSizes k125m = {"125m", 768, 2048, 12};
inline constexpr ModelSizes k350m = {"350m", 1024, 2736, 16};
inline constexpr ModelSizes k760m = {"760m", 1536, 4096, 16, 32000, 96};
inline constexpr ModelSizes k1300m = {"1.3b", 2048, 5504, 32};

// Makes arrays and keeps them. A failure of the device ends the program.
class OpInputs {
 public:
  explicit OpInputs(Backend* backend) : backend_(*backend) {}

  Backend& backend() { return backend_; }

  template <typename T>
  T* Upload(const std::vector<T>& values) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(T));
    buffers_.push_back(backend_.Allocate(bytes).value());
    TTT_CHECK(
        backend_.CopyToDevice(buffers_.back()->data(), values.data(), bytes)
            .ok());
    return buffers_.back()->as<T>();
  }
  float* Floats(int64_t count, float scale = 1.0f) {
    return Upload(Random(count, scale));
  }
  Operand Operands(int64_t count) {
    if (backend_.operand_type() == DType::kFloat32) {
      return {Floats(count), DType::kFloat32};
    }
    std::vector<uint16_t> halves;
    halves.reserve(count);
    for (const float value : Random(count, 1.0f)) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      halves.push_back(uint16_t(bits >> 16));
    }
    return {Upload(halves), DType::kBFloat16};
  }
  // For what an op writes only.
  float* Zeros(int64_t count) {
    buffers_.push_back(backend_.Allocate(count * sizeof(float)).value());
    return buffers_.back()->as<float>();
  }
  // Of the learner's.
  Operand Rows(int64_t count) {
    const DType type = backend_.state_forms().rows;
    if (type == DType::kFloat32) return {Floats(count), type};
    return {Upload(HighHalves(Random(count, 1.0f))), type};
  }
  StatePlane RowPlane(int64_t num_slots, int64_t values) {
    const Operand rows = Rows(num_slots * values);
    return {static_cast<std::byte*>(rows.data),
            values * (rows.type == DType::kFloat32 ? 4 : 2)};
  }
  // A plane of fast weights: `matrices` of `matrix_size` values a slot. Of the
  // split form, whose sizes are the same, the low halves are high ones too.
  StatePlane MatrixPlane(int64_t num_slots, int64_t matrices,
                         int64_t matrix_size, float scale) {
    const int64_t values = matrices * matrix_size;
    if (backend_.state_forms().fast_weights == FastWeightsForm::kFloat32) {
      return Plane(num_slots, values, scale);
    }
    return {reinterpret_cast<std::byte*>(
                Upload(HighHalves(Random(2 * num_slots * values, scale)))),
            values * static_cast<int64_t>(sizeof(float))};
  }
  // A plane of `floats` a slot.
  StatePlane Plane(int64_t num_slots, int64_t floats, float scale = 1.0f) {
    return {reinterpret_cast<std::byte*>(Floats(num_slots * floats, scale)),
            floats * static_cast<int64_t>(sizeof(float))};
  }
  const GemmWeights* Weights(int32_t num_outputs, int32_t num_inputs) {
    const std::vector<float> values =
        Random(int64_t{num_outputs} * num_inputs, 0.05f);
    weights_.push_back(
        backend_.PackWeights(values.data(), num_outputs, num_inputs).value());
    return weights_.back().get();
  }
  // Of GemmSwiGlu.
  const GemmWeights* GateUp(int32_t inner, int32_t num_inputs) {
    const std::vector<float> values =
        Random(int64_t{2} * inner * num_inputs, 0.05f);
    weights_.push_back(
        backend_.PackGateUp(values.data(), 2 * inner, num_inputs).value());
    return weights_.back().get();
  }

 private:
  // As bfloat16, rounded towards zero.
  static std::vector<uint16_t> HighHalves(const std::vector<float>& values) {
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      halves[i] =
          static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    }
    return halves;
  }

  // The first values repeated: drawing all would take longer than the ops.
  std::vector<float> Random(int64_t count, float scale) {
    constexpr int64_t kDrawn = 1'048'573;  // prime: rows differ
    std::uniform_real_distribution<float> uniform(-scale, scale);
    std::vector<float> values(count);
    const int64_t drawn = std::min(count, kDrawn);
    for (int64_t i = 0; i < drawn; ++i) values[i] = uniform(random_);
    for (int64_t i = drawn; i < count; i += drawn) {
      std::copy_n(values.begin(), std::min(drawn, count - i),
                  values.begin() + i);
    }
    return values;
  }

  Backend& backend_;
  std::minstd_rand random_{1};
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::vector<std::unique_ptr<GemmWeights>> weights_;
};

}  // namespace ttt
