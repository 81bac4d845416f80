#include "kernels/cpu/host_backend.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/validate.h"

namespace ttt {

absl::Status HostBackend::ConvNorm(const ConvNormArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  const auto norm = [&](const float* input, const float* weight,
                        Operand output) {
    return RmsNorm({.input = input,
                    .weight = weight,
                    .output = output,
                    .num_rows = args.rows.num_rows,
                    .hidden_size = args.hidden_size,
                    .epsilon = args.epsilon});
  };
  // What is convolved stands in `sum` until the result does.
  if (absl::Status status =
          norm(args.input, args.conv_norm_weight, {args.sum, DType::kFloat32});
      !status.ok()) {
    return status;
  }
  CausalConv({.rows = args.rows,
              .input = args.sum,
              .weight = args.weight,
              .bias = args.bias,
              .tail = args.tail,
              .output = args.input,
              .hidden_size = args.hidden_size,
              .kernel = args.kernel});
  const int64_t floats = int64_t{args.rows.num_rows} * args.hidden_size;
  std::copy_n(args.input, floats, args.sum);
  return norm(args.sum, args.norm_weight, args.output);
}

absl::Status HostBackend::Copy(void* to, const void* from, int64_t size_bytes) {
  if (size_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Copy: size_bytes is ", size_bytes));
  }
  if (size_bytes > 0) std::memmove(to, from, size_bytes);
  return absl::OkStatus();
}

}  // namespace ttt
