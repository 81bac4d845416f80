// Memory and ops of one device: all that the model needs of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/op_args.h"

namespace ttt {

enum class Precision : uint8_t { kFloat32, kBFloat16 };

struct DeviceInfo {
  std::string name;         // "cpu", "cuda:0"
  std::string description;  // for people: instruction set, threads
  Precision precision;
  // Two backends of equal fingerprint give equal bits: device, instruction set,
  // precision, numerics version of the ops.
  std::string numerics_fingerprint;
};

// Zero throughout for a device that has no memory of its own.
struct DeviceCounts {
  int64_t bytes_to_device = 0;
  int64_t bytes_to_host = 0;
  int64_t recordings_run = 0;
};

// Memory beside what a backend is asked for.
struct DeviceOverhead {
  // Of the device, taken: by its driver for this process, and by others.
  int64_t driver_bytes = 0;
  int64_t own_bytes = 0;  // of the device, taken: arrays of the backend's own
  // Of the device, taken later and no more than that: recordings, and code that
  // comes with its first launch. As measured; a recording without room fails
  // alone.
  int64_t reserve_bytes = 0;
  int64_t pinned_bytes = 0;  // of the host, page-locked, taken
};

// Memory, mostly of the device, given back by the destructor. Must not outlive
// its backend.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() const = 0;
  virtual int64_t size_bytes() const = 0;

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }
};

// A copy that runs beside the ops (Backend::StartCopyToHost). Those of a
// direction are counted from 1 and end in that order; 0 has ended.
struct DeviceCopy {
  bool is_to_host = false;
  int64_t number = 0;
};

// Ops that were recorded, to be run as often as wanted with the arguments that
// they were recorded with, on what their arrays then hold. Must not outlive its
// backend.
class Recording {
 public:
  virtual ~Recording() = default;
};

// Host memory that the device copies to while the host goes on. Must not
// outlive its backend.
class Readback {
 public:
  virtual ~Readback() = default;
  // Undefined between a Copy and the next Wait.
  virtual std::byte* data() const = 0;
  virtual int64_t size_bytes() const = 0;
  // Queues a copy of device memory to data() + offset_bytes. Errors of the
  // backend.
  virtual absl::Status Copy(int64_t offset_bytes, const void* device,
                            int64_t size_bytes) = 0;
  // Returns when the copies so far have ended; what was queued after them may
  // go on. Errors of the backend, those of the ops before the copies too.
  virtual absl::Status Wait() = 0;
};

// Digests that the device computes while the host goes on: see QueueDigests.
// Must not outlive its backend.
class QueuedDigests {
 public:
  virtual ~QueuedDigests() = default;
  // Returns when they are there. Once. Errors of the backend.
  virtual absl::Status Finish() = 0;
};

// One device. Not thread-safe: used by one thread at a time (the engine's, and
// before it starts, the one that loads the model). Ops run in the order of the
// calls, and so do copies; CopyToHost returns when all before it has ended.
// Each op returns INVALID_ARGUMENT if its args are out of range (validate.h),
// INTERNAL if the device failed, UNAVAILABLE if the device is lost: then no op
// will run on it again, and what its memory holds is gone.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;
  // The type of Operand that ops write and Gemm reads.
  virtual DType operand_type() const = 0;
  // How its learner keeps states; a matter of the backend and its precision
  // alone.
  virtual StateForms state_forms() const { return {}; }
  // Memory that nobody has taken yet. No value: it is taken when it is first
  // used, and cannot be told. INTERNAL, UNAVAILABLE.
  virtual absl::StatusOr<std::optional<int64_t>> FreeBytes() {
    return std::nullopt;
  }
  // Whether ops go on while the caller does: who queues the next ones before he
  // waits for the last keeps the device busy.
  virtual bool is_asynchronous() const { return false; }
  virtual DeviceOverhead overhead() const { return {}; }
  // What it did so far. From any thread.
  virtual DeviceCounts counts() const { return {}; }

  // Zeroed, 64-byte aligned, on a GPU 256-byte. RESOURCE_EXHAUSTED: not that
  // much memory.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) = 0;
  // Packs float32 host weights [num_outputs, num_inputs], rounded to the
  // backend's precision. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) = 0;
  // The same of the weights that GemmSwiGlu takes, and Gemm does not:
  // [2 * inner, num_inputs], gate before up.
  virtual absl::StatusOr<std::unique_ptr<GemmWeights>> PackGateUp(
      const float* weights, int32_t num_outputs, int32_t num_inputs) {
    return PackWeights(weights, num_outputs, num_inputs);
  }
  // The bytes that either would take for such weights, without taking
  // them. As they are, of operand_type; a backend that fills them up says
  // otherwise. INTERNAL.
  virtual absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                              int32_t num_inputs) {
    return int64_t{num_outputs} * num_inputs *
           (operand_type() == DType::kFloat32 ? 4 : 2);
  }
  virtual absl::Status CopyToDevice(void* device, const void* host,
                                    int64_t size_bytes) = 0;
  virtual absl::Status CopyToHost(void* host, const void* device,
                                  int64_t size_bytes) = 0;
  // Of that many bytes. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::unique_ptr<Readback>> CreateReadback(
      int64_t size_bytes);
  virtual absl::Status CopyOnDevice(void* to, const void* from,
                                    int64_t size_bytes) = 0;
  // Waits for all that was queued, save copies beside the ops.
  virtual absl::Status Synchronize() = 0;

  // Memory of the host that copies reach at full speed, with no defined
  // content. As here on a device that has no memory of its own.
  // RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(
      int64_t size_bytes) {
    return Allocate(size_bytes);
  }
  // Copies beside the ops: each begins once what was queued before the call
  // has ended, and runs while later ops do, unless they are told to await it.
  // Both places must stay until it has ended. `host` is of AllocateHost, else
  // the call may wait for the copy. At once, as here, on a device that has no
  // memory of its own.
  virtual absl::StatusOr<DeviceCopy> StartCopyToHost(void* host,
                                                     const void* device,
                                                     int64_t size_bytes) {
    if (absl::Status status = CopyToHost(host, device, size_bytes);
        !status.ok()) {
      return status;
    }
    return DeviceCopy{};
  }
  virtual absl::StatusOr<DeviceCopy> StartCopyToDevice(void* device,
                                                       const void* host,
                                                       int64_t size_bytes) {
    if (absl::Status status = CopyToDevice(device, host, size_bytes);
        !status.ok()) {
      return status;
    }
    return DeviceCopy{};
  }
  virtual absl::StatusOr<bool> HasEnded(const DeviceCopy& /*copy*/) {
    return true;
  }
  // Returns once the copy has ended.
  virtual absl::Status Wait(const DeviceCopy& /*copy*/) {
    return absl::OkStatus();
  }
  // What is queued from now on begins once the copy has ended.
  virtual absl::Status QueueAfter(const DeviceCopy& /*copy*/) {
    return absl::OkStatus();
  }

  // Records the ops that `work` calls, instead of running them; it must call
  // nothing else. Null: this backend gains nothing by it. Errors of `work`;
  // RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> /*work*/) {
    return std::unique_ptr<Recording>();
  }
  // `recording` is this backend's.
  virtual absl::Status Run(const Recording& /*recording*/) {
    return absl::UnimplementedError("Run: this backend records nothing");
  }

  virtual absl::Status EndSequences(const EndSequencesArgs& args) = 0;
  virtual absl::Status EmbedTokens(const EmbedTokensArgs& args) = 0;
  virtual absl::Status RmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status ConvNorm(const ConvNormArgs& args) = 0;
  virtual absl::Status LearnerInputs(const LearnerInputsArgs& args) = 0;
  virtual absl::Status Learner(const LearnerArgs& args) = 0;
  // LearnerInputs and Learner, unless a backend does better.
  virtual absl::Status LearnerOfProjections(
      const LearnerOfProjectionsArgs& args);
  virtual absl::Status NormGate(const NormGateArgs& args) = 0;
  virtual absl::Status SwiGlu(const SwiGluArgs& args) = 0;
  virtual absl::Status Gemm(const GemmArgs& args) = 0;
  // Gemm and SwiGlu, unless a backend does better.
  virtual absl::Status GemmSwiGlu(const GemmSwiGluArgs& args);
  virtual absl::Status SaveHidden(const SaveHiddenArgs& args) = 0;
  virtual absl::Status GatherHidden(const GatherHiddenArgs& args) = 0;
  virtual absl::Status SampleTokens(const SampleTokensArgs& args) = 0;
  virtual absl::Status DigestStates(const DigestStatesArgs& args) = 0;
  // DigestStates in two parts: `args.digests` and `args.finite` must live until
  // Finish fills them.
  virtual absl::StatusOr<std::unique_ptr<QueuedDigests>> QueueDigests(
      const DigestStatesArgs& args);
};

}  // namespace ttt
