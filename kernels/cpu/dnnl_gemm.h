// Matrix products by oneDNN, held to the promise that a row's bits do not
// depend on the number of rows, its index, or the number of threads.
//
// A weight matrix is cut into slabs of kSlabOutputs outputs, whatever the
// number of threads, and a slab is packed once in the layout that oneDNN's
// kernels want. A product runs one slab on a tile of rows on one thread, so
// oneDNN never splits K. Its kernels are made for a few fixed tile heights;
// when the first slab of a shape is packed, every height is run on random data,
// and one whose rows differ in a single bit from those of height 1, at any row
// index, is not used. Rows left over are filled up to a tile with zeros.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_args.h"

namespace ttt {

class DnnlGemm {
 public:
  // `pool` must outlive the object. INTERNAL: oneDNN failed.
  static absl::StatusOr<std::unique_ptr<DnnlGemm>> Create(DType type,
                                                          ThreadPool* pool);
  virtual ~DnnlGemm() = default;

  // The weights must not outlive the object. RESOURCE_EXHAUSTED, INTERNAL.
  virtual absl::StatusOr<std::unique_ptr<GemmWeights>> Pack(
      const float* weights, int32_t num_outputs, int32_t num_inputs) = 0;
  // Of the weights that Pack would make. INTERNAL.
  virtual absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                              int32_t num_inputs) = 0;
  // True if Pack made them.
  virtual bool Owns(const GemmWeights* weights) const = 0;
  // Takes valid args, an input of `type` and own weights. INTERNAL.
  virtual absl::Status Run(const GemmArgs& args) = 0;
};

// Version and instruction set of the library.
std::string DnnlDescription();

}  // namespace ttt
