#include "server/model/ttt_model.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "server/base/check.h"
#include "server/base/status_macros.h"
#include "server/model/host_step.h"
#include "server/model/weights.h"
#include "server/model/workspace.h"

namespace ttt {
namespace {

// Each takes device memory, of the backend's reserve.
constexpr int64_t kMostRecordedSteps = 384;

// The part of a plane that belongs to one layer.
StatePlane LayerPlane(const StatePool& pool, absl::string_view name,
                      int32_t layer) {
  const PlaneSpec& plane = pool.layout().Find(name);
  const int64_t layer_bytes = plane.stored_bytes() / plane.shape[0];
  return {pool.slots().base + plane.offset_bytes + layer * layer_bytes,
          pool.slots().slot_stride};
}

StatePlane SessionPlane(const StatePool& pool, absl::string_view name) {
  return {pool.slots().base + pool.layout().Find(name).offset_bytes,
          pool.slots().slot_stride};
}

StepResult MakeResult(const StepOutput& output, const StepSizes& sizes,
                      absl::Span<const int32_t> num_candidates) {
  StepResult result;
  result.finite.assign(output.hidden_finite,
                       output.hidden_finite + sizes.sequences);
  result.logits.resize(num_candidates.size());
  for (size_t i = 0; i < result.logits.size(); ++i) {
    LogitsResult& row = result.logits[i];
    row.finite = output.logits_finite[i] != 0;
    row.token_id = output.sampled[i];
    row.logprob = output.logprobs[i];
    if (!row.finite) continue;
    const int64_t first = static_cast<int64_t>(i) * sizes.candidates;
    row.candidates.reserve(num_candidates[i]);
    for (int64_t c = first; c < first + num_candidates[i]; ++c) {
      row.candidates.push_back(
          {output.candidate_ids[c], output.candidate_logprobs[c]});
    }
  }
  return result;
}

}  // namespace

// A launch in flight: what is to be read of it, and where.
struct LaunchInFlight {
  StepSizes sizes;
  std::vector<int32_t> num_candidates;  // of each request
  std::unique_ptr<Readback> output;     // a StepOutput a step
};

struct TttModel::Workspace {
  explicit Workspace(Backend* backend)
      : step(/*fills_up=*/backend->is_asynchronous()) {}

  std::unique_ptr<DeviceBuffer> block;
  WorkspaceArrays arrays;
  HostStep step;  // of the launch in hand
  // Of the step in hand.
  StepInput input;            // on the device, like `output`
  const int32_t* chosen_ids;  // in the step before
  StepOutput output;
  StepRows rows;
  SequenceRows* next_sequences;  // of the next step in the launch, or null
  // Launch number n is in flight in place n % kMaxInFlight.
  std::array<LaunchInFlight, kMaxInFlight> in_flight;
  int64_t num_begun = 0;
  int64_t num_finished = 0;
  // Of last tokens that were read: page-locked memory is slow to take.
  std::vector<std::unique_ptr<Readback>> spare_readbacks;
  // Of launches of about one token a sequence, by where the states are.
  struct Recorded {
    std::unique_ptr<Recording> recording;  // null: the backend made none
    int64_t last_launch;                   // the number of its last use
  };
  std::map<std::pair<const std::byte*, StepSizes>, Recorded> recordings;
  int64_t recorded_steps = 0;  // of all of them
};

TttModel::TttModel(const ModelConfig& config, const Limits& limits,
                   Backend* backend)
    : config_(config),
      limits_(limits),
      backend_(backend),
      weights_(std::make_unique<ModelWeights>()),
      work_(std::make_unique<Workspace>(backend)) {}

TttModel::~TttModel() = default;

StateLayout TttModel::MakeStateLayout(const ModelConfig& config,
                                      const StateForms& forms) {
  const int64_t layers = config.num_hidden_layers;
  const int64_t heads = config.num_attention_heads;
  const int64_t head_dim = config.head_dim();
  const int64_t inner = config.inner_dim();
  const int64_t pending = config.mini_batch_size - 1;
  const int64_t tail = config.conv_kernel - 1;
  const PlaneForm matrices = forms.fast_weights == FastWeightsForm::kSplit
                                 ? PlaneForm::kSplit
                                 : PlaneForm::kWords;
  const PlaneForm rows =
      forms.rows == DType::kBFloat16 ? PlaneForm::kBFloat16 : PlaneForm::kWords;
  StateLayout layout;
  layout.mini_batch = config.mini_batch_size;
  layout.Add({.name = "w1",
              .role = PlaneRole::kFastWeights,
              .shape = {layers, heads, head_dim, inner},
              .form = matrices});
  layout.Add({"b1", PlaneRole::kFastWeights, {layers, heads, inner}});
  if (config.is_mlp) {
    layout.Add({.name = "w2",
                .role = PlaneRole::kFastWeights,
                .shape = {layers, heads, inner, head_dim},
                .form = matrices});
    layout.Add({"b2", PlaneRole::kFastWeights, {layers, heads, head_dim}});
  }
  layout.Add({"pending_keys",
              PlaneRole::kPendingRows,
              {layers, heads, pending, head_dim},
              head_dim,
              rows});
  layout.Add({"pending_targets",
              PlaneRole::kPendingRows,
              {layers, heads, pending, head_dim},
              head_dim,
              rows});
  layout.Add(
      {"pending_rates", PlaneRole::kPendingRows, {layers, heads, pending}, 1});
  if (config.pre_conv) {
    layout.Add(
        {"conv_tail", PlaneRole::kTail, {layers, tail, config.hidden_size}});
  }
  if (config.share_qk) {
    layout.Add(
        {"qk_tail", PlaneRole::kTail, {layers, tail, config.hidden_size}});
  }
  layout.Add({"last_hidden", PlaneRole::kLastHidden, {config.hidden_size}});
  layout.Add({"token_ring", PlaneRole::kTokenRing, {kTokenRingSize}});
  return layout;
}

absl::StatusOr<int64_t> TttModel::WeightBytes(const ModelConfig& config,
                                              Backend* backend) {
  return ttt::WeightBytes(
      config, MakeStateLayout(config, backend->state_forms()), backend);
}

int64_t TttModel::WorkspaceBytes(const ModelConfig& config,
                                 const Limits& limits,
                                 const StateForms& forms) {
  return LayOutWorkspace(config, limits, forms, nullptr).bytes;
}

int64_t TttModel::weight_bytes() const { return weights_->bytes; }
int64_t TttModel::workspace_bytes() const { return work_->arrays.bytes; }

absl::StatusOr<std::unique_ptr<TttModel>> TttModel::Load(
    const ModelConfig& config, Checkpoint* checkpoint, const Limits& limits,
    Backend* backend) {
  TTT_CHECK(limits.max_rows >= 1 && limits.max_sequences >= 1);
  auto model = std::unique_ptr<TttModel>(new TttModel(config, limits, backend));
  const StateForms forms = backend->state_forms();
  TTT_ASSIGN_OR_RETURN(
      *model->weights_,
      LoadWeights(config, MakeStateLayout(config, forms), checkpoint, backend));
  for (const TensorSpec& tensor : ModelTensors(config)) {
    model->num_parameters_ +=
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1},
                        [](int64_t a, int64_t b) { return a * b; });
  }
  model->fingerprint_ = checkpoint->fingerprint();
  Workspace& work = *model->work_;
  TTT_ASSIGN_OR_RETURN(
      work.block, backend->Allocate(WorkspaceBytes(config, limits, forms)));
  work.arrays = LayOutWorkspace(config, limits, forms, work.block->data());
  return model;
}

absl::Status TttModel::InitState(const StatePool& pool, int32_t slot) {
  TTT_RETURN_IF_ERROR(pool.AwaitCopies(absl::MakeConstSpan(&slot, 1)));
  const StatePlane slots = pool.slots();
  return backend_->CopyOnDevice(slots.base + slot * slots.slot_stride,
                                weights_->initial_state->data(),
                                pool.layout().slot_bytes);
}

absl::Status TttModel::CopyState(const StatePool& pool, int32_t to,
                                 int32_t from) {
  TTT_RETURN_IF_ERROR(pool.AwaitImports(absl::MakeConstSpan(&from, 1)));
  TTT_RETURN_IF_ERROR(pool.AwaitCopies(absl::MakeConstSpan(&to, 1)));
  const StatePlane slots = pool.slots();
  return backend_->CopyOnDevice(slots.base + to * slots.slot_stride,
                                slots.base + from * slots.slot_stride,
                                pool.layout().slot_bytes);
}

absl::StatusOr<std::unique_ptr<LastTokens>> TttModel::QueueLastTokens(
    const StatePool& pool, int32_t slot, int64_t tokens) {
  return LastTokens::Queue(backend_, pool, slot, tokens,
                           &work_->spare_readbacks);
}

absl::StatusOr<std::unique_ptr<StateDigests>> TttModel::QueueDigests(
    const StatePool& pool, absl::Span<const int32_t> slots,
    absl::Span<const int64_t> tokens) {
  return StateDigests::Queue(backend_, pool, fingerprint_, slots, tokens);
}

int TttModel::num_in_flight() const {
  return static_cast<int>(work_->num_begun - work_->num_finished);
}

absl::StatusOr<StepResult> TttModel::Step(
    const StatePool& pool, absl::Span<const StepSequence> sequences,
    absl::Span<const LogitsRequest> requests) {
  TTT_CHECK(num_in_flight() == 0);
  TTT_RETURN_IF_ERROR(Begin(pool, sequences, requests));
  TTT_ASSIGN_OR_RETURN(std::vector<StepResult> results, Finish());
  return std::move(results[0]);
}

absl::Status TttModel::Begin(const StatePool& pool,
                             absl::Span<const StepSequence> sequences,
                             absl::Span<const LogitsRequest> requests,
                             int32_t num_steps) {
  TTT_CHECK(num_in_flight() < kMaxInFlight);
  TTT_CHECK(num_steps >= 1 && num_steps <= kMostSteps);
  std::vector<int32_t> slots;
  slots.reserve(sequences.size());
  for (const StepSequence& sequence : sequences) slots.push_back(sequence.slot);
  TTT_RETURN_IF_ERROR(pool.AwaitCopies(slots));
  work_->step.Build(limits_, sequences, requests, num_steps);
  TTT_CHECK(num_steps == 1 || IsUsual(work_->step.sizes()));
  TTT_RETURN_IF_ERROR(UploadLaunch());
  TTT_RETURN_IF_ERROR(RunOps(pool));
  return QueueReadback(requests);
}

absl::Status TttModel::UploadLaunch() {
  Workspace& work = *work_;
  const auto upload = [this](void* to, const auto& from) {
    return backend_->CopyToDevice(to, from.data(),
                                  from.size() * sizeof(from[0]));
  };
  TTT_RETURN_IF_ERROR(upload(work.arrays.input, work.step.input()));
  if (work.step.bias_ids().empty()) return absl::OkStatus();
  TTT_RETURN_IF_ERROR(upload(work.arrays.bias_ids, work.step.bias_ids()));
  return upload(work.arrays.bias_values, work.step.bias_values());
}

// The ops of the launch, recorded once for those of its sizes if the backend
// can.
absl::Status TttModel::RunOps(const StatePool& pool) {
  const StepSizes& sizes = work_->step.sizes();
  const auto run = [&] { return QueueSteps(pool); };
  SetStep(0);
  // Rare where a launch has one step: not recorded.
  if (sizes.steps == 1 && sizes.rows > 0 && work_->step.asks_for_ends()) {
    TTT_RETURN_IF_ERROR(EndSequences());
  }
  if (!IsUsual(sizes)) return run();
  const auto key =
      std::pair<const std::byte*, StepSizes>(pool.slots().base, sizes);
  auto found = work_->recordings.find(key);
  if (found == work_->recordings.end()) {
    ForgetRecordings(kMostRecordedSteps - sizes.steps);
    absl::StatusOr<std::unique_ptr<Recording>> recording =
        backend_->Record(run);
    // Without room for it such steps run op by op.
    if (absl::IsResourceExhausted(recording.status())) recording = nullptr;
    TTT_RETURN_IF_ERROR(recording.status());
    found = work_->recordings
                .emplace(key, Workspace::Recorded{*std::move(recording), 0})
                .first;
    work_->recorded_steps += sizes.steps;
  }
  found->second.last_launch = work_->num_begun;
  if (found->second.recording == nullptr) return run();
  return backend_->Run(*found->second.recording);
}

// Those that were not run for the longest time, until the others are of no more
// than `steps`. One that still runs ends all the same.
void TttModel::ForgetRecordings(int64_t steps) {
  auto& recordings = work_->recordings;
  while (work_->recorded_steps > steps) {
    const auto oldest = std::min_element(
        recordings.begin(), recordings.end(), [](const auto& a, const auto& b) {
          return a.second.last_launch < b.second.last_launch;
        });
    work_->recorded_steps -= oldest->first.second.steps;
    recordings.erase(oldest);
  }
}

void TttModel::SetStep(int32_t step) {
  Workspace& work = *work_;
  const StepSizes& sizes = work.step.sizes();
  // Of the launch before: its last step's output stands first.
  work.chosen_ids = step == 0 ? reinterpret_cast<int32_t*>(work.arrays.output)
                              : work.output.sampled;
  work.input = LayOutStepInput(sizes, work.arrays.input, step);
  work.output = LayOutStepOutput(sizes, work.arrays.output, step);
  work.rows = {work.input.sequences, work.input.row_sequence, sizes.sequences,
               sizes.rows};
  work.next_sequences =
      step + 1 < sizes.steps
          ? LayOutStepInput(sizes, work.arrays.input, step + 1).sequences
          : nullptr;
}

absl::Status TttModel::QueueSteps(const StatePool& pool) {
  const int32_t num_steps = work_->step.sizes().steps;
  for (int32_t step = 0; step < num_steps; ++step) {
    SetStep(step);
    if (step == 0 && num_steps > 1) TTT_RETURN_IF_ERROR(EndSequences());
    TTT_RETURN_IF_ERROR(QueueOps(pool));
  }
  return absl::OkStatus();
}

// Before the first step of the launch in hand.
absl::Status TttModel::EndSequences() {
  const StepSizes& sizes = work_->step.sizes();
  return backend_->EndSequences(
      {.sequences = work_->input.sequences,
       .before = LayOutEndInput(sizes, 0, work_->arrays.input).before,
       .ended = work_->arrays.ended,
       .batch = sizes.sequences});
}

absl::Status TttModel::QueueOps(const StatePool& pool) {
  if (work_->rows.num_rows > 0) {
    const StepSizes& sizes = work_->step.sizes();
    const EndInput ends = LayOutEndInput(sizes, 0, work_->arrays.input);
    TTT_RETURN_IF_ERROR(backend_->EmbedTokens(
        {.rows = work_->rows,
         .token_ids = work_->input.token_ids,
         .chosen_ids = work_->chosen_ids,
         .table = {weights_->embedding->data(), weights_->embedding_type},
         .hidden = Hidden(0),
         .ring = SessionPlane(pool, "token_ring"),
         .vocab_size = config_.vocab_size,
         .hidden_size = config_.hidden_size,
         .ended = sizes.steps > 1 ? work_->arrays.ended : nullptr,
         .stop_begin = ends.stop_begin,
         .stop_ids = ends.stop_ids,
         .next_sequences = work_->next_sequences}));
    for (int32_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      TTT_RETURN_IF_ERROR(RunLayer(pool, layer));
    }
  }
  return RunHead(pool);
}

// The hidden vectors of the step's rows before a layer, or after the last. A
// convolution reads them of rows beside its own, so it writes to others.
float* TttModel::Hidden(int32_t layer) const {
  return work_->arrays.hidden[config_.pre_conv ? layer % 2 : 0];
}

absl::Status TttModel::RunLayer(const StatePool& pool, int32_t index) {
  const WorkspaceArrays& a = work_->arrays;
  const LayerWeights& layer = weights_->layers[index];
  const StepRows& rows = work_->rows;
  float* const hidden = Hidden(index + 1);
  const int32_t hidden_size = config_.hidden_size;
  const int32_t heads = config_.num_attention_heads;
  const ProjectionOffsets offsets = ProjectionOffsets::Of(config_);
  const Operand operand = {a.operand, backend_->operand_type()};
  const DType row_type = backend_->state_forms().rows;
  const auto norm = [&](const DeviceArray& weight) {
    return backend_->RmsNorm({.input = hidden,
                              .weight = weight->as<float>(),
                              .output = operand,
                              .num_rows = rows.num_rows,
                              .hidden_size = hidden_size,
                              .epsilon = config_.rms_norm_eps});
  };
  const auto multiply = [&](const Operand& input,
                            const std::unique_ptr<GemmWeights>& weights,
                            float* output, int64_t stride, bool accumulate) {
    return backend_->Gemm({.input = input,
                           .weights = weights.get(),
                           .output = output,
                           .output_stride = stride,
                           .num_rows = rows.num_rows,
                           .accumulate = accumulate});
  };

  if (config_.pre_conv) {
    TTT_RETURN_IF_ERROR(
        backend_->ConvNorm({.rows = rows,
                            .input = Hidden(index),
                            .conv_norm_weight = layer.conv_norm->as<float>(),
                            .weight = layer.conv.weight->as<float>(),
                            .bias = layer.conv.bias->as<float>(),
                            .tail = LayerPlane(pool, "conv_tail", index),
                            .sum = hidden,
                            .norm_weight = layer.seq_norm->as<float>(),
                            .output = operand,
                            .hidden_size = hidden_size,
                            .kernel = config_.conv_kernel,
                            .epsilon = config_.rms_norm_eps}));
  } else {
    TTT_RETURN_IF_ERROR(norm(layer.seq_norm));
  }
  TTT_RETURN_IF_ERROR(multiply(operand, layer.projections, a.projections,
                               offsets.stride, false));
  const auto floats = [](const DeviceArray& array) -> const float* {
    return array ? array->as<float>() : nullptr;
  };
  const LearnerInputsArgs learner_inputs = {
      .rows = rows,
      .projections = a.projections,
      .row_stride = offsets.stride,
      .query_offset = offsets.query,
      .key_offset = offsets.key,
      .value_offset = offsets.value,
      .rate_offset = offsets.rate,
      .conv_q_weight = floats(layer.conv_q.weight),
      .conv_q_bias = floats(layer.conv_q.bias),
      .conv_k_weight = floats(layer.conv_k.weight),
      .conv_k_bias = floats(layer.conv_k.bias),
      .tail =
          config_.share_qk ? LayerPlane(pool, "qk_tail", index) : StatePlane{},
      .rate_bias = layer.rate_bias->as<float>(),
      .rope = weights_->rope->as<float>(),
      .queries = {a.queries, row_type},
      .keys = {a.keys, row_type},
      .targets = {a.targets, row_type},
      .rates = a.rates,
      .num_heads = heads,
      .head_dim = config_.head_dim(),
      .mini_batch = config_.mini_batch_size,
      .kernel = config_.conv_kernel,
      .base_lr = config_.ttt_base_lr};
  const LearnerArgs learner = {
      .rows = rows,
      .queries = {a.queries, row_type},
      .keys = {a.keys, row_type},
      .targets = {a.targets, row_type},
      .rates = a.rates,
      .token_scale = layer.token_scale->as<float>(),
      .norm_weight = layer.norm_weight->as<float>(),
      .norm_bias = layer.norm_bias->as<float>(),
      .w1 = LayerPlane(pool, "w1", index),
      .b1 = LayerPlane(pool, "b1", index),
      .w2 = config_.is_mlp ? LayerPlane(pool, "w2", index) : StatePlane{},
      .b2 = config_.is_mlp ? LayerPlane(pool, "b2", index) : StatePlane{},
      .pending_keys = LayerPlane(pool, "pending_keys", index),
      .pending_targets = LayerPlane(pool, "pending_targets", index),
      .pending_rates = LayerPlane(pool, "pending_rates", index),
      .output = a.learned,
      .is_mlp = config_.is_mlp,
      .num_heads = heads,
      .head_dim = config_.head_dim(),
      .mini_batch = config_.mini_batch_size};
  TTT_RETURN_IF_ERROR(backend_->LearnerOfProjections(
      {.inputs = learner_inputs, .learner = learner}));
  TTT_RETURN_IF_ERROR(backend_->NormGate(
      {.input = a.learned,
       .weight = layer.post_norm_weight->as<float>(),
       .bias = layer.post_norm_bias->as<float>(),
       .gate = config_.use_gate ? a.projections + offsets.gate : nullptr,
       .gate_stride = offsets.stride,
       .output = operand,
       .num_rows = rows.num_rows,
       .hidden_size = hidden_size}));
  TTT_RETURN_IF_ERROR(
      multiply(operand, layer.output, hidden, hidden_size, true));

  TTT_RETURN_IF_ERROR(norm(layer.ffn_norm));
  const Operand gated = {a.gated, backend_->operand_type()};
  TTT_RETURN_IF_ERROR(backend_->GemmSwiGlu({.input = operand,
                                            .weights = layer.gate_up.get(),
                                            .scratch = a.gate_up,
                                            .output = gated,
                                            .num_rows = rows.num_rows}));
  return multiply(gated, layer.down, hidden, hidden_size, true);
}

// Logits and samples of the requests; keeps the last hidden vectors. Those that
// want the kept vector of before the step are read first.
absl::Status TttModel::RunHead(const StatePool& pool) {
  const WorkspaceArrays& a = work_->arrays;
  const int32_t requests = work_->step.sizes().requests;
  const Operand operand = {a.operand, backend_->operand_type()};
  const StatePlane last_hidden = SessionPlane(pool, "last_hidden");
  float* const hidden = Hidden(config_.num_hidden_layers);
  TTT_RETURN_IF_ERROR(
      backend_->GatherHidden({.hidden = hidden,
                              .last_hidden = last_hidden,
                              .rows = work_->input.logits_rows,
                              .slots = work_->input.logits_slots,
                              .output = a.gathered,
                              .num_rows = requests,
                              .hidden_size = config_.hidden_size}));
  TTT_RETURN_IF_ERROR(
      backend_->SaveHidden({.rows = work_->rows,
                            .hidden = hidden,
                            .last_hidden = last_hidden,
                            .finite = work_->output.hidden_finite,
                            .hidden_size = config_.hidden_size}));
  if (requests == 0) return absl::OkStatus();
  TTT_RETURN_IF_ERROR(
      backend_->RmsNorm({.input = a.gathered,
                         .weight = weights_->final_norm->as<float>(),
                         .output = operand,
                         .num_rows = requests,
                         .hidden_size = config_.hidden_size,
                         .epsilon = config_.rms_norm_eps}));
  TTT_RETURN_IF_ERROR(backend_->Gemm({.input = operand,
                                      .weights = weights_->head.get(),
                                      .output = a.logits,
                                      .output_stride = config_.vocab_size,
                                      .num_rows = requests,
                                      .accumulate = false}));
  return backend_->SampleTokens(
      {.logits = a.logits,
       .samples = work_->input.samples,
       .bias_ids = a.bias_ids,
       .bias_values = a.bias_values,
       .ring = SessionPlane(pool, "token_ring"),
       .token_ids = work_->output.sampled,
       .logprobs = work_->output.logprobs,
       .candidate_ids = work_->output.candidate_ids,
       .candidate_logprobs = work_->output.candidate_logprobs,
       .finite = work_->output.logits_finite,
       .num_rows = requests,
       .vocab_size = config_.vocab_size,
       .max_candidates = work_->step.sizes().candidates});
}

// The launch is in flight from here on.
absl::Status TttModel::QueueReadback(absl::Span<const LogitsRequest> requests) {
  LaunchInFlight& launch = work_->in_flight[work_->num_begun % kMaxInFlight];
  const int64_t bytes = work_->step.sizes().steps * work_->output.bytes;
  if (launch.output == nullptr || launch.output->size_bytes() < bytes) {
    const int64_t before = launch.output ? launch.output->size_bytes() : 0;
    TTT_ASSIGN_OR_RETURN(launch.output,
                         backend_->CreateReadback(std::max(bytes, 2 * before)));
  }
  launch.sizes = work_->step.sizes();
  launch.num_candidates.clear();
  for (const LogitsRequest& request : requests) {
    launch.num_candidates.push_back(request.num_candidates);
  }
  TTT_RETURN_IF_ERROR(launch.output->Copy(0, work_->arrays.output, bytes));
  ++work_->num_begun;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepResult>> TttModel::Finish() {
  TTT_CHECK(num_in_flight() > 0);
  const LaunchInFlight& launch =
      work_->in_flight[work_->num_finished++ % kMaxInFlight];
  TTT_RETURN_IF_ERROR(launch.output->Wait());
  std::vector<StepResult> results;
  results.reserve(launch.sizes.steps);
  for (int32_t step = 0; step < launch.sizes.steps; ++step) {
    results.push_back(
        MakeResult(LayOutStepOutput(launch.sizes, launch.output->data(), step),
                   launch.sizes, launch.num_candidates));
  }
  return results;
}

absl::StatusOr<std::vector<std::optional<StateDigest>>> TttModel::Digest(
    const StatePool& pool, absl::Span<const int32_t> slots,
    absl::Span<const int64_t> tokens) {
  TTT_ASSIGN_OR_RETURN(const std::unique_ptr<StateDigests> digests,
                       QueueDigests(pool, slots, tokens));
  return digests->Finish();
}

}  // namespace ttt
