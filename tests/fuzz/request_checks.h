// What holds of every request that is checked at the door.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/check.h"
#include "server/rpc/validate_request.h"

namespace ttt {

inline constexpr int32_t kFuzzVocabSize = 4096;
inline constexpr int32_t kFuzzMaxInput = 64;
inline constexpr int32_t kFuzzMaxTop = 20;

inline RequestLimits FuzzLimits(bool has_tokenizer) {
  return {.vocab_size = kFuzzVocabSize,
          .max_input_tokens = kFuzzMaxInput,
          .max_top_logprobs = kFuzzMaxTop,
          .has_tokenizer = has_tokenizer};
}

// A refusal is one of the documented codes, says why in words that may stand in
// a trailer, and names a field that the message has.
void CheckRefusal(const absl::Status& status,
                  const google::protobuf::Descriptor* message);

// At most 128 bytes of [A-Za-z0-9._:-], not empty.
bool IsPlainName(absl::string_view name);
// As documented of a session's ttl, and of page_size.
void CheckTtl(bool has_ttl, const google::protobuf::Duration& ttl,
              const google::protobuf::Descriptor* message);
void CheckSessionName(absl::string_view field, absl::string_view name,
                      const google::protobuf::Descriptor* message);

// False if the bytes are no such message.
template <typename Message>
bool ReadMessage(absl::string_view bytes, Message* message) {
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

template <typename Ids>
void CheckIdsInRange(const Ids& ids) {
  for (const int32_t id : ids) TTT_CHECK(id >= 0 && id < kFuzzVocabSize);
}

// Of the text that a request brings, after `session_tokens` tokens.
void CheckText(absl::string_view text, Request request,
               const google::protobuf::Descriptor* message);

}  // namespace ttt
