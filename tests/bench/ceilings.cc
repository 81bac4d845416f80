#include "tests/bench/ceilings.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "server/base/status_macros.h"
#include "tests/bench/stopwatch.h"

// Of the OpenMP run time that oneDNN runs on.
extern "C" void omp_set_num_threads(int);

namespace ttt {
namespace {

constexpr int64_t kReadBytes = int64_t{512} << 20;  // far more than any cache
constexpr int64_t kReadAhead = 32;  // lines; faster than without
constexpr int32_t kMatrixSize = 2048;

typedef uint64_t Words __attribute__((vector_size(64)));

// The sum of all words; reads as wide as the CPU can.
__attribute__((target_clones("avx512f", "avx2", "default"))) uint64_t SumOf(
    const Words* words, int64_t count) {
  Words sums[8] = {};
  for (int64_t i = 0; i < count; i += 8) {
    for (int64_t j = 0; j < 8; ++j) {
      __builtin_prefetch(words + i + j + kReadAhead);
      sums[j] += words[i + j];
    }
  }
  uint64_t total = 0;
  for (const Words& sum : sums) {
    for (int lane = 0; lane < 8; ++lane) total += sum[lane];
  }
  return total;
}

struct Shape {
  int64_t num_rows, num_inputs, num_outputs;
  double flops() const { return 2.0 * num_rows * num_inputs * num_outputs; }
};
constexpr Shape kSquare = {kMatrixSize, kMatrixSize, kMatrixSize};
constexpr Shape kTall = {4096, 768, 2048};  // oneDNN is at its best in these

// A product as oneDNN likes it best: it chooses the layout of the weights.
class DnnlProduct {
 public:
  DnnlProduct(dnnl::memory::data_type type, const Shape& shape)
      : flops_(shape.flops()),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {
    using dnnl::memory;
    const dnnl::matmul::primitive_desc description(
        dnnl::matmul::desc(
            memory::desc({shape.num_rows, shape.num_inputs}, type,
                         memory::format_tag::ab),
            memory::desc({shape.num_inputs, shape.num_outputs}, type,
                         memory::format_tag::any),
            memory::desc({shape.num_rows, shape.num_outputs},
                         memory::data_type::f32, memory::format_tag::ab)),
        engine_);
    product_ = dnnl::matmul(description);
    arguments_ = {
        {DNNL_ARG_SRC, memory(description.src_desc(), engine_)},
        {DNNL_ARG_WEIGHTS, memory(description.weights_desc(), engine_)},
        {DNNL_ARG_DST, memory(description.dst_desc(), engine_)}};
    // One pattern everywhere, a number near 0.5 in both types.
    for (const int argument : {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS}) {
      std::memset(arguments_.at(argument).get_data_handle(), 0x3f,
                  arguments_.at(argument).get_desc().get_size());
    }
  }

  // FLOPs a second of one run.
  double Rate() {
    return flops_ / TimeToRun([&] {
             product_.execute(stream_, arguments_);
             stream_.wait();
           });
  }

 private:
  double flops_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

class CpuCeilingMeter : public CeilingMeter {
 public:
  explicit CpuCeilingMeter(int32_t num_threads)
      : num_threads_(num_threads),
        words_(kReadBytes / sizeof(Words), Words{} + 1) {
    for (const Shape& shape : {kSquare, kTall}) {
      fp32_.emplace_back(dnnl::memory::data_type::f32, shape);
      try {
        bf16_.emplace_back(dnnl::memory::data_type::bf16, shape);
      } catch (const dnnl::error&) {
        // Then the CPU does not multiply bfloat16.
      }
    }
  }

  absl::Status Measure() override {
    omp_set_num_threads(num_threads_);
    Ceilings measured;
    measured.read_bytes_per_second = kReadBytes / TimeRead();
    try {
      for (DnnlProduct& product : fp32_) {
        measured.fp32_flops = std::max(measured.fp32_flops, product.Rate());
      }
      for (DnnlProduct& product : bf16_) {
        measured.bf16_flops = std::max(measured.bf16_flops, product.Rate());
      }
    } catch (const dnnl::error& error) {
      return absl::InternalError(absl::StrCat("oneDNN: ", error.what()));
    }
    Add(measured);
    return absl::OkStatus();
  }

 private:
  double TimeRead() {
    std::vector<uint64_t> sums(num_threads_);
    const double seconds = TimeToRun([&] {
      std::vector<std::thread> threads;
      const int64_t count = words_.size();
      for (int32_t t = 0; t < num_threads_; ++t) {
        threads.emplace_back([&, t] {
          const int64_t begin = t * count / num_threads_ / 8 * 8;
          const int64_t end = (t + 1) * count / num_threads_ / 8 * 8;
          sums[t] = SumOf(words_.data() + begin, end - begin);
        });
      }
      for (std::thread& thread : threads) thread.join();
    });
    // So that the reads are not left out.
    return sums[0] != 0 ? seconds : 0;
  }

  const int32_t num_threads_;
  const std::vector<Words> words_;
  std::vector<DnnlProduct> fp32_;
  std::vector<DnnlProduct> bf16_;
};

class DeviceCeilingMeter : public CeilingMeter {
 public:
  static absl::StatusOr<std::unique_ptr<CeilingMeter>> Create(
      Backend* backend) {
    auto meter =
        std::unique_ptr<DeviceCeilingMeter>(new DeviceCeilingMeter(backend));
    TTT_ASSIGN_OR_RETURN(meter->memory_, backend->Allocate(kReadBytes));
    const std::vector<float> weights(int64_t{kMatrixSize} * kMatrixSize, 0.5f);
    TTT_ASSIGN_OR_RETURN(
        meter->weights_,
        backend->PackWeights(weights.data(), kMatrixSize, kMatrixSize));
    return meter;
  }

  absl::Status Measure() override {
    absl::Status status;
    const auto time = [&](const auto& op) {
      return TimeToRun([&] {
        status.Update(op());
        status.Update(backend_.Synchronize());
      });
    };
    std::byte* const half = memory_->data() + kReadBytes / 2;
    const double copy = time([&] {
      return backend_.CopyOnDevice(half, memory_->data(), kReadBytes / 2);
    });
    const DType type = backend_.operand_type();
    const double product = time([&] {
      return backend_.Gemm({.input = {memory_->data(), type},
                            .weights = weights_.get(),
                            .output = reinterpret_cast<float*>(half),
                            .output_stride = kMatrixSize,
                            .num_rows = kMatrixSize,
                            .accumulate = false});
    });
    TTT_RETURN_IF_ERROR(status);
    Ceilings measured;
    measured.read_bytes_per_second = kReadBytes / copy;
    (type == DType::kFloat32 ? measured.fp32_flops : measured.bf16_flops) =
        kSquare.flops() / product;
    Add(measured);
    return absl::OkStatus();
  }

 private:
  explicit DeviceCeilingMeter(Backend* backend) : backend_(*backend) {}

  Backend& backend_;
  std::unique_ptr<DeviceBuffer> memory_;
  std::unique_ptr<GemmWeights> weights_;
};

}  // namespace

void CeilingMeter::Add(const Ceilings& measured) {
  const auto raise = [](double& best, double value) {
    best = std::max(best, value);
  };
  raise(best_.read_bytes_per_second, measured.read_bytes_per_second);
  raise(best_.fp32_flops, measured.fp32_flops);
  raise(best_.bf16_flops, measured.bf16_flops);
}

absl::StatusOr<std::unique_ptr<CeilingMeter>> CreateCpuCeilingMeter(
    int32_t num_threads) {
  try {
    return std::make_unique<CpuCeilingMeter>(num_threads);
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN: ", error.what()));
  }
}

absl::StatusOr<std::unique_ptr<CeilingMeter>> CreateDeviceCeilingMeter(
    Backend* backend) {
  return DeviceCeilingMeter::Create(backend);
}

}  // namespace ttt
