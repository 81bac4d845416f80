#include "kernels/cpu/host_backend.h"

#include "absl/strings/str_cat.h"

namespace ttt {

absl::Status HostBackend::Copy(void* to, const void* from, int64_t size_bytes) {
  if (size_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Copy: size_bytes is ", size_bytes));
  }
  if (size_bytes > 0) std::memmove(to, from, size_bytes);
  return absl::OkStatus();
}

absl::Status HostBackend::CheckOperand(const GemmArgs& args,
                                       bool is_own) const {
  if (!is_own) {
    return absl::InvalidArgumentError("Gemm: weights is of another backend");
  }
  if (args.input.type != operand_type()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Gemm: input.type is ", int(args.input.type)));
  }
  return absl::OkStatus();
}

absl::Status ValidateWeights(int32_t num_outputs, int32_t num_inputs) {
  if (num_outputs <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("PackWeights: num_outputs is ", num_outputs));
  }
  if (num_inputs <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("PackWeights: num_inputs is ", num_inputs));
  }
  return absl::OkStatus();
}

}  // namespace ttt
