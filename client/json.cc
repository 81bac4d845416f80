#include "client/json.h"

#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/text.h"

namespace ttt {
namespace {

// `FINISH_REASON_STOP` without the prefix, in small letters.
std::string EnumName(const std::string& name, size_t prefix, int number) {
  if (name.size() <= prefix) return absl::StrCat(number);
  return absl::AsciiStrToLower(absl::string_view(name).substr(prefix));
}

double Seconds(const google::protobuf::Duration& duration) {
  return duration.seconds() + duration.nanos() * 1e-9;
}

}  // namespace

void PrintJson(Console& console, const Json& json) {
  console.Print(json.dump(-1, ' ', false, Json::error_handler_t::replace) +
                "\n");
}

Json FloatToJson(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  double shortest = 0;
  if (!absl::SimpleAtod(absl::string_view(digits, end - digits), &shortest)) {
    return value;
  }
  return shortest;
}

Json PositionToJson(const v1::Position& position) {
  Json json = {{"token_id", position.token_id()}};
  if (position.has_logprob()) json["logprob"] = FloatToJson(position.logprob());
  if (position.top_logprobs().empty()) return json;
  Json& candidates = json["top_logprobs"] = Json::array();
  for (const v1::Candidate& candidate : position.top_logprobs()) {
    candidates.push_back({{"token_id", candidate.token_id()},
                          {"logprob", FloatToJson(candidate.logprob())}});
  }
  return json;
}

std::string FinishReasonName(v1::FinishReason reason) {
  return EnumName(v1::FinishReason_Name(reason), 14, reason);
}

std::string TierName(v1::Tier tier) {
  return EnumName(v1::Tier_Name(tier), 5, tier);
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime(
      "%Y-%m-%dT%H:%M:%E3SZ",
      absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
      absl::UTCTimeZone());
}

Json SessionToJson(const v1::Session& session) {
  Json json = {{"session_id", session.session_id()},
               {"revision", session.revision()},
               {"tokens", session.tokens()},
               {"tier", TierName(session.tier())},
               {"state_bytes", session.state_bytes()},
               {"state_digest", Hex(session.state_digest())},
               {"model_fingerprint", session.model_fingerprint()}};
  if (session.has_create_time()) {
    json["create_time"] = TimeText(session.create_time());
  }
  if (session.has_last_used_time()) {
    json["last_used_time"] = TimeText(session.last_used_time());
  }
  if (session.has_expire_time()) {
    json["expire_time"] = TimeText(session.expire_time());
  }
  if (!session.parent_session_id().empty()) {
    json["parent_session_id"] = session.parent_session_id();
  }
  return json;
}

Json ServerInfoToJson(const v1::ServerInfo& info) {
  const auto& model = info.model();
  const auto& limits = info.limits();
  const auto& load = info.load();
  return {{"version", info.version()},
          {"state", info.state()},
          {"device", info.device()},
          {"precision", info.precision()},
          {"model_fingerprint", info.model_fingerprint()},
          {"numerics_fingerprint", info.numerics_fingerprint()},
          {"uptime_seconds", Seconds(info.uptime())},
          {"model",
           {{"name", model.name()},
            {"ttt_layer_type", model.ttt_layer_type()},
            {"vocab_size", model.vocab_size()},
            {"hidden_size", model.hidden_size()},
            {"num_layers", model.num_layers()},
            {"num_heads", model.num_heads()},
            {"head_dim", model.head_dim()},
            {"mini_batch_size", model.mini_batch_size()},
            {"parameters", model.parameters()},
            {"has_tokenizer", model.has_tokenizer()},
            {"bos_token_id", model.bos_token_id()},
            {"eos_token_id", model.eos_token_id()}}},
          {"limits",
           {{"max_batch_rows", limits.max_batch_rows()},
            {"max_batch_tokens", limits.max_batch_tokens()},
            {"max_input_tokens", limits.max_input_tokens()},
            {"max_queue", limits.max_queue()},
            {"max_queue_tokens", limits.max_queue_tokens()},
            {"max_queue_bytes", limits.max_queue_bytes()},
            {"max_queue_seconds", Seconds(limits.max_queue_wait())},
            {"max_top_logprobs", limits.max_top_logprobs()},
            {"state_slots", limits.state_slots()},
            {"state_bytes_per_session", limits.state_bytes_per_session()}}},
          {"load",
           {{"running_turns", load.running_turns()},
            {"queued_turns", load.queued_turns()},
            {"sessions", load.sessions()},
            {"state_slots_used", load.state_slots_used()}}}};
}

Json ErrorToJson(const CallError& error, const std::string& line,
                 int exit_code) {
  Json json = {{"code", absl::StatusCodeToString(error.code)},
               {"reason", error.reason},
               {"message", line}};
  if (error.retry_after.has_value()) {
    json["retry_after_ms"] = absl::ToInt64Milliseconds(*error.retry_after);
  }
  if (!error.metadata.empty()) json["metadata"] = error.metadata;
  for (const auto& [field, description] : error.field_violations) {
    json["field_violations"].push_back(
        {{"field", field}, {"description", description}});
  }
  json["exit_code"] = exit_code;
  return {{"error", std::move(json)}};
}

}  // namespace ttt
