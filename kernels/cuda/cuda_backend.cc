#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/copy_queue.h"
#include "kernels/cuda/cuda_graph.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/gemm_layout.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/digest.h"
#include "kernels/validate.h"

namespace ttt {
namespace {

// What the kernels are compiled for (cmake/Dependencies.cmake).
constexpr int kComputeMajor = 9;
constexpr int kComputeMinor = 0;

// Of the order of sums in the kernels: a change that alters bits counts it up.
constexpr int kNumericsVersion = 4;

// Of graphs and of code that comes late: ttt_engine_bench --mode=capacity tells
// what they took.
constexpr int64_t kReserveBytes = int64_t{256} << 20;

class CudaWeights : public GemmWeights {
 public:
  CudaWeights(std::unique_ptr<DeviceBuffer> buffer, const PackedMatrix& matrix,
              bool is_interleaved)
      : buffer_(std::move(buffer)),
        matrix_(matrix),
        is_interleaved_(is_interleaved) {}

  int64_t bytes() const override { return buffer_->size_bytes(); }
  int32_t num_outputs() const override { return matrix_.num_outputs; }
  int32_t num_inputs() const override { return matrix_.num_inputs; }
  const PackedMatrix& matrix() const { return matrix_; }
  // Whether gate and up of a channel stand next to each other.
  bool is_interleaved() const { return is_interleaved_; }

 private:
  const std::unique_ptr<DeviceBuffer> buffer_;
  const PackedMatrix matrix_;
  const bool is_interleaved_;
};

uint16_t ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

int32_t RoundUp(int32_t value, int32_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Steps 3 to 5 of digest.h over the header, on the host.
std::array<uint64_t, 4> HashHeader(const DigestStatesArgs& args) {
  std::array<uint64_t, 4> sums = {};
  uint64_t lanes[kDigestLanes];
  for (int64_t begin = 0; begin < args.header_words;
       begin += kDigestBlockWords) {
    const int64_t size =
        std::min<int64_t>(kDigestBlockWords, args.header_words - begin);
    DigestBlockLanes(args.header + begin, size, lanes);
    DigestAddBlock(
        DigestBlockKey(kDigestHeaderPlane, 0, begin / kDigestBlockWords), size,
        lanes, sums.data());
  }
  return sums;
}

class CudaBackend : public Backend {
 public:
  CudaBackend(DeviceInfo info, int32_t ordinal, const GemmDevice& gemm_device,
              CudaStream stream, CopyQueue to_host, CopyQueue to_device,
              PinnedStaging staging, std::unique_ptr<DeviceBuffer> digest_sums,
              int64_t driver_bytes)
      : info_(std::move(info)),
        ordinal_(ordinal),
        gemm_device_(gemm_device),
        stream_(std::move(stream)),
        to_host_(std::move(to_host)),
        to_device_(std::move(to_device)),
        staging_(std::move(staging)),
        digest_sums_(std::move(digest_sums)),
        driver_bytes_(driver_bytes) {}

  const DeviceInfo& info() const override { return info_; }
  DType operand_type() const override {
    return info_.precision == Precision::kFloat32 ? DType::kFloat32
                                                  : DType::kBFloat16;
  }

  StateForms state_forms() const override {
    if (info_.precision == Precision::kFloat32) return {};
    return {FastWeightsForm::kSplit, DType::kBFloat16};
  }

  bool is_asynchronous() const override { return true; }

  absl::StatusOr<std::optional<int64_t>> FreeBytes() override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    if (absl::Status status = CudaStatus(
            cudaMemGetInfo(&free_bytes, &total_bytes), "free memory");
        !status.ok()) {
      return status;
    }
    return static_cast<int64_t>(free_bytes);
  }
  DeviceOverhead overhead() const override {
    return {.driver_bytes = driver_bytes_,
            .own_bytes = digest_sums_->size_bytes(),
            .reserve_bytes = kReserveBytes,
            .pinned_bytes = PinnedStaging::bytes()};
  }
  DeviceCounts counts() const override {
    return {.bytes_to_device = bytes_to_device_,
            .bytes_to_host = bytes_to_host_,
            .recordings_run = recordings_run_};
  }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(
      int64_t size_bytes) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return AllocateCudaMemory(size_bytes, stream_.get());
  }
  absl::StatusOr<std::unique_ptr<GemmWeights>> PackWeights(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    return Pack(weights, num_outputs, num_inputs, false);
  }
  absl::StatusOr<std::unique_ptr<GemmWeights>> PackGateUp(
      const float* weights, int32_t num_outputs, int32_t num_inputs) override {
    // Of other sizes GemmSwiGlu does one after the other.
    const bool is_interleaved = operand_type() == DType::kBFloat16 &&
                                num_outputs % (2 * kGateOutputs) == 0 &&
                                num_inputs % kChunkValues == 0;
    return Pack(weights, num_outputs, num_inputs, is_interleaved);
  }
  absl::StatusOr<int64_t> PackedBytes(int32_t num_outputs,
                                      int32_t num_inputs) override {
    if (absl::Status status = ValidateWeights(num_outputs, num_inputs);
        !status.ok()) {
      return status;
    }
    return int64_t{RoundUp(num_outputs, kOutputPadding)} *
           RoundUp(num_inputs, kInputPadding) *
           (operand_type() == DType::kFloat32 ? 4 : 2);
  }
  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size_bytes) override {
    bytes_to_device_ += std::max<int64_t>(size_bytes, 0);
    if (size_bytes > 0 && size_bytes <= staging_.max_bytes()) {
      if (absl::Status status = UseDevice(); !status.ok()) return status;
      return staging_.Copy(device, host, size_bytes, stream_.get());
    }
    return Copy(device, host, size_bytes, cudaMemcpyHostToDevice);
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size_bytes) override {
    bytes_to_host_ += std::max<int64_t>(size_bytes, 0);
    if (absl::Status status =
            Copy(host, device, size_bytes, cudaMemcpyDeviceToHost);
        !status.ok()) {
      return status;
    }
    return Synchronize();
  }
  absl::StatusOr<std::unique_ptr<Readback>> CreateReadback(
      int64_t size_bytes) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return PinnedReadback::Create(size_bytes, stream_.get(), &bytes_to_host_);
  }
  absl::Status CopyOnDevice(void* to, const void* from,
                            int64_t size_bytes) override {
    return Copy(to, from, size_bytes, cudaMemcpyDeviceToDevice);
  }
  absl::Status Synchronize() override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return CudaStatus(cudaStreamSynchronize(stream_.get()), "Synchronize");
  }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(
      int64_t size_bytes) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return AllocatePinnedMemory(size_bytes);
  }
  absl::StatusOr<DeviceCopy> StartCopyToHost(void* host, const void* device,
                                             int64_t size_bytes) override {
    bytes_to_host_ += std::max<int64_t>(size_bytes, 0);
    return StartCopy(host, device, size_bytes, /*is_to_host=*/true);
  }
  absl::StatusOr<DeviceCopy> StartCopyToDevice(void* device, const void* host,
                                               int64_t size_bytes) override {
    bytes_to_device_ += std::max<int64_t>(size_bytes, 0);
    return StartCopy(device, host, size_bytes, /*is_to_host=*/false);
  }
  absl::StatusOr<bool> HasEnded(const DeviceCopy& copy) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return QueueOf(copy).HasEnded(copy.number);
  }
  absl::Status Wait(const DeviceCopy& copy) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return QueueOf(copy).Wait(copy.number);
  }
  absl::Status QueueAfter(const DeviceCopy& copy) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return QueueOf(copy).HaveWait(copy.number, stream_.get());
  }

  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return CudaGraph::Record(stream_.get(), work);
  }
  absl::Status Run(const Recording& recording) override {
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    ++recordings_run_;
    return static_cast<const CudaGraph&>(recording).Launch(stream_.get());
  }

  absl::Status EndSequences(const EndSequencesArgs& args) override {
    return Queue(args, LaunchEndSequences, "EndSequences");
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    return Queue(args, LaunchEmbedTokens, "EmbedTokens");
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    return Queue(args, LaunchRmsNorm, "RmsNorm");
  }
  absl::Status ConvNorm(const ConvNormArgs& args) override {
    return Queue(args, LaunchConvNorm, "ConvNorm");
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override {
    if (absl::Status status = ValidateRows(args, state_forms().rows);
        !status.ok()) {
      return status;
    }
    return Queue(args, LaunchLearnerInputs, "LearnerInputs");
  }
  absl::Status Learner(const LearnerArgs& args) override {
    if (absl::Status status = ValidateRows(args, state_forms().rows);
        !status.ok()) {
      return status;
    }
    if (state_forms().fast_weights == FastWeightsForm::kFloat32) {
      return Queue(args, LaunchLearner, "Learner");
    }
    return Queue(args, args.is_mlp ? LaunchLearnerMlp : LaunchLearnerLinear,
                 "Learner");
  }
  absl::Status LearnerOfProjections(
      const LearnerOfProjectionsArgs& args) override;
  absl::Status NormGate(const NormGateArgs& args) override {
    return Queue(args, LaunchNormGate, "NormGate");
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    return Queue(args, LaunchSwiGlu, "SwiGlu");
  }
  absl::Status Gemm(const GemmArgs& args) override;
  absl::Status GemmSwiGlu(const GemmSwiGluArgs& args) override;
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    return Queue(args, LaunchSaveHidden, "SaveHidden");
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    return Queue(args, LaunchGatherHidden, "GatherHidden");
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    return Queue(args, LaunchSampleTokens, "SampleTokens");
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override;
  absl::StatusOr<std::unique_ptr<QueuedDigests>> QueueDigests(
      const DigestStatesArgs& args) override;

 private:
  class CudaDigests;

  // A thread that has not called this backend before has another device.
  absl::Status UseDevice() const {
    return CudaStatus(cudaSetDevice(ordinal_), info_.name);
  }

  static absl::Status CheckSize(int64_t size_bytes) {
    if (size_bytes >= 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("Copy: size_bytes is ", size_bytes));
  }
  CopyQueue& QueueOf(const DeviceCopy& copy) {
    return copy.is_to_host ? to_host_ : to_device_;
  }
  absl::StatusOr<DeviceCopy> StartCopy(void* to, const void* from,
                                       int64_t size_bytes, bool is_to_host) {
    if (absl::Status status = CheckSize(size_bytes); !status.ok()) {
      return status;
    }
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    DeviceCopy copy = {.is_to_host = is_to_host};
    const absl::StatusOr<int64_t> number = QueueOf(copy).Start(
        to, from, size_bytes,
        is_to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice,
        stream_.get());
    if (!number.ok()) return number.status();
    copy.number = *number;
    return copy;
  }

  absl::Status Copy(void* to, const void* from, int64_t size_bytes,
                    cudaMemcpyKind kind) {
    if (absl::Status status = CheckSize(size_bytes); !status.ok()) {
      return status;
    }
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return CudaStatus(
        cudaMemcpyAsync(to, from, size_bytes, kind, stream_.get()), "Copy");
  }

  template <typename Args>
  absl::Status Queue(const Args& args,
                     cudaError_t (*launch)(const Args&, cudaStream_t),
                     absl::string_view op) {
    if (absl::Status status = Validate(args); !status.ok()) return status;
    if (absl::Status status = UseDevice(); !status.ok()) return status;
    return CudaStatus(launch(args, stream_.get()), op);
  }

  absl::StatusOr<std::unique_ptr<GemmWeights>> Pack(const float* weights,
                                                    int32_t num_outputs,
                                                    int32_t num_inputs,
                                                    bool is_interleaved);
  // As Gemm, to `gated` if that is not null.
  absl::Status Multiply(const GemmArgs& args, const PackedMatrix& weights,
                        void* gated);
  absl::Status QueueSome(const DigestStatesArgs& args, int32_t first,
                         Readback* readback);

  const DeviceInfo info_;
  const int32_t ordinal_;
  const GemmDevice gemm_device_;
  std::atomic<int64_t> bytes_to_host_ = 0;
  const CudaStream stream_;
  CopyQueue to_host_;
  CopyQueue to_device_;
  PinnedStaging staging_;  // of small copies to the device
  const std::unique_ptr<DeviceBuffer> digest_sums_;  // [kMaxDigestStates]
  // Of digests that were finished: page-locked memory is slow to take.
  std::vector<std::unique_ptr<Readback>> spare_readbacks_;
  const int64_t driver_bytes_;  // taken before anything else was
  std::atomic<int64_t> bytes_to_device_ = 0;
  std::atomic<int64_t> recordings_run_ = 0;
};

absl::StatusOr<std::unique_ptr<GemmWeights>> CudaBackend::Pack(
    const float* weights, int32_t num_outputs, int32_t num_inputs,
    bool is_interleaved) {
  if (absl::Status status = ValidateWeights(num_outputs, num_inputs);
      !status.ok()) {
    return status;
  }
  const int64_t padded_outputs = RoundUp(num_outputs, kOutputPadding);
  const int32_t padded_inputs = RoundUp(num_inputs, kInputPadding);
  const int32_t strips = PaddedStrips(num_outputs);
  const bool is_float = operand_type() == DType::kFloat32;
  const int64_t value_bytes = is_float ? sizeof(float) : sizeof(uint16_t);
  std::vector<std::byte> packed(padded_outputs * padded_inputs * value_bytes);
  for (int64_t n = 0; n < num_outputs; ++n) {
    const float* const from = weights + n * num_inputs;
    if (is_float) {
      std::memcpy(packed.data() + n * padded_inputs * value_bytes, from,
                  num_inputs * sizeof(float));
      continue;
    }
    auto* const to = reinterpret_cast<uint16_t*>(packed.data());
    const int32_t inner = num_outputs / 2;
    const int32_t output = !is_interleaved ? n
                           : n < inner     ? GateOutput(n)
                                           : UpOutput(n - inner);
    for (int32_t k = 0; k < num_inputs; ++k) {
      to[PackedOffset(output, k, strips)] = ToBFloat16(from[k]);
    }
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      Allocate(packed.size());
  if (!buffer.ok()) return buffer.status();
  if (absl::Status status =
          CopyToDevice((*buffer)->data(), packed.data(), packed.size());
      !status.ok()) {
    return status;
  }
  const PackedMatrix matrix = {(*buffer)->data(), num_outputs, num_inputs,
                               padded_inputs};
  return std::make_unique<CudaWeights>(*std::move(buffer), matrix,
                                       is_interleaved);
}

absl::Status CudaBackend::Gemm(const GemmArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  const auto* const weights = dynamic_cast<const CudaWeights*>(args.weights);
  if (absl::Status status =
          ValidateOperands(args, weights != nullptr, operand_type());
      !status.ok()) {
    return status;
  }
  if (weights->is_interleaved()) {
    return absl::InvalidArgumentError("Gemm: weights is of PackGateUp");
  }
  return Multiply(args, weights->matrix(), nullptr);
}

absl::Status CudaBackend::LearnerOfProjections(
    const LearnerOfProjectionsArgs& args) {
  if (state_forms().fast_weights == FastWeightsForm::kFloat32 ||
      !CanLearnOfProjections(args)) {
    return Backend::LearnerOfProjections(args);
  }
  for (const absl::Status& status :
       {ValidateRows(args.inputs, state_forms().rows),
        ValidateRows(args.learner, state_forms().rows)}) {
    if (!status.ok()) return status;
  }
  return Queue(args, LaunchLearnerOfProjections, "LearnerOfProjections");
}

absl::Status CudaBackend::GemmSwiGlu(const GemmSwiGluArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  const auto* const weights = dynamic_cast<const CudaWeights*>(args.weights);
  if (weights == nullptr || !weights->is_interleaved()) {
    return Backend::GemmSwiGlu(args);
  }
  const GemmArgs product = {.input = args.input,
                            .weights = weights,
                            .output = nullptr,
                            .output_stride = weights->num_outputs(),
                            .num_rows = args.num_rows,
                            .accumulate = false};
  if (absl::Status status = ValidateOperands(product, true, operand_type());
      !status.ok()) {
    return status;
  }
  if (args.output.type != operand_type()) {
    return absl::InvalidArgumentError(
        absl::StrCat("GemmSwiGlu: output.type is ", int(args.output.type)));
  }
  return Multiply(product, weights->matrix(), args.output.data);
}

absl::Status CudaBackend::Multiply(const GemmArgs& args,
                                   const PackedMatrix& weights, void* gated) {
  if (args.num_rows == 0) return absl::OkStatus();
  if (absl::Status status = UseDevice(); !status.ok()) return status;
  if (operand_type() == DType::kFloat32) {
    return CudaStatus(LaunchGemmFloat(args, weights, stream_.get()), "Gemm");
  }
  if (weights.num_inputs % kChunkValues != 0) {
    return CudaStatus(LaunchGemmAnyRows(args, weights, stream_.get()), "Gemm");
  }
  int32_t box_rows = kManyRowsBox;
  auto* launch = LaunchGemmManyRows;
  if (args.num_rows <= MostLeastRows(weights)) {
    box_rows = LeastRowsBox(args.num_rows);
    launch = LaunchGemmLeastRows;
  } else if (args.num_rows <= MostFewRows(weights)) {
    box_rows = FewRowsBox(weights, args.num_rows);
    launch = LaunchGemmFewRows;
  }
  const absl::StatusOr<CUtensorMap> map =
      MakeTensorMap({.data = args.input.data,
                     .num_rows = args.num_rows,
                     .num_columns = weights.num_inputs,
                     .box_rows = box_rows});
  if (!map.ok()) return map.status();
  const Product product = {
      .args = args, .weights = weights, .gated = gated, .input = *map};
  return CudaStatus(launch(product, gemm_device_, stream_.get()), "Gemm");
}

// Sums on their way to the host, and what they become there.
class CudaBackend::CudaDigests : public QueuedDigests {
 public:
  CudaDigests(CudaBackend* backend, const DigestStatesArgs& args,
              std::unique_ptr<Readback> readback)
      : backend_(*backend),
        header_(HashHeader(args)),
        positions_(args.positions, args.positions + args.batch),
        digests_(args.digests),
        finite_(args.finite),
        readback_(std::move(readback)) {}
  ~CudaDigests() override {
    backend_.spare_readbacks_.push_back(std::move(readback_));
  }

  Readback* readback() const { return readback_.get(); }
  absl::Status Finish() override {
    if (absl::Status status = readback_->Wait(); !status.ok()) return status;
    const auto* const results =
        reinterpret_cast<const DigestSums*>(readback_->data());
    for (size_t i = 0; i < positions_.size(); ++i) {
      uint64_t sums[4];
      for (int j = 0; j < 4; ++j) sums[j] = results[i].words[j] + header_[j];
      DigestFinish(positions_[i], sums);
      std::memcpy(digests_ + i * kDigestBytes, sums, kDigestBytes);
      if (finite_ != nullptr) finite_[i] = results[i].not_finite == 0;
    }
    return absl::OkStatus();
  }

 private:
  CudaBackend& backend_;
  const std::array<uint64_t, 4> header_;
  const std::vector<int64_t> positions_;
  uint8_t* const digests_;
  uint8_t* const finite_;  // or null
  std::unique_ptr<Readback> readback_;
};

absl::Status CudaBackend::DigestStates(const DigestStatesArgs& args) {
  absl::StatusOr<std::unique_ptr<QueuedDigests>> queued = QueueDigests(args);
  return queued.ok() ? (*queued)->Finish() : queued.status();
}

absl::StatusOr<std::unique_ptr<QueuedDigests>> CudaBackend::QueueDigests(
    const DigestStatesArgs& args) {
  if (absl::Status status = Validate(args); !status.ok()) return status;
  if (args.num_planes > kMaxDigestPlanes) {
    return absl::InvalidArgumentError(
        absl::StrCat("DigestStates: num_planes is ", args.num_planes,
                     ", more than ", kMaxDigestPlanes));
  }
  const int64_t bytes = int64_t{args.batch} * sizeof(DigestSums);
  std::unique_ptr<Readback> readback;
  if (!spare_readbacks_.empty()) {
    readback = std::move(spare_readbacks_.back());
    spare_readbacks_.pop_back();
  }
  if (readback == nullptr || readback->size_bytes() < bytes) {
    absl::StatusOr<std::unique_ptr<Readback>> created = CreateReadback(
        std::max<int64_t>(bytes, kMaxDigestStates * sizeof(DigestSums)));
    if (!created.ok()) return created.status();
    readback = *std::move(created);
  }
  auto digests = std::make_unique<CudaDigests>(this, args, std::move(readback));
  for (int32_t first = 0; first < args.batch; first += kMaxDigestStates) {
    if (absl::Status status = QueueSome(args, first, digests->readback());
        !status.ok()) {
      return status;
    }
  }
  return digests;
}

// The sums of the states from `first` on, as many as one launch takes.
absl::Status CudaBackend::QueueSome(const DigestStatesArgs& args, int32_t first,
                                    Readback* readback) {
  if (absl::Status status = UseDevice(); !status.ok()) return status;
  DigestBatch batch = {.slots = args.slots,
                       .planes = {},
                       .slot_ids = {},
                       .positions = {},
                       .num_planes = args.num_planes,
                       .batch = std::min(args.batch - first, kMaxDigestStates),
                       .mini_batch = args.mini_batch,
                       .sums = digest_sums_->as<DigestSums>()};
  std::copy_n(args.planes, args.num_planes, batch.planes);
  std::copy_n(args.slot_ids + first, batch.batch, batch.slot_ids);
  std::copy_n(args.positions + first, batch.batch, batch.positions);
  if (absl::Status status =
          CudaStatus(LaunchDigest(batch, stream_.get()), "DigestStates");
      !status.ok()) {
    return status;
  }
  return readback->Copy(first * int64_t{sizeof(DigestSums)}, batch.sums,
                        batch.batch * int64_t{sizeof(DigestSums)});
}

absl::Status CheckDevice(int32_t ordinal, const cudaDeviceProp& device) {
  if (device.major == kComputeMajor && device.minor == kComputeMinor) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      absl::StrCat("cuda:", ordinal, ", ", device.name,
                   ", has compute capability ", device.major, ".", device.minor,
                   "; this build is for ", kComputeMajor, ".", kComputeMinor));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    int32_t ordinal, Precision precision) {
  if (ordinal < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("CreateCudaBackend: ordinal is ", ordinal));
  }
  // All code at once: the memory that it takes is counted below, and none is
  // missing later.
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  int driver_version = 0;  // of none
  if (cudaDriverGetVersion(&driver_version) == cudaSuccess &&
      driver_version == 0) {
    return absl::UnavailableError("no CUDA device: there is no driver");
  }
  int num_devices = 0;
  if (absl::Status status =
          CudaStatus(cudaGetDeviceCount(&num_devices), "no CUDA device");
      !status.ok()) {
    return status;
  }
  if (ordinal >= num_devices) {
    return absl::UnavailableError(
        absl::StrCat("no CUDA device ", ordinal, ": there are ", num_devices));
  }
  const std::string name = absl::StrCat("cuda:", ordinal);
  cudaDeviceProp device;
  for (const cudaError_t error :
       {cudaSetDevice(ordinal), cudaGetDeviceProperties(&device, ordinal)}) {
    if (absl::Status status = CudaStatus(error, name); !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = CheckDevice(ordinal, device); !status.ok()) {
    return status;
  }
  GemmDevice gemm_device = {.num_multiprocessors = device.multiProcessorCount};
  for (const cudaError_t error :
       {PrepareGemmManyRows(), PrepareGemmLeastRows(),
        PrepareGemmFewRows(&gemm_device), PrepareLearner(),
        PrepareLearnerLinear(), PrepareLearnerMlp(), PrepareSampleTokens()}) {
    if (absl::Status status = CudaStatus(error, name); !status.ok()) {
      return status;
    }
  }
  absl::StatusOr<CudaStream> stream = CudaStream::Create();
  if (!stream.ok()) return stream.status();
  absl::StatusOr<CopyQueue> to_host = CopyQueue::Create();
  if (!to_host.ok()) return to_host.status();
  absl::StatusOr<CopyQueue> to_device = CopyQueue::Create();
  if (!to_device.ok()) return to_device.status();
  absl::StatusOr<PinnedStaging> staging = PinnedStaging::Create();
  if (!staging.ok()) return staging.status();
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (absl::Status status =
          CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "free memory");
      !status.ok()) {
    return status;
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> digest_sums =
      AllocateCudaMemory(kMaxDigestStates * sizeof(DigestSums), stream->get());
  if (!digest_sums.ok()) return digest_sums.status();
  const bool is_float = precision == Precision::kFloat32;
  DeviceInfo info = {
      .name = name,
      .description = absl::StrCat(device.name, ", ", device.multiProcessorCount,
                                  " multiprocessors, ",
                                  device.totalGlobalMem >> 20, " MiB"),
      .precision = precision,
      .numerics_fingerprint =
          absl::StrCat("cuda/", device.major, ".", device.minor, "/",
                       is_float ? "fp32" : "bf16", "/", kNumericsVersion)};
  return std::make_unique<CudaBackend>(
      std::move(info), ordinal, gemm_device, *std::move(stream),
      *std::move(to_host), *std::move(to_device), *std::move(staging),
      *std::move(digest_sums), static_cast<int64_t>(total_bytes - free_bytes));
}

}  // namespace ttt
