// Replies as JSON, for --json.
#pragma once

#include <nlohmann/json.hpp>

#include "client/call_error.h"
#include "client/console.h"
#include "ttt/v1/admin.pb.h"
#include "ttt/v1/inference.pb.h"
#include "ttt/v1/sessions.pb.h"

namespace ttt {

using Json = nlohmann::ordered_json;

// One line on standard output.
void PrintJson(Console& console, const Json& json);

// The shortest decimal that is this float.
Json FloatToJson(float value);

Json PositionToJson(const v1::Position& position);
Json SessionToJson(const v1::Session& session);
Json ServerInfoToJson(const v1::ServerInfo& info);
// `line` is what was said on standard error.
Json ErrorToJson(const CallError& error, const std::string& line,
                 int exit_code);

// Names as in JSON and in tables: `stop`, `device`; a number if unknown.
std::string FinishReasonName(v1::FinishReason reason);
std::string TierName(v1::Tier tier);

// RFC 3339, in UTC and to the millisecond.
std::string TimeText(const google::protobuf::Timestamp& time);

}  // namespace ttt
