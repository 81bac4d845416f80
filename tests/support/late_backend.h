#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "server/base/check.h"
#include "tests/support/forwarding_backend.h"

namespace ttt {

// An asynchronous device at its laziest: it does what it was asked for in the
// order of the calls, but no more and no sooner than someone waits for. Until
// then what is to be read is poisoned. An op that fails is told by the first
// wait for something that was queued behind it; what stands between is not
// done.
class LateBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  bool is_asynchronous() const override { return true; }
  // For a Readback, and for all that was queued.
  int64_t num_waits() const { return num_waits_; }
  int64_t num_synchronizations() const { return num_synchronizations_; }

  absl::Status CopyToDevice(void* device, const void* host,
                            int64_t size) override {
    auto staged = std::make_shared<std::vector<std::byte>>(size);
    std::memcpy(staged->data(), host, size);
    return QueueWork([this, device, staged, size] {
      return target_.CopyToDevice(device, staged->data(), size);
    });
  }
  absl::Status CopyOnDevice(void* to, const void* from, int64_t size) override {
    return QueueWork([this, to, from, size] {
      return target_.CopyOnDevice(to, from, size);
    });
  }
  absl::Status CopyToHost(void* host, const void* device,
                          int64_t size) override {
    if (absl::Status status = Synchronize(); !status.ok()) return status;
    return target_.CopyToHost(host, device, size);
  }
  absl::Status Synchronize() override {
    ++num_synchronizations_;
    RunUntil(num_queued_);
    return std::exchange(error_, absl::OkStatus());
  }
  // Not beside the ops.
  absl::StatusOr<DeviceCopy> StartCopyToHost(void* host, const void* device,
                                             int64_t size) override {
    const absl::Status status = CopyToHost(host, device, size);
    if (!status.ok()) return status;
    return DeviceCopy{};
  }
  absl::StatusOr<DeviceCopy> StartCopyToDevice(void* device, const void* host,
                                               int64_t size) override {
    const absl::Status status = CopyToDevice(device, host, size);
    if (!status.ok()) return status;
    return DeviceCopy{};
  }
  absl::StatusOr<std::unique_ptr<Readback>> CreateReadback(
      int64_t size) override {
    return std::make_unique<LateReadback>(this, size);
  }

  absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> work) override {
    auto recording = std::make_unique<LateRecording>();
    recorded_ = &recording->ops;
    const absl::Status status = work();
    recorded_ = nullptr;
    if (!status.ok()) return status;
    return recording;
  }
  absl::Status Run(const Recording& recording) override {
    for (const Op& op : static_cast<const LateRecording&>(recording).ops) {
      if (absl::Status status = Queue(op); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status EndSequences(const EndSequencesArgs& args) override {
    return QueueOp<&Backend::EndSequences>(args);
  }
  absl::Status EmbedTokens(const EmbedTokensArgs& args) override {
    return QueueOp<&Backend::EmbedTokens>(args);
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    return QueueOp<&Backend::RmsNorm>(args);
  }
  absl::Status ConvNorm(const ConvNormArgs& args) override {
    return QueueOp<&Backend::ConvNorm>(args);
  }
  absl::Status LearnerInputs(const LearnerInputsArgs& args) override {
    return QueueOp<&Backend::LearnerInputs>(args);
  }
  absl::Status Learner(const LearnerArgs& args) override {
    return QueueOp<&Backend::Learner>(args);
  }
  absl::Status NormGate(const NormGateArgs& args) override {
    return QueueOp<&Backend::NormGate>(args);
  }
  absl::Status SwiGlu(const SwiGluArgs& args) override {
    return QueueOp<&Backend::SwiGlu>(args);
  }
  absl::Status Gemm(const GemmArgs& args) override {
    return QueueOp<&Backend::Gemm>(args);
  }
  absl::Status SaveHidden(const SaveHiddenArgs& args) override {
    return QueueOp<&Backend::SaveHidden>(args);
  }
  absl::Status GatherHidden(const GatherHiddenArgs& args) override {
    return QueueOp<&Backend::GatherHidden>(args);
  }
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    return QueueOp<&Backend::SampleTokens>(args);
  }
  absl::Status DigestStates(const DigestStatesArgs& args) override {
    auto queued = QueueDigests(args);
    return queued.ok() ? (*queued)->Finish() : queued.status();
  }
  absl::StatusOr<std::unique_ptr<QueuedDigests>> QueueDigests(
      const DigestStatesArgs& args) override {
    auto digests = std::make_unique<LateDigests>(this, args);
    const absl::Status status = digests->Queue();
    if (!status.ok()) return status;
    return digests;
  }

 private:
  using Op = std::function<absl::Status()>;
  struct LateRecording : public Recording {
    std::vector<Op> ops;
  };

  // What lands on the host, with the first failure before it.
  struct Landing {
    std::vector<std::byte> bytes;
    absl::Status status;
  };

  class LateReadback : public Readback {
   public:
    LateReadback(LateBackend* backend, int64_t size)
        : backend_(*backend),
          bytes_(size, kPoison),
          landing_(std::make_shared<Landing>()) {
      landing_->bytes.resize(size);
    }
    std::byte* data() const override { return bytes_.data(); }
    int64_t size_bytes() const override {
      return static_cast<int64_t>(bytes_.size());
    }
    absl::Status Copy(int64_t offset, const void* device,
                      int64_t size) override {
      TTT_CHECK(offset >= 0 && size >= 0 && offset + size <= size_bytes());
      bytes_.assign(bytes_.size(), kPoison);
      const absl::Status status = backend_.Queue(
          [this_backend = &backend_, landing = landing_, offset, device, size] {
            landing->status.Update(this_backend->TakeError());
            if (!landing->status.ok()) return absl::OkStatus();
            landing->status = this_backend->target_.CopyToHost(
                landing->bytes.data() + offset, device, size);
            return absl::OkStatus();
          });
      queued_ = backend_.num_queued_;
      return status;
    }
    absl::Status Wait() override {
      ++backend_.num_waits_;
      backend_.RunUntil(queued_);
      bytes_ = landing_->bytes;
      return std::exchange(landing_->status, absl::OkStatus());
    }

   private:
    LateBackend& backend_;
    mutable std::vector<std::byte> bytes_;
    const std::shared_ptr<Landing> landing_;
    int64_t queued_ = 0;
  };

  class LateDigests : public QueuedDigests {
   public:
    LateDigests(LateBackend* backend, const DigestStatesArgs& args)
        : backend_(*backend), args_(args), work_(std::make_shared<Work>()) {
      work_->slots.assign(args.slot_ids, args.slot_ids + args.batch);
      work_->positions.assign(args.positions, args.positions + args.batch);
      work_->planes.assign(args.planes, args.planes + args.num_planes);
      work_->header.assign(args.header, args.header + args.header_words);
      work_->digests.resize(int64_t{args.batch} * kDigestBytes);
      work_->finite.resize(args.batch);
    }
    absl::Status Queue() {
      const absl::Status status = backend_.Queue(
          [this_backend = &backend_, work = work_, args = args_]() mutable {
            args.slot_ids = work->slots.data();
            args.positions = work->positions.data();
            args.planes = work->planes.data();
            args.header = work->header.data();
            args.digests = work->digests.data();
            args.finite = work->finite.data();
            work->status = this_backend->TakeError();
            if (!work->status.ok()) return absl::OkStatus();
            work->status = this_backend->target_.DigestStates(args);
            return absl::OkStatus();
          });
      queued_ = backend_.num_queued_;
      return status;
    }
    absl::Status Finish() override {
      backend_.RunUntil(queued_);
      if (!work_->status.ok()) return work_->status;
      std::copy(work_->digests.begin(), work_->digests.end(), args_.digests);
      if (args_.finite != nullptr) {
        std::copy(work_->finite.begin(), work_->finite.end(), args_.finite);
      }
      return absl::OkStatus();
    }

   private:
    struct Work {
      std::vector<int32_t> slots;
      std::vector<int64_t> positions;
      std::vector<DigestPlane> planes;
      std::vector<uint32_t> header;
      std::vector<uint8_t> digests;
      std::vector<uint8_t> finite;
      absl::Status status;
    };
    LateBackend& backend_;
    const DigestStatesArgs args_;
    const std::shared_ptr<Work> work_;
    int64_t queued_ = 0;
  };

  static constexpr std::byte kPoison{0xA5};

  absl::Status Queue(Op op) {
    if (recorded_ != nullptr) {
      recorded_->push_back(std::move(op));
      return absl::OkStatus();
    }
    ops_.push_back(std::move(op));
    ++num_queued_;
    return absl::OkStatus();
  }
  absl::Status QueueWork(Op op) {
    return Queue([this, op = std::move(op)] {
      return error_.ok() ? op() : absl::OkStatus();
    });
  }
  template <auto kOp, typename Args>
  absl::Status QueueOp(const Args& args) {
    return QueueWork([this, args] { return (target_.*kOp)(args); });
  }
  void RunUntil(int64_t queued) {
    while (num_run_ < queued) {
      const Op op = std::move(ops_.front());
      ops_.pop_front();
      ++num_run_;
      error_.Update(op());
    }
  }
  absl::Status TakeError() { return std::exchange(error_, absl::OkStatus()); }

  std::deque<Op> ops_;
  int64_t num_queued_ = 0;
  int64_t num_run_ = 0;
  int64_t num_waits_ = 0;
  int64_t num_synchronizations_ = 0;
  absl::Status error_;
  std::vector<Op>* recorded_ = nullptr;  // not null while this records
};

}  // namespace ttt
