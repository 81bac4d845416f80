#include "kernels/backend.h"

#include <vector>

#include "kernels/validate.h"

namespace ttt {
namespace {

// Of a backend that has done what it was asked for when it returns.
class HostReadback : public Readback {
 public:
  HostReadback(Backend* backend, int64_t size_bytes)
      : backend_(*backend), bytes_(size_bytes) {}

  std::byte* data() const override { return bytes_.data(); }
  int64_t size_bytes() const override {
    return static_cast<int64_t>(bytes_.size());
  }
  absl::Status Copy(int64_t offset_bytes, const void* device,
                    int64_t size_bytes) override {
    return backend_.CopyToHost(bytes_.data() + offset_bytes, device,
                               size_bytes);
  }
  absl::Status Wait() override { return absl::OkStatus(); }

 private:
  Backend& backend_;
  mutable std::vector<std::byte> bytes_;
};

class FinishedDigests : public QueuedDigests {
 public:
  absl::Status Finish() override { return absl::OkStatus(); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Readback>> Backend::CreateReadback(
    int64_t size_bytes) {
  return std::make_unique<HostReadback>(this, size_bytes);
}

absl::StatusOr<std::unique_ptr<QueuedDigests>> Backend::QueueDigests(
    const DigestStatesArgs& args) {
  if (absl::Status status = DigestStates(args); !status.ok()) return status;
  return std::make_unique<FinishedDigests>();
}

absl::Status Backend::LearnerOfProjections(
    const LearnerOfProjectionsArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  if (absl::Status status = LearnerInputs(args.inputs); !status.ok()) {
    return status;
  }
  return Learner(args.learner);
}

absl::Status Backend::GemmSwiGlu(const GemmSwiGluArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  const int32_t width = args.weights->num_outputs();
  if (absl::Status status = Gemm({.input = args.input,
                                  .weights = args.weights,
                                  .output = args.scratch,
                                  .output_stride = width,
                                  .num_rows = args.num_rows,
                                  .accumulate = false});
      !status.ok()) {
    return status;
  }
  return SwiGlu({.gate_up = args.scratch,
                 .output = args.output,
                 .num_rows = args.num_rows,
                 .inner = width / 2});
}

}  // namespace ttt
