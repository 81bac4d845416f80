// Plain structs to messages.
#pragma once

#include <vector>

#include "server/request/request.h"
#include "server/request/token_stream.h"
#include "server/session/session_store.h"
#include "ttt/v1/inference.pb.h"
#include "ttt/v1/sessions.pb.h"

namespace ttt {

v1::FinishReason ToMessage(FinishReason reason);
void ToMessage(const TokenPosition& position, v1::Position* message);
void ToMessage(const TurnUsage& usage, v1::Usage* message);
void ToMessage(const TurnTiming& timing, v1::Timing* message);
void ToMessage(const TurnEnd& end, v1::ScoreResponse* message);
void ToMessage(const SessionInfo& session, absl::string_view model_fingerprint,
               v1::Session* message);

// Adds ids and, if wanted, log-probabilities.
template <typename Ids, typename Positions>
void AppendTokens(const std::vector<TokenPosition>& tokens, bool with_logprobs,
                  Ids* ids, Positions* positions) {
  for (const TokenPosition& token : tokens) {
    ids->Add(token.token_id);
    if (with_logprobs) ToMessage(token, positions->Add());
  }
}

std::string DigestBytes(const StateDigest& digest);

}  // namespace ttt
