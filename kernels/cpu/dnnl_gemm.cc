#include "kernels/cpu/dnnl_gemm.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/host_memory.h"

// Of the OpenMP run time that oneDNN runs on.
extern "C" {
void omp_set_num_threads(int);
int omp_get_max_threads(void);
}

namespace ttt {
namespace {

using dnnl::memory;

constexpr int32_t kMaxTileHeight = DnnlGemm::kTileHeights[0];
// Rows that one task multiplies by a slab.
constexpr int32_t kRowsPerTask = 2 * kMaxTileHeight;

// While it lives, oneDNN uses no thread but the calling one.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// Calls function, which returns a Status and may throw what oneDNN throws.
template <typename Function>
absl::Status CallDnnl(const Function& function) {
  const OneThread one_thread;
  try {
    return function();
  } catch (const dnnl::error& error) {
    return absl::InternalError(
        absl::StrCat("oneDNN: ", error.what(), " (", int(error.status), ")"));
  }
}

int64_t BytesOf(DType type) { return type == DType::kFloat32 ? 4 : 2; }

memory::data_type DnnlType(DType type) {
  return type == DType::kFloat32 ? memory::data_type::f32
                                 : memory::data_type::bf16;
}

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A product of `height` rows with one slab.
struct Tile {
  int32_t height;
  dnnl::matmul primitive;
  memory::desc input;
  memory::desc output;
  memory::desc scratch;
};

// How slabs of one shape are packed and multiplied.
struct SlabKernel {
  memory::desc packed;
  int64_t num_inputs;
  int64_t num_outputs;
  std::vector<Tile> tiles;  // by falling height; the last has height 1
};

struct Slab {
  const SlabKernel* kernel;
  memory packed;
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

// What one thread needs to run a tile. The buffers grow with the matrices.
struct Worker {
  dnnl::stream stream;
  std::unique_ptr<DeviceBuffer> input = nullptr;  // of a tile that is filled up
  std::unique_ptr<DeviceBuffer> output = nullptr;   // of a tile
  std::unique_ptr<DeviceBuffer> scratch = nullptr;  // oneDNN's
};

absl::Status Grow(int64_t size_bytes, std::unique_ptr<DeviceBuffer>& buffer) {
  if (buffer != nullptr && buffer->size_bytes() >= size_bytes) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> larger =
      AllocateHostMemory(size_bytes);
  if (!larger.ok()) return larger.status();
  buffer = *std::move(larger);
  return absl::OkStatus();
}

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
  bool Owns(const GemmWeights* weights) const override {
    const auto* const own = dynamic_cast<const DnnlWeights*>(weights);
    return own != nullptr && own->owner() == this;
  }
  absl::Status Run(const GemmArgs& args) override;
  std::vector<int32_t> TileHeights(const GemmWeights* weights) const override;

 private:
  absl::StatusOr<const SlabKernel*> KernelOf(int64_t num_inputs,
                                             int64_t num_outputs);
  std::optional<Tile> MakeTile(int64_t height, int64_t num_inputs,
                               int64_t num_outputs, memory::desc* packed);
  absl::Status GrowWorkers(const SlabKernel& kernel);
  absl::Status DropUnequalTiles(SlabKernel& kernel);
  memory PackSlab(const SlabKernel& kernel, const float* weights,
                  int64_t num_outputs, void* to);
  void RunTile(const Tile& tile, const memory& packed, const void* input,
               float* output, Worker& worker);
  void RunRows(const GemmArgs& args, const Slab& slab, int64_t begin,
               int64_t end, Worker& worker);

  const DType type_;
  ThreadPool* const pool_;
  const dnnl::engine engine_;
  std::vector<Worker> workers_;  // one a thread
  absl::flat_hash_map<std::pair<int64_t, int64_t>, std::unique_ptr<SlabKernel>>
      kernels_;  // by num_inputs, num_outputs
};

// Chooses the layout `packed` if it is empty. None: oneDNN cannot.
std::optional<Tile> DnnlGemmImpl::MakeTile(int64_t height, int64_t num_inputs,
                                           int64_t num_outputs,
                                           memory::desc* packed) {
  const memory::desc input({height, num_inputs}, DnnlType(type_),
                           memory::format_tag::ab);
  const memory::desc output({height, num_outputs}, memory::data_type::f32,
                            memory::format_tag::ab);
  const bool chooses = packed->is_zero();
  const memory::desc weights =
      chooses ? memory::desc({num_inputs, num_outputs}, DnnlType(type_),
                             memory::format_tag::any)
              : *packed;
  try {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description(
        dnnl::matmul::desc(input, weights, output), attributes, engine_);
    if (chooses) *packed = description.weights_desc();
    return Tile{int32_t(height), dnnl::matmul(description), input, output,
                description.scratchpad_desc()};
  } catch (const dnnl::error&) {
    return std::nullopt;
  }
}

absl::StatusOr<const SlabKernel*> DnnlGemmImpl::KernelOf(int64_t num_inputs,
                                                         int64_t num_outputs) {
  std::unique_ptr<SlabKernel>& known = kernels_[{num_inputs, num_outputs}];
  if (known != nullptr) return known.get();
  auto kernel = std::make_unique<SlabKernel>();
  kernel->num_inputs = num_inputs;
  kernel->num_outputs = num_outputs;
  for (const int32_t height : kTileHeights) {
    std::optional<Tile> tile =
        MakeTile(height, num_inputs, num_outputs, &kernel->packed);
    if (tile.has_value()) kernel->tiles.push_back(*std::move(tile));
  }
  if (kernel->tiles.empty() || kernel->tiles.back().height != 1) {
    return absl::InternalError(absl::StrCat("oneDNN has no product of ",
                                            num_inputs, " by ", num_outputs));
  }
  absl::Status status = GrowWorkers(*kernel);
  if (status.ok()) status = DropUnequalTiles(*kernel);
  if (!status.ok()) return status;
  known = std::move(kernel);
  return known.get();
}

absl::Status DnnlGemmImpl::GrowWorkers(const SlabKernel& kernel) {
  int64_t scratch_bytes = 0;
  for (const Tile& tile : kernel.tiles) {
    scratch_bytes = std::max<int64_t>(scratch_bytes, tile.scratch.get_size());
  }
  absl::Status status;
  for (Worker& worker : workers_) {
    status.Update(Grow(kMaxTileHeight * kernel.num_inputs * BytesOf(type_),
                       worker.input));
    status.Update(
        Grow(kMaxTileHeight * kernel.num_outputs * int64_t{sizeof(float)},
             worker.output));
    status.Update(Grow(scratch_bytes, worker.scratch));
  }
  return status;
}

absl::Status DnnlGemmImpl::DropUnequalTiles(SlabKernel& kernel) {
  const int64_t num_inputs = kernel.num_inputs;
  const int64_t num_outputs = kernel.num_outputs;
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> weights(num_outputs * num_inputs);
  for (float& weight : weights) weight = uniform(random);
  std::vector<float> values(kMaxTileHeight * num_inputs);
  for (float& value : values) value = uniform(random);
  std::vector<uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), FloatToBFloat16);
  const std::byte* const input =
      type_ == DType::kFloat32
          ? reinterpret_cast<const std::byte*>(values.data())
          : reinterpret_cast<const std::byte*>(halves.data());

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> to =
      AllocateHostMemory(kernel.packed.get_size());
  if (!to.ok()) return to.status();
  const memory packed =
      PackSlab(kernel, weights.data(), num_outputs, (*to)->data());
  std::vector<float> wanted(kMaxTileHeight * num_outputs);
  for (int64_t row = 0; row < kMaxTileHeight; ++row) {
    RunTile(kernel.tiles.back(), packed,
            input + row * num_inputs * BytesOf(type_),
            wanted.data() + row * num_outputs, workers_[0]);
  }
  std::vector<float> found(wanted.size());
  std::erase_if(kernel.tiles, [&](const Tile& tile) {
    RunTile(tile, packed, input, found.data(), workers_[0]);
    return std::memcmp(found.data(), wanted.data(),
                       tile.height * num_outputs * sizeof(float)) != 0;
  });
  return absl::OkStatus();
}

// Weights [num_outputs, num_inputs]; rounds to the type as FloatToBFloat16
// does.
memory DnnlGemmImpl::PackSlab(const SlabKernel& kernel, const float* weights,
                              int64_t num_outputs, void* to) {
  const int64_t size = kernel.num_outputs * kernel.num_inputs;
  const int64_t used = num_outputs * kernel.num_inputs;
  std::vector<std::byte> plain(size * BytesOf(type_));
  if (type_ == DType::kFloat32) {
    std::memcpy(plain.data(), weights, used * sizeof(float));
  } else {
    std::transform(weights, weights + used,
                   reinterpret_cast<uint16_t*>(plain.data()), FloatToBFloat16);
  }
  memory from(memory::desc({kernel.num_inputs, kernel.num_outputs},
                           DnnlType(type_), memory::format_tag::ba),
              engine_, plain.data());
  memory packed(kernel.packed, engine_, to);
  dnnl::stream& stream = workers_[0].stream;
  dnnl::reorder(from, packed).execute(stream, from, packed);
  stream.wait();
  return packed;
}

absl::StatusOr<std::unique_ptr<GemmWeights>> DnnlGemmImpl::Pack(
    const float* weights, int32_t num_outputs, int32_t num_inputs) {
  std::unique_ptr<DeviceBuffer> buffer;
  std::vector<Slab> slabs;
  const absl::Status status = CallDnnl([&]() -> absl::Status {
    std::vector<int64_t> offsets;
    int64_t size = 0;
    for (int32_t n = 0; n < num_outputs; n += kSlabOutputs) {
      const int32_t width = std::min(kSlabOutputs, num_outputs - n);
      const absl::StatusOr<const SlabKernel*> kernel =
          KernelOf(num_inputs, RoundUp(width, kOutputMultiple));
      if (!kernel.ok()) return kernel.status();
      slabs.push_back({*kernel, memory(), n, width});
      offsets.push_back(size);
      size += RoundUp((*kernel)->packed.get_size(), 64);
    }
    absl::StatusOr<std::unique_ptr<DeviceBuffer>> memory =
        AllocateHostMemory(size);
    if (!memory.ok()) return memory.status();
    buffer = *std::move(memory);
    for (size_t i = 0; i < slabs.size(); ++i) {
      Slab& slab = slabs[i];
      slab.packed = PackSlab(*slab.kernel,
                             weights + int64_t{slab.first_output} * num_inputs,
                             slab.num_outputs, buffer->data() + offsets[i]);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return std::make_unique<DnnlWeights>(
      this, std::move(buffer), std::move(slabs), num_outputs, num_inputs);
}

void DnnlGemmImpl::RunTile(const Tile& tile, const memory& packed,
                           const void* input, float* output, Worker& worker) {
  const memory from(tile.input, engine_, const_cast<void*>(input));
  const memory to(tile.output, engine_, output);
  const memory scratch(tile.scratch, engine_, worker.scratch->data());
  const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, from.get()},
                                       {DNNL_ARG_WEIGHTS, packed.get()},
                                       {DNNL_ARG_DST, to.get()},
                                       {DNNL_ARG_SCRATCHPAD, scratch.get()}};
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(tile.primitive.get(), worker.stream.get(), 4,
                             arguments),
      "could not multiply");
}

void StoreRows(const GemmArgs& args, const Slab& slab, const float* from,
               int64_t first_row, int64_t num_rows) {
  for (int64_t row = 0; row < num_rows; ++row) {
    float* const to = args.output + (first_row + row) * args.output_stride +
                      slab.first_output;
    const float* const values = from + row * slab.kernel->num_outputs;
    if (args.accumulate) {
      for (int32_t n = 0; n < slab.num_outputs; ++n) to[n] += values[n];
    } else {
      std::memcpy(to, values, slab.num_outputs * sizeof(float));
    }
  }
}

// The tile for `num_rows` >= 1 rows: the highest that they fill, or the lowest
// that holds two or three of them, which costs no more than height 1 does.
const Tile& TileFor(const SlabKernel& kernel, int64_t num_rows) {
  if (num_rows > 1 && num_rows < 4) {
    for (const Tile& tile : kernel.tiles) {
      if (tile.height == 4) return tile;
    }
  }
  for (const Tile& tile : kernel.tiles) {
    if (tile.height <= num_rows) return tile;
  }
  return kernel.tiles.back();
}

void DnnlGemmImpl::RunRows(const GemmArgs& args, const Slab& slab,
                           int64_t begin, int64_t end, Worker& worker) {
  const int64_t row_bytes = slab.kernel->num_inputs * BytesOf(type_);
  const auto* const input = static_cast<const std::byte*>(args.input.data);
  while (begin < end) {
    const Tile& tile = TileFor(*slab.kernel, end - begin);
    const int64_t num_rows = std::min<int64_t>(tile.height, end - begin);
    const std::byte* from = input + begin * row_bytes;
    if (num_rows < tile.height) {
      std::byte* const filled = worker.input->data();
      std::memcpy(filled, from, num_rows * row_bytes);
      std::memset(filled + num_rows * row_bytes, 0,
                  (tile.height - num_rows) * row_bytes);
      from = filled;
    }
    float* const output = worker.output->as<float>();
    RunTile(tile, slab.packed, from, output, worker);
    StoreRows(args, slab, output, begin, num_rows);
    begin += num_rows;
  }
}

absl::Status DnnlGemmImpl::Run(const GemmArgs& args) {
  const std::vector<Slab>& slabs =
      static_cast<const DnnlWeights*>(args.weights)->slabs();
  const int64_t num_blocks = (args.num_rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<absl::Status> failures(workers_.size());
  pool_->Run(num_blocks * slabs.size(), [&](int64_t task, int32_t thread) {
    const Slab& slab = slabs[task / num_blocks];
    const int64_t begin = task % num_blocks * kRowsPerTask;
    const int64_t end = std::min<int64_t>(args.num_rows, begin + kRowsPerTask);
    failures[thread].Update(CallDnnl([&] {
      RunRows(args, slab, begin, end, workers_[thread]);
      return absl::OkStatus();
    }));
  });
  absl::Status status;
  for (const absl::Status& failure : failures) status.Update(failure);
  return status;
}

std::vector<int32_t> DnnlGemmImpl::TileHeights(
    const GemmWeights* weights) const {
  const auto* const own = static_cast<const DnnlWeights*>(weights);
  std::vector<int32_t> heights;
  for (const Tile& tile : own->slabs()[0].kernel->tiles) {
    heights.push_back(tile.height);
  }
  return heights;
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
