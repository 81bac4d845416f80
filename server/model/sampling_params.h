#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace ttt {

inline constexpr int kMaxLogitBias = 1024;  // entries a call
inline constexpr int kMaxStopTokens = 64;   // ids a call
// That end a turn: those of its call, and end-of-text.
inline constexpr int kMostStopIds = kMaxStopTokens + 1;

// How the next token is chosen; ranges as in Sampling of inference.proto,
// checked at the door.
struct SamplingParams {
  float temperature = 0.0f;  // 0 is greedy
  int32_t top_k = 0;         // 0 is off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // in order of id
};

// A token and its log-probability under the model's own distribution.
struct TokenLogprob {
  int32_t token_id;
  float logprob;
};

}  // namespace ttt
