#include "kernels/cpu/dnnl_gemm.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/dnnl_slab.h"
#include "kernels/cpu/host_memory.h"

namespace ttt {
namespace {

constexpr int32_t kSlabOutputs = 128;
// The outputs of a last slab are filled up to a multiple of it.
constexpr int32_t kOutputMultiple = 16;
// Rows that one task multiplies by a slab.
constexpr int32_t kRowsPerTask = 2 * SlabKernel::kMaxTileHeight;
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Slab {
  const SlabKernel* kernel;
  dnnl::memory packed;
  int64_t offset_bytes;  // in the buffer of the weights
  int32_t first_output;
  int32_t num_outputs;  // without filling
};

class DnnlWeights : public GemmWeights {
 public:
  DnnlWeights(const DnnlGemm* owner, std::unique_ptr<DeviceBuffer> buffer,
              std::vector<Slab> slabs, int32_t num_outputs, int32_t num_inputs)
      : owner_(owner),
        buffer_(std::move(buffer)),
        slabs_(std::move(slabs)),
        num_outputs_(num_outputs),
        num_inputs_(num_inputs) {}
  int64_t bytes() const override { return buffer_->size_bytes(); }
  int32_t num_outputs() const override { return num_outputs_; }
  int32_t num_inputs() const override { return num_inputs_; }
  const DnnlGemm* owner() const { return owner_; }
  const std::vector<Slab>& slabs() const { return slabs_; }

 private:
  const DnnlGemm* const owner_;
  const std::unique_ptr<DeviceBuffer> buffer_;
  const std::vector<Slab> slabs_;
  const int32_t num_outputs_;
  const int32_t num_inputs_;
};

class DnnlGemmImpl : public DnnlGemm {
 public:
  DnnlGemmImpl(DType type, ThreadPool* pool)
      : type_(type), pool_(pool), engine_(dnnl::engine::kind::cpu, 0) {
    for (int32_t i = 0; i < pool->num_threads(); ++i) {
      workers_.push_back({dnnl::stream(engine_)});
    }
  }

  absl::StatusOr<std::unique_ptr<GemmWeights>> Pack(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override;
  absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                      int32_t num_inputs) override;
  bool Owns(const GemmWeights* weights) const override {
    const auto* const own = dynamic_cast<const DnnlWeights*>(weights);
    return own != nullptr && own->owner() == this;
  }
  absl::Status Run(const GemmArgs& args) override;

 private:
  absl::StatusOr<const SlabKernel*> KernelOf(int64_t num_inputs,
                                             int64_t num_outputs);
  // The slabs of a matrix of this shape, not packed yet; at least one.
  absl::StatusOr<std::vector<Slab>> CutSlabs(int32_t num_outputs,
                                             int32_t num_inputs);
  // Calls function(task, worker) for each task; the first failure of a thread.
  template <typename Function>
  absl::Status RunTasks(int64_t num_tasks, const Function& function);

  const DType type_;
  ThreadPool* const pool_;
  const dnnl::engine engine_;
  std::vector<GemmWorker> workers_;  // one a thread
  absl::flat_hash_map<std::pair<int64_t, int64_t>, std::unique_ptr<SlabKernel>>
      kernels_;  // by num_inputs, num_outputs
};

absl::StatusOr<const SlabKernel*> DnnlGemmImpl::KernelOf(int64_t num_inputs,
                                                         int64_t num_outputs) {
  const std::pair<int64_t, int64_t> shape(num_inputs, num_outputs);
  if (const auto known = kernels_.find(shape); known != kernels_.end()) {
    return known->second.get();
  }
  absl::StatusOr<std::unique_ptr<SlabKernel>> kernel =
      SlabKernel::Create(engine_, type_, num_inputs, num_outputs, workers_);
  if (!kernel.ok()) return kernel.status();
  return kernels_.emplace(shape, *std::move(kernel)).first->second.get();
}

absl::StatusOr<std::vector<Slab>> DnnlGemmImpl::CutSlabs(int32_t num_outputs,
                                                         int32_t num_inputs) {
  std::vector<Slab> slabs;
  int64_t offset = 0;
  const absl::Status status = CallDnnl([&]() -> absl::Status {
    for (int32_t first = 0; first < num_outputs; first += kSlabOutputs) {
      const int32_t width = std::min(kSlabOutputs, num_outputs - first);
      const absl::StatusOr<const SlabKernel*> kernel =
          KernelOf(num_inputs, RoundUp(width, kOutputMultiple));
      if (!kernel.ok()) return kernel.status();
      slabs.push_back({*kernel, dnnl::memory(), offset, first, width});
      offset += RoundUp((*kernel)->packed_bytes(), kAlignment);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return slabs;
}

int64_t BytesOf(const std::vector<Slab>& slabs) {
  return slabs.back().offset_bytes + slabs.back().kernel->packed_bytes();
}

absl::StatusOr<int64_t> DnnlGemmImpl::PackedBytes(int32_t num_outputs,
                                                  int32_t num_inputs) {
  const absl::StatusOr<std::vector<Slab>> slabs =
      CutSlabs(num_outputs, num_inputs);
  if (!slabs.ok()) return slabs.status();
  return BytesOf(*slabs);
}

template <typename Function>
absl::Status DnnlGemmImpl::RunTasks(int64_t num_tasks,
                                    const Function& function) {
  std::vector<absl::Status> failures(workers_.size());
  pool_->Run(num_tasks, [&](int64_t task, int32_t thread) {
    failures[thread].Update(CallDnnl([&] {
      function(task, workers_[thread]);
      return absl::OkStatus();
    }));
  });
  absl::Status status;
  for (const absl::Status& failure : failures) status.Update(failure);
  return status;
}

absl::StatusOr<std::unique_ptr<GemmWeights>> DnnlGemmImpl::Pack(
    const float* weights, int32_t num_outputs, int32_t num_inputs) {
  absl::StatusOr<std::vector<Slab>> slabs = CutSlabs(num_outputs, num_inputs);
  if (!slabs.ok()) return slabs.status();
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      AllocateHostMemory(BytesOf(*slabs));
  if (!buffer.ok()) return buffer.status();
  const absl::Status status =
      RunTasks(slabs->size(), [&](int64_t task, GemmWorker& worker) {
        Slab& slab = (*slabs)[task];
        slab.packed = slab.kernel->Pack(
            weights + int64_t{slab.first_output} * num_inputs, slab.num_outputs,
            (*buffer)->data() + slab.offset_bytes, worker);
      });
  if (!status.ok()) return status;
  return std::make_unique<DnnlWeights>(
      this, *std::move(buffer), *std::move(slabs), num_outputs, num_inputs);
}

// Rows of a tile, from the worker's output.
void StoreRows(const GemmArgs& args, const Slab& slab, const float* from,
               int64_t first_row, int64_t num_rows) {
  for (int64_t row = 0; row < num_rows; ++row) {
    float* const to = args.output + (first_row + row) * args.output_stride +
                      slab.first_output;
    const float* const values = from + row * slab.kernel->num_outputs();
    if (args.accumulate) {
      for (int32_t n = 0; n < slab.num_outputs; ++n) to[n] += values[n];
    } else {
      std::memcpy(to, values, slab.num_outputs * sizeof(float));
    }
  }
}

absl::Status DnnlGemmImpl::Run(const GemmArgs& args) {
  const auto* const weights = static_cast<const DnnlWeights*>(args.weights);
  const std::vector<Slab>& slabs = weights->slabs();
  const int64_t row_bytes =
      int64_t{weights->num_inputs()} * (type_ == DType::kFloat32 ? 4 : 2);
  const auto* const input = static_cast<const std::byte*>(args.input.data);
  const int64_t num_blocks = (args.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  return RunTasks(num_blocks * slabs.size(), [&](int64_t task,
                                                 GemmWorker& worker) {
    const Slab& slab = slabs[task / num_blocks];
    int64_t row = task % num_blocks * kRowsPerTask;
    const int64_t end = std::min<int64_t>(args.num_rows, row + kRowsPerTask);
    while (row < end) {
      const int64_t num_rows = slab.kernel->MultiplySome(
          slab.packed, input + row * row_bytes, end - row, worker);
      StoreRows(args, slab, worker.output->as<float>(), row, num_rows);
      row += num_rows;
    }
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<DnnlGemm>> DnnlGemm::Create(DType type,
                                                           ThreadPool* pool) {
  std::unique_ptr<DnnlGemm> gemm;
  const absl::Status status = CallDnnl([&] {
    gemm = std::make_unique<DnnlGemmImpl>(type, pool);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return gemm;
}

std::string DnnlDescription() {
  const dnnl_version_t* const version = dnnl_version();
  return absl::StrCat("onednn-", version->major, ".", version->minor, ".",
                      version->patch, "-isa",
                      int(dnnl::get_effective_cpu_isa()));
}

}  // namespace ttt
