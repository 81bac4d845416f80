// One slab of a weight matrix as oneDNN multiplies it. Part of dnnl_gemm.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "kernels/backend.h"
#include "kernels/op_args.h"

namespace ttt {

// While it lives, oneDNN uses no thread but the calling one.
class OneThread {
 public:
  OneThread();
  ~OneThread();
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

// What one thread needs to multiply. The buffers grow with the matrices.
struct GemmWorker {
  dnnl::stream stream;
  std::unique_ptr<DeviceBuffer> input = nullptr;    // rows filled up to a tile
  std::unique_ptr<DeviceBuffer> output = nullptr;   // of a tile
  std::unique_ptr<DeviceBuffer> scratch = nullptr;  // oneDNN's
};

// How slabs of one shape are packed and multiplied. Immutable once made; may be
// used by several threads, each with its own worker. Functions throw
// dnnl::error: call them in CallDnnl.
class SlabKernel {
 public:
  // Heights of the tiles of rows that are tried.
  static constexpr int32_t kTileHeights[] = {64, 16, 4, 1};
  static constexpr int32_t kMaxTileHeight = kTileHeights[0];

  // Grows the workers for the shape. INTERNAL: oneDNN cannot.
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<SlabKernel>> Create(
      const dnnl::engine& engine, DType type, int64_t num_inputs,
      int64_t num_outputs, std::vector<GemmWorker>& workers);

  int64_t num_inputs() const { return num_inputs_; }
  int64_t num_outputs() const { return num_outputs_; }
  int64_t packed_bytes() const { return packed_.get_size(); }

  // Packs weights [num_outputs, num_inputs], num_outputs at most the slab's,
  // into `to`, 64-byte aligned, filling up with zeros.
  dnnl::memory Pack(const float* weights, int64_t num_outputs, void* to,
                    GemmWorker& worker) const;
  // Multiplies the first rows, at most num_rows >= 1, of input [num_rows,
  // num_inputs] into worker.output [.., num_outputs]. Returns how many.
  int64_t MultiplySome(const dnnl::memory& packed, const std::byte* input,
                       int64_t num_rows, GemmWorker& worker) const;

 private:
  // A product of `height` rows with one slab.
  struct Tile {
    int32_t height;
    dnnl::matmul primitive;
    dnnl::memory::desc input;
    dnnl::memory::desc output;
    dnnl::memory::desc scratch;
  };

  SlabKernel(const dnnl::engine& engine, DType type, int64_t num_inputs,
             int64_t num_outputs)
      : engine_(engine),
        type_(type),
        num_inputs_(num_inputs),
        num_outputs_(num_outputs) {}

  int64_t row_bytes() const {
    return num_inputs_ * (type_ == DType::kFloat32 ? 4 : 2);
  }
  // Adds the tile if oneDNN has it; chooses the packed layout if there is none.
  void AddTile(int64_t height);
  absl::Status Grow(std::vector<GemmWorker>& workers) const;
  // True if MultiplyFewRows can read the packed layout, and this CPU run it.
  bool FitsFewRows() const;
  // Keeps what multiplies each row as the tile of height 1 does, bit for bit.
  absl::Status DropUnequalTiles(GemmWorker& worker);
  void RunFewRows(const dnnl::memory& packed, const std::byte* input,
                  int64_t num_rows, int64_t chunk_inputs,
                  GemmWorker& worker) const;
  const Tile& TileFor(int64_t num_rows) const;
  void Run(const Tile& tile, const dnnl::memory& packed, const std::byte* input,
           GemmWorker& worker) const;

  const dnnl::engine engine_;
  const DType type_;
  const int64_t num_inputs_;
  const int64_t num_outputs_;
  dnnl::memory::desc packed_;
  std::vector<Tile> tiles_;  // by falling height; the last has height 1
  // Of FewRowsArgs: how oneDNN sums too. 0: none of those tried is. Else
  // MultiplyFewRows does what does not fill a tile of many rows.
  int64_t few_rows_chunk_ = 0;
};

}  // namespace ttt
