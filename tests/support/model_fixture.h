// A model on a backend with a pool of slots, and golden tensors to hold it to.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "server/base/check.h"
#include "server/model/checkpoint.h"
#include "server/model/ttt_model.h"
#include "server/session/state_pool.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/test_device.h"

namespace ttt {

inline ModelConfig SmallConfig(bool is_mlp = false) {
  ModelConfig config;
  config.vocab_size = 97;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.use_gate = true;
  config.share_qk = true;
  config.pre_conv = true;
  config.is_mlp = is_mlp;
  config.ttt_base_lr = is_mlp ? 0.1f : 1.0f;
  config.eos_token_id = -1;
  return config;
}

// Keeps the logits of the last step.
class LogitsBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::Status SampleTokens(const SampleTokensArgs& args) override {
    logits.resize(static_cast<size_t>(args.num_rows) * args.vocab_size);
    if (absl::Status status = Synchronize(); !status.ok()) return status;
    const absl::Status status =
        CopyToHost(logits.data(), args.logits, logits.size() * sizeof(float));
    return status.ok() ? ForwardingBackend::SampleTokens(args) : status;
  }
  std::vector<float> logits;
};

// A 32-bit tensor of a trusted safetensors file of the tests' own.
template <typename T>
std::vector<T> ReadGolden(const std::string& path, const std::string& name) {
  std::ifstream file(path, std::ios::binary);
  TTT_CHECK(file.good());
  uint64_t header_size = 0;
  file.read(reinterpret_cast<char*>(&header_size), sizeof(header_size));
  std::string header(header_size, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_size));
  const auto json = nlohmann::json::parse(header);
  TTT_CHECK(json.contains(name));
  const uint64_t begin = json[name]["data_offsets"][0];
  const uint64_t end = json[name]["data_offsets"][1];
  std::vector<T> values((end - begin) / sizeof(T));
  file.seekg(static_cast<std::streamoff>(8 + header_size + begin));
  file.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(end - begin));
  TTT_CHECK(file.good());
  return values;
}

// The greatest absolute difference.
inline double MaxDifference(absl::Span<const float> a,
                            absl::Span<const float> b) {
  TTT_CHECK(a.size() == b.size());
  double greatest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    if (!(difference <= greatest)) greatest = difference;  // NaN too
  }
  return greatest;
}

// All of one model that a test runs steps on.
struct ModelFixture {
  std::unique_ptr<Backend> device;
  std::unique_ptr<LogitsBackend> backend;
  ModelConfig config;
  std::unique_ptr<TttModel> model;
  std::unique_ptr<StatePool> pool;

  // From a checkpoint's folder.
  static ModelFixture Open(const std::string& folder,
                           const TestBackendOptions& options,
                           TttModel::Limits limits = {64, 8, 0}) {
    const ModelConfig config = LoadModelConfig(folder).value();
    return Make(config, OpenCheckpoint(folder, config).value().get(), options,
                limits);
  }
  // With random weights.
  static ModelFixture Dummy(const ModelConfig& config,
                            const TestBackendOptions& options,
                            TttModel::Limits limits = {64, 8, 0}) {
    return Make(config, MakeDummyCheckpoint(config).get(), options, limits);
  }

  static ModelFixture Make(const ModelConfig& config, Checkpoint* checkpoint,
                           const TestBackendOptions& options,
                           TttModel::Limits limits) {
    ModelFixture f;
    f.config = config;
    f.device = CreateTestBackend(options);
    f.backend = std::make_unique<LogitsBackend>(f.device.get());
    f.model =
        TttModel::Load(config, checkpoint, limits, f.backend.get()).value();
    f.pool = StatePool::Create(
                 {.session_slots = 16, .scratch_slots = limits.max_sequences},
                 TttModel::MakeStateLayout(config, f.backend->state_forms()),
                 f.backend.get())
                 .value();
    return f;
  }

  StateSlot EmptySession() {
    StateSlot slot = pool->AcquireSlot().value();
    TTT_CHECK(model->InitState(*pool, slot.index()).ok());
    return slot;
  }

  // The logits after each of `tokens`, [tokens.size(), vocab_size].
  std::vector<float> Read(const StateSlot& slot, int64_t position,
                          absl::Span<const int32_t> tokens) {
    std::vector<LogitsRequest> requests;
    for (int32_t row = 0; row < static_cast<int32_t>(tokens.size()); ++row) {
      requests.push_back({.sequence = 0, .row = row, .given_token = kNoToken});
    }
    const StepSequence sequence = {slot.index(), position, tokens};
    TTT_CHECK(
        model->Step(*pool, absl::MakeConstSpan(&sequence, 1), requests).ok());
    return tokens.empty() ? std::vector<float>() : backend->logits;
  }

  StateDigest Digest(const StateSlot& slot, int64_t tokens) {
    const int32_t index = slot.index();
    return model
        ->Digest(*pool, absl::MakeConstSpan(&index, 1),
                 absl::MakeConstSpan(&tokens, 1))
        .value()[0]
        .value();
  }

  // One plane of a slot, as float32, whatever its form.
  std::vector<float> Plane(const StateSlot& slot, absl::string_view name) {
    const PlaneSpec& plane = pool->layout().Find(name);
    std::vector<std::byte> stored(plane.stored_bytes());
    TTT_CHECK(backend
                  ->CopyToHost(stored.data(),
                               pool->slots().base +
                                   slot.index() * pool->slots().slot_stride +
                                   plane.offset_bytes,
                               plane.stored_bytes())
                  .ok());
    std::vector<uint32_t> words(plane.num_words());
    LoadWords(plane, stored.data(), absl::MakeSpan(words));
    std::vector<float> values(words.size());
    std::memcpy(values.data(), words.data(), words.size() * sizeof(float));
    return values;
  }
};

}  // namespace ttt
