#include "server/rpc/admin_service.h"

namespace ttt {
namespace {

void ToMessage(absl::Duration duration, google::protobuf::Duration* message) {
  message->set_seconds(absl::ToInt64Seconds(duration));
  message->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(duration) % 1000000000));
}

}  // namespace

void AdminService::FillModel(v1::ServerInfo::Model* model) const {
  const ModelConfig& config = facts_.config;
  model->set_name(facts_.model_name);
  model->set_ttt_layer_type(config.is_mlp ? "mlp" : "linear");
  model->set_vocab_size(config.vocab_size);
  model->set_hidden_size(config.hidden_size);
  model->set_num_layers(config.num_hidden_layers);
  model->set_num_heads(config.num_attention_heads);
  model->set_head_dim(config.head_dim());
  model->set_mini_batch_size(config.mini_batch_size);
  model->set_parameters(facts_.num_parameters);
  model->set_has_tokenizer(parts_.tokenizer != nullptr);
  model->set_bos_token_id(config.bos_token_id);
  model->set_eos_token_id(config.eos_token_id);
}

void AdminService::FillLimits(v1::ServerInfo::Limits* limits) const {
  limits->set_max_batch_rows(facts_.max_batch_rows);
  limits->set_max_batch_tokens(facts_.max_batch_tokens);
  limits->set_max_input_tokens(facts_.max_input_tokens);
  limits->set_max_queue(facts_.max_queue);
  limits->set_max_queue_tokens(facts_.max_queue_tokens);
  limits->set_max_queue_bytes(facts_.max_queue_bytes);
  ToMessage(facts_.max_queue_wait, limits->mutable_max_queue_wait());
  limits->set_max_top_logprobs(facts_.max_top_logprobs);
  limits->set_state_slots(parts_.pool->usage().session_slots);
  limits->set_state_bytes_per_session(parts_.pool->layout().slot_bytes);
}

void AdminService::FillLoad(v1::ServerInfo::Load* load) const {
  load->set_running_turns(parts_.admission->load().running);
  load->set_queued_turns(parts_.admission->load().queued);
  load->set_sessions(parts_.sessions->counts().sessions);
  load->set_state_slots_used(parts_.pool->usage().reserved);
}

void AdminService::FillInfo(v1::ServerInfo* info) const {
  info->set_version(facts_.version);
  info->set_state(std::string(StateName(parts_.admission->state())));
  info->set_device(facts_.device.name);
  info->set_precision(facts_.device.precision == Precision::kBFloat16 ? "bf16"
                                                                      : "fp32");
  info->set_model_fingerprint(facts_.model_fingerprint);
  info->set_numerics_fingerprint(facts_.device.numerics_fingerprint);
  ToMessage(parts_.clock->Now() - start_time_, info->mutable_uptime());
  FillModel(info->mutable_model());
  FillLimits(info->mutable_limits());
  FillLoad(info->mutable_load());
}

grpc::ServerUnaryReactor* AdminService::GetServerInfo(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return Answer<v1::GetServerInfoRequest, v1::ServerInfo>(
      "GetServerInfo", parts_, calls_, context, request, response,
      [this](const auto&, auto* out) {
        FillInfo(out);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* AdminService::Drain(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return Answer<v1::DrainRequest, v1::DrainResponse>(
      "Drain", parts_, calls_, context, request, response,
      [this](const auto&, auto*) {
        start_drain_();
        return absl::OkStatus();
      });
}

}  // namespace ttt
