#include "kernels/cpu/dnnl_slab.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/host_memory.h"

// Of the OpenMP run time that oneDNN runs on.
extern "C" {
void omp_set_num_threads(int);
int omp_get_max_threads(void);
}

namespace ttt {
namespace {

using dnnl::memory;

memory::data_type DnnlType(DType type) {
  return type == DType::kFloat32 ? memory::data_type::f32
                                 : memory::data_type::bf16;
}

absl::Status GrowBuffer(int64_t size_bytes,
                        std::unique_ptr<DeviceBuffer>& buffer) {
  if (buffer != nullptr && buffer->size_bytes() >= size_bytes) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> larger =
      AllocateHostMemory(size_bytes);
  if (!larger.ok()) return larger.status();
  buffer = *std::move(larger);
  return absl::OkStatus();
}

// `values` in the type of an operand, as FloatToBFloat16 rounds.
std::vector<std::byte> ToOperand(const float* values, int64_t size,
                                 DType type) {
  std::vector<std::byte> bytes;
  if (type == DType::kFloat32) {
    bytes.resize(size * sizeof(float));
    std::memcpy(bytes.data(), values, bytes.size());
  } else {
    bytes.resize(size * sizeof(uint16_t));
    std::transform(values, values + size,
                   reinterpret_cast<uint16_t*>(bytes.data()), FloatToBFloat16);
  }
  return bytes;
}

}  // namespace

OneThread::OneThread() : before_(omp_get_max_threads()) {
  omp_set_num_threads(1);
}
OneThread::~OneThread() { omp_set_num_threads(before_); }

absl::StatusOr<std::unique_ptr<SlabKernel>> SlabKernel::Create(
    const dnnl::engine& engine, DType type, int64_t num_inputs,
    int64_t num_outputs, std::vector<GemmWorker>& workers) {
  std::unique_ptr<SlabKernel> kernel(
      new SlabKernel(engine, type, num_inputs, num_outputs));
  for (const int32_t height : kTileHeights) kernel->AddTile(height);
  if (kernel->tiles_.empty() || kernel->tiles_.back().height != 1) {
    return absl::InternalError(absl::StrCat("oneDNN has no product of ",
                                            num_inputs, " by ", num_outputs));
  }
  absl::Status status = kernel->Grow(workers);
  if (status.ok()) status = kernel->DropUnequalTiles(workers[0]);
  if (!status.ok()) return status;
  return kernel;
}

void SlabKernel::AddTile(int64_t height) {
  const memory::desc input({height, num_inputs_}, DnnlType(type_),
                           memory::format_tag::ab);
  const memory::desc output({height, num_outputs_}, memory::data_type::f32,
                            memory::format_tag::ab);
  const bool chooses = packed_.is_zero();
  const memory::desc weights =
      chooses ? memory::desc({num_inputs_, num_outputs_}, DnnlType(type_),
                             memory::format_tag::any)
              : packed_;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  try {
    const dnnl::matmul::primitive_desc description(
        dnnl::matmul::desc(input, weights, output), attributes, engine_);
    if (chooses) packed_ = description.weights_desc();
    tiles_.push_back({int32_t(height), dnnl::matmul(description), input, output,
                      description.scratchpad_desc()});
  } catch (const dnnl::error&) {
    // Then the tiles that there are do its work.
  }
}

absl::Status SlabKernel::Grow(std::vector<GemmWorker>& workers) const {
  int64_t scratch_bytes = 0;
  for (const Tile& tile : tiles_) {
    scratch_bytes = std::max<int64_t>(scratch_bytes, tile.scratch.get_size());
  }
  const int64_t output_bytes =
      kMaxTileHeight * num_outputs_ * int64_t{sizeof(float)};
  absl::Status status;
  for (GemmWorker& worker : workers) {
    status.Update(GrowBuffer(kMaxTileHeight * row_bytes(), worker.input));
    status.Update(GrowBuffer(output_bytes, worker.output));
    status.Update(GrowBuffer(scratch_bytes, worker.scratch));
  }
  return status;
}

absl::Status SlabKernel::DropUnequalTiles(GemmWorker& worker) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> weights(num_outputs_ * num_inputs_);
  for (float& weight : weights) weight = uniform(random);
  std::vector<float> values(kMaxTileHeight * num_inputs_);
  for (float& value : values) value = uniform(random);
  const std::vector<std::byte> input =
      ToOperand(values.data(), values.size(), type_);

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> to =
      AllocateHostMemory(packed_bytes());
  if (!to.ok()) return to.status();
  const memory packed =
      Pack(weights.data(), num_outputs_, (*to)->data(), worker);
  const float* const output = worker.output->as<float>();
  std::vector<float> wanted;
  for (int64_t row = 0; row < kMaxTileHeight; ++row) {
    Run(tiles_.back(), packed, input.data() + row * row_bytes(), worker);
    wanted.insert(wanted.end(), output, output + num_outputs_);
  }
  const auto is_as_wanted = [&](int64_t num_rows) {
    return std::memcmp(output, wanted.data(),
                       num_rows * num_outputs_ * sizeof(float)) == 0;
  };
  std::erase_if(tiles_, [&](const Tile& tile) {
    Run(tile, packed, input.data(), worker);
    return !is_as_wanted(tile.height);
  });
  if (!FitsFewRows()) return absl::OkStatus();
  const auto sums_in = [&](int64_t chunk_inputs) {
    for (int64_t rows = kMaxFewRows; rows >= 1; --rows) {
      RunFewRows(packed, input.data(), rows, chunk_inputs, worker);
      if (!is_as_wanted(rows)) return false;
    }
    return true;
  };
  for (int64_t chunk = 32; chunk < 2 * num_inputs_; chunk *= 2) {
    const int64_t chunk_inputs = std::min(chunk, num_inputs_);
    if (sums_in(chunk_inputs)) few_rows_chunk_ = chunk_inputs;
  }
  return absl::OkStatus();
}

bool SlabKernel::FitsFewRows() const {
  if (type_ != DType::kBFloat16 || !HasAvx512BFloat16() ||
      num_inputs_ % 32 != 0 || num_outputs_ % 16 != 0) {
    return false;
  }
  // Blocks of 16 pairs of inputs by 64 outputs, those of one panel in a row.
  const dnnl_memory_desc_t& packed = packed_.data;
  const dnnl_blocking_desc_t& blocks = packed.format_desc.blocking;
  return packed.format_kind == dnnl_blocked && packed.extra.flags == 0 &&
         blocks.inner_nblks == 3 && blocks.inner_blks[0] == 16 &&
         blocks.inner_idxs[0] == 0 && blocks.inner_blks[1] == kPanelOutputs &&
         blocks.inner_idxs[1] == 1 && blocks.inner_blks[2] == 2 &&
         blocks.inner_idxs[2] == 0 && blocks.strides[0] == 32 * kPanelOutputs &&
         blocks.strides[1] == num_inputs_ * kPanelOutputs;
}

void SlabKernel::RunFewRows(const memory& packed, const std::byte* input,
                            int64_t num_rows, int64_t chunk_inputs,
                            GemmWorker& worker) const {
  MultiplyFewRows(
      {.input = reinterpret_cast<const uint16_t*>(input),
       .packed = static_cast<const uint16_t*>(packed.get_data_handle()),
       .output = worker.output->as<float>(),
       .num_rows = static_cast<int32_t>(num_rows),
       .num_inputs = num_inputs_,
       .num_outputs = num_outputs_,
       .chunk_inputs = chunk_inputs});
}

memory SlabKernel::Pack(const float* weights, int64_t num_outputs, void* to,
                        GemmWorker& worker) const {
  std::vector<std::byte> plain =
      ToOperand(weights, num_outputs * num_inputs_, type_);
  plain.resize(num_outputs_ * row_bytes());
  memory from(memory::desc({num_inputs_, num_outputs_}, DnnlType(type_),
                           memory::format_tag::ba),
              engine_, plain.data());
  memory packed(packed_, engine_, to);
  dnnl::reorder(from, packed).execute(worker.stream, from, packed);
  worker.stream.wait();
  return packed;
}

// The highest tile that the rows fill, or the lowest that holds two or three of
// them, which takes no longer than height 1 does.
const SlabKernel::Tile& SlabKernel::TileFor(int64_t num_rows) const {
  if (num_rows == 2 || num_rows == 3) {
    for (const Tile& tile : tiles_) {
      if (tile.height == 4) return tile;
    }
  }
  for (const Tile& tile : tiles_) {
    if (tile.height <= num_rows) return tile;
  }
  return tiles_.back();
}

int64_t SlabKernel::MultiplySome(const memory& packed, const std::byte* input,
                                 int64_t num_rows, GemmWorker& worker) const {
  const int32_t tallest = tiles_.front().height;
  if (few_rows_chunk_ > 0 && (num_rows < tallest || tallest <= kMaxFewRows)) {
    const int64_t rows = std::min<int64_t>(num_rows, kMaxFewRows);
    RunFewRows(packed, input, rows, few_rows_chunk_, worker);
    return rows;
  }
  const Tile& tile = TileFor(num_rows);
  if (tile.height > num_rows) {
    std::byte* const filled = worker.input->data();
    std::memcpy(filled, input, num_rows * row_bytes());
    std::memset(filled + num_rows * row_bytes(), 0,
                (tile.height - num_rows) * row_bytes());
    input = filled;
  }
  Run(tile, packed, input, worker);
  return std::min<int64_t>(tile.height, num_rows);
}

void SlabKernel::Run(const Tile& tile, const memory& packed,
                     const std::byte* input, GemmWorker& worker) const {
  const memory from(tile.input, engine_, const_cast<std::byte*>(input));
  const memory to(tile.output, engine_, worker.output->data());
  const memory scratch(tile.scratch, engine_, worker.scratch->data());
  const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, from.get()},
                                       {DNNL_ARG_WEIGHTS, packed.get()},
                                       {DNNL_ARG_DST, to.get()},
                                       {DNNL_ARG_SCRATCHPAD, scratch.get()}};
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(tile.primitive.get(), worker.stream.get(),
                             std::size(arguments), arguments),
      "could not multiply");
}

}  // namespace ttt
