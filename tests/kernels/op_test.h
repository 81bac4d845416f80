// For tests of ops: the backends under test, and arrays in their memory.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/reference_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/state_forms.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_device.h"

namespace ttt {

enum class BackendKind { kReference, kSse2, kAvx2, kAvx512, kCuda };

inline std::unique_ptr<Backend> MakeBackend(
    BackendKind kind, Precision precision = Precision::kFloat32,
    int32_t num_threads = 2) {
  if (kind == BackendKind::kReference) return CreateReferenceBackend(precision);
  if (kind == BackendKind::kCuda)
    return CreateCudaBackend(0, precision).value();
  const Isa isa = kind == BackendKind::kSse2   ? Isa::kSse2
                  : kind == BackendKind::kAvx2 ? Isa::kAvx2
                                               : Isa::kAvx512;
  return CreateFastBackend(precision, num_threads, isa).value();
}

// The fast backends that this CPU can run.
inline std::vector<BackendKind> FastBackendKinds() {
  std::vector<BackendKind> kinds = {BackendKind::kSse2};
  if (DetectIsa() >= Isa::kAvx2) kinds.push_back(BackendKind::kAvx2);
  if (DetectIsa() >= Isa::kAvx512) kinds.push_back(BackendKind::kAvx512);
  return kinds;
}
// And the reference, and the GPU if there is one.
inline std::vector<BackendKind> AllBackendKinds() {
  std::vector<BackendKind> kinds = FastBackendKinds();
  kinds.push_back(BackendKind::kReference);
  if (HasCuda()) kinds.push_back(BackendKind::kCuda);
  return kinds;
}
inline std::string BackendKindName(
    const testing::TestParamInfo<BackendKind>& info) {
  switch (info.param) {
    case BackendKind::kReference:
      return "Reference";
    case BackendKind::kSse2:
      return "Sse2";
    case BackendKind::kAvx2:
      return "Avx2";
    case BackendKind::kAvx512:
      return "Avx512";
    case BackendKind::kCuda:
      return "Cuda";
  }
  return "";
}

// An array in the memory of a backend.
template <typename T>
class Array {
 public:
  Array(Backend& backend, std::vector<T> values)
      : backend_(backend),
        size_(values.size()),
        buffer_(backend.Allocate(values.size() * sizeof(T)).value()) {
    EXPECT_THAT(backend.CopyToDevice(buffer_->data(), values.data(),
                                     values.size() * sizeof(T)),
                IsOk());
  }
  T* data() { return buffer_->template as<T>(); }
  size_t size() const { return size_; }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    EXPECT_THAT(backend_.Synchronize(), IsOk());
    EXPECT_THAT(
        backend_.CopyToHost(values.data(), buffer_->data(), size_ * sizeof(T)),
        IsOk());
    return values;
  }
  // One of `num_slots` equal parts as a plane.
  StatePlane Plane(int64_t num_slots) {
    return {buffer_->data(), int64_t(size_ / num_slots * sizeof(T))};
  }

 private:
  Backend& backend_;
  const size_t size_;
  const std::unique_ptr<DeviceBuffer> buffer_;
};

// The sequences of a step, in the memory of a backend.
class StepArrays {
 public:
  // The sequences of `ended_slot` have ended: of their rows they have none.
  StepArrays(Backend& backend, const std::vector<SequenceRows>& sequences,
             std::optional<int32_t> ended_slot = std::nullopt)
      : sequences_(backend, WithoutRows(sequences, ended_slot)),
        row_sequence_(backend, RowSequence(sequences)) {}

  StepRows rows() {
    return {sequences_.data(), row_sequence_.data(), int32_t(sequences_.size()),
            int32_t(row_sequence_.size())};
  }

 private:
  static std::vector<SequenceRows> WithoutRows(
      std::vector<SequenceRows> sequences, std::optional<int32_t> slot) {
    for (SequenceRows& rows : sequences) {
      if (rows.slot == slot) rows.num_rows = 0;
    }
    return sequences;
  }
  static std::vector<int32_t> RowSequence(
      const std::vector<SequenceRows>& sequences) {
    int32_t num_rows = 0;
    for (const SequenceRows& rows : sequences) num_rows += rows.num_rows;
    std::vector<int32_t> indices(num_rows, -1);
    for (size_t i = 0; i < sequences.size(); ++i) {
      std::fill_n(indices.begin() + sequences[i].first_row,
                  sequences[i].num_rows, int32_t(i));
    }
    return indices;
  }

  Array<SequenceRows> sequences_;
  Array<int32_t> row_sequence_;
};

using Floats = std::vector<float>;

// Uniform in [low, high), the same for the same seed.
inline Floats Random(size_t size, int seed, float low = -1.0f,
                     float high = 1.0f) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  Floats values(size);
  for (float& value : values) value = uniform(random);
  return values;
}

inline std::vector<uint16_t> ToBFloat16(const Floats& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(FloatToBFloat16(value));
  return halves;
}
inline Floats ToFloats(const std::vector<uint16_t>& halves) {
  Floats values;
  for (const uint16_t half : halves) values.push_back(BFloat16ToFloat(half));
  return values;
}

// Float32 matrices of `matrix_size` values each as FastWeightsForm::kSplit, in
// halves, and back.
inline std::vector<uint16_t> ToSplit(const Floats& values, size_t matrix_size) {
  EXPECT_EQ(values.size() % matrix_size, 0u);
  std::vector<uint16_t> halves;
  for (size_t first = 0; first < values.size(); first += matrix_size) {
    for (size_t i = 0; i < matrix_size; ++i) {
      halves.push_back(SplitHigh(std::bit_cast<uint32_t>(values[first + i])));
    }
    for (size_t i = 0; i < matrix_size; ++i) {
      halves.push_back(static_cast<uint16_t>(
          SplitLow(std::bit_cast<uint32_t>(values[first + i]))));
    }
  }
  return halves;
}
inline Floats FromSplit(const std::vector<uint16_t>& halves,
                        size_t matrix_size) {
  EXPECT_EQ(halves.size() % (2 * matrix_size), 0u);
  Floats values;
  for (size_t first = 0; first < halves.size(); first += 2 * matrix_size) {
    for (size_t i = 0; i < matrix_size; ++i) {
      values.push_back(std::bit_cast<float>(
          JoinSplit(halves[first + i],
                    static_cast<int16_t>(halves[first + matrix_size + i]))));
    }
  }
  return values;
}

// Rows of the learner in the memory of a backend and in the type that it keeps
// them in.
class RowArray {
 public:
  RowArray(Backend& backend, const Floats& values)
      : type_(backend.state_forms().rows) {
    if (type_ == DType::kBFloat16) {
      halves_.emplace(backend, ToBFloat16(values));
    } else {
      floats_.emplace(backend, values);
    }
  }
  Operand operand() {
    if (halves_.has_value()) return {halves_->data(), type_};
    return {floats_->data(), type_};
  }
  Floats Read() const {
    return halves_.has_value() ? ToFloats(halves_->Read()) : floats_->Read();
  }
  StatePlane Plane(int64_t num_slots) {
    return halves_.has_value() ? halves_->Plane(num_slots)
                               : floats_->Plane(num_slots);
  }

 private:
  const DType type_;
  std::optional<Array<float>> floats_;
  std::optional<Array<uint16_t>> halves_;
};

// Fast weights in the memory of a backend and in the form that it keeps them
// in: matrices of `matrix_size` values each.
class MatrixArray {
 public:
  MatrixArray(Backend& backend, const Floats& values, size_t matrix_size)
      : matrix_size_(matrix_size) {
    if (backend.state_forms().fast_weights == FastWeightsForm::kSplit) {
      halves_.emplace(backend, ToSplit(values, matrix_size));
    } else {
      floats_.emplace(backend, values);
    }
  }
  Floats Read() const {
    return halves_.has_value() ? FromSplit(halves_->Read(), matrix_size_)
                               : floats_->Read();
  }
  StatePlane Plane(int64_t num_slots) {
    return halves_.has_value() ? halves_->Plane(num_slots)
                               : floats_->Plane(num_slots);
  }

 private:
  const size_t matrix_size_;
  std::optional<Array<float>> floats_;
  std::optional<Array<uint16_t>> halves_;
};

// Largest |a - b| / (1 + |b|); infinite if there is a NaN.
template <typename A, typename B>
double MaxError(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference =
        std::abs(double(a[i]) - double(b[i])) / (1.0 + std::abs(double(b[i])));
    if (std::isnan(difference)) return INFINITY;
    error = std::max(error, difference);
  }
  return error;
}

template <typename T>
std::vector<T> Part(const std::vector<T>& values, size_t begin, size_t size) {
  return {values.begin() + begin, values.begin() + begin + size};
}

inline std::vector<uint32_t> Bits(const Floats& values) {
  std::vector<uint32_t> bits(values.size());
  std::copy_n(reinterpret_cast<const uint32_t*>(values.data()), values.size(),
              bits.begin());
  return bits;
}

}  // namespace ttt
