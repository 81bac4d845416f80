#include "tests/integration/bad_fields.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace ttt {
namespace {

using Fields = std::vector<BadField>;
using grpc::StatusCode;

constexpr char kNameRule[] = ", must be of [A-Za-z0-9._:-]";

std::string Times(int count, const std::string& text) {
  return absl::StrJoin(std::vector<std::string>(count, text), "");
}

Fields Join(const std::vector<Fields>& parts) {
  Fields all;
  for (const Fields& part : parts)
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Names that would be paths, lines, terminal commands or no text elsewhere.
// `rest` is what else the request holds; `needed`: an empty name is refused.
Fields BadNames(const std::string& message, const std::string& name,
                const std::string& rest, bool needed) {
  Fields fields;
  const std::string field = absl::StrCat(message, ".", name);
  const auto add = [&](const std::string& value, const std::string& says) {
    fields.push_back({.field = field,
                      .request = absl::StrCat(name, ": '", value, "' ", rest),
                      .says = absl::StrCat(name, ": ", says)});
  };
  for (const char* value :
       {"../../etc/passwd", "a b", "a/b", "a\\nb", "a\\000b", "\\303\\251",
        "\\342\\200\\256a", "\\033[2J", "a;b", "%2e", "a\\\\b"}) {
    add(value, absl::StrCat("is \"", value, "\"", kNameRule));
  }
  add(Times(129, "n"), "is 129 bytes, at most 128 are allowed");
  add(Times(1 << 20, "n"), "is 1048576 bytes, at most 128 are allowed");
  if (needed) add("", "is empty");
  return fields;
}

// Of a call that must otherwise be good.
BadField Sampling(const std::string& field, const std::string& value,
                  const std::string& rule) {
  return {.field = absl::StrCat("CompleteRequest.sampling.", field),
          .request = absl::StrCat("token_ids { ids: 5 } sampling { ", field,
                                  ": ", value, " }"),
          .says = absl::StrCat("sampling.", field, ": is ", value, ", must be ",
                               rule)};
}

Fields BadNumbers() {
  Fields fields;
  const auto add = [&](const std::string& field, const std::string& rule,
                       const std::vector<std::string>& values) {
    for (const std::string& value : values)
      fields.push_back(Sampling(field, value, rule));
  };
  add("max_tokens", "at least 0", {"-1", "-2147483648"});
  add("temperature", "finite and at least 0", {"nan", "inf", "-inf", "-0.5"});
  add("top_k", "at least 0", {"-1", "-2147483648"});
  add("top_p", "in (0, 1]", {"nan", "inf", "0", "-1", "1.5"});
  add("min_p", "in [0, 1]", {"nan", "inf", "-0.5", "1.5"});
  add("repetition_penalty", "finite and above 0",
      {"nan", "inf", "-inf", "0", "-1"});
  add("presence_penalty", "in [-100, 100]",
      {"nan", "inf", "-inf", "100.5", "-100.5"});
  add("frequency_penalty", "in [-100, 100]", {"nan", "-inf", "1e+30"});
  return fields;
}

Fields BadBias() {
  Fields fields;
  for (const char* id : {"-1", "4096", "-2147483648", "2147483647"}) {
    fields.push_back({.field = "CompleteRequest.sampling.logit_bias.key",
                      .request = absl::StrCat(
                          "sampling { logit_bias { key: ", id, " value: 1 } }"),
                      .says = absl::StrCat("sampling.logit_bias: has token id ",
                                           id, ", ids must be in [0, 4096)")});
  }
  for (const char* bias : {"nan", "inf", "-inf", "100.5", "-100.5"}) {
    fields.push_back(
        {.field = "CompleteRequest.sampling.logit_bias.value",
         .request = absl::StrCat("sampling { logit_bias { key: 7 value: ", bias,
                                 " } }"),
         .says = absl::StrCat("sampling.logit_bias[7]: is ", bias,
                              ", must be in [-100, 100]")});
  }
  return fields;
}

Fields BadStops() {
  const std::string strings = "CompleteRequest.stop.strings";
  const std::string ids = "CompleteRequest.stop.token_ids";
  Fields fields = {
      {.field = strings,
       .request = "stop { strings: 'a' strings: '' }",
       .says = "stop.strings[1]: is 0 bytes, must be 1 to 256"},
      {.field = strings,
       .request = absl::StrCat("stop { strings: '", Times(257, "s"), "' }"),
       .says = "stop.strings[0]: is 257 bytes, must be 1 to 256"},
      {.field = strings,
       .request = absl::StrCat("stop {", Times(17, " strings: 'a'"), " }"),
       .says = "stop.strings: has 17 entries, at most 16 are allowed"},
      {.field = strings,
       .request = absl::StrCat("stop {", Times(10000, " strings: 'a'"), " }"),
       .says = "stop.strings: has 10000 entries, at most 16 are allowed"},
      {.field = ids,
       .request = absl::StrCat("stop {", Times(65, " token_ids: 5"), " }"),
       .says = "stop.token_ids: has 65 entries, at most 64 are allowed"},
      {.field = "CompleteRequest.stop.ignore_eos",
       .request = "token_ids { ids: 5 } sampling { max_tokens: 1 } "
                  "stop { ignore_eos: true }",
       .code = StatusCode::OK,
       .says = "a switch"}};
  for (const char* id : {"-1", "4096", "-2147483648"}) {
    fields.push_back(
        {.field = ids,
         .request = absl::StrCat("stop { token_ids: [2, ", id, "] }"),
         .says = absl::StrCat("stop.token_ids[1]: is ", id,
                              ", must be in [0, 4096)")});
  }
  return fields;
}

Fields BadInput(const std::string& message) {
  const std::string ids = absl::StrCat(message, ".token_ids.ids");
  const std::string text = absl::StrCat(message, ".text");
  Fields fields = {
      {.field = ids,
       .request = "token_ids {}",
       .says = "input: is empty, and there are no tokens before it"},
      {.field = ids,
       .request = absl::StrCat("token_ids {", Times(2001, " ids: 5"), " }"),
       .says = "input: 2001 tokens, at most 2000 are allowed"},
      {.field = text,
       .request = "text: ''",
       .says = "input: is empty, and there are no tokens before it"}};
  for (const char* id : {"-1", "4096", "-2147483648", "2147483647"}) {
    fields.push_back(
        {.field = ids,
         .request = absl::StrCat("token_ids { ids: [5, ", id, "] }"),
         .says = absl::StrCat("token_ids.ids[1]: is ", id,
                              ", must be in [0, 4096)")});
  }
  return fields;
}

Fields BadTtls(const std::string& message, const std::string& rest) {
  Fields fields;
  const auto add = [&](const char* part, const std::string& ttl,
                       const std::string& value) {
    fields.push_back(
        {.field = absl::StrCat(message, ".ttl.", part),
         .request = absl::StrCat("ttl {", ttl, "} ", rest),
         .says = absl::StrCat("ttl: is ", value,
                              ", must be above 0 and at most 31557600000 s, "
                              "with 0 to 999999999 ns")});
  };
  add("seconds", "", "0 s and 0 ns");
  add("seconds", "seconds: -1", "-1 s and 0 ns");
  add("seconds", "seconds: 31557600001", "31557600001 s and 0 ns");
  add("seconds", "seconds: 9223372036854775807",
      "9223372036854775807 s and 0 ns");
  add("seconds", "seconds: -9223372036854775808",
      "-9223372036854775808 s and 0 ns");
  add("nanos", "nanos: -1", "0 s and -1 ns");
  add("nanos", "seconds: 1 nanos: -1", "1 s and -1 ns");
  add("nanos", "nanos: 1000000000", "0 s and 1000000000 ns");
  add("nanos", "nanos: -2147483648", "0 s and -2147483648 ns");
  return fields;
}

Fields BadComplete() {
  const std::string ids = "token_ids { ids: 5 } ";
  return {
      {.field = "CompleteRequest.request_id",
       .request = absl::StrCat(ids, "request_id: '", Times(129, "r"), "'"),
       .says = "request_id: is 129 bytes, at most 128 are allowed"},
      {.field = "CompleteRequest.session_id",
       .request = absl::StrCat(ids, "session_id: 'absent'"),
       .code = StatusCode::NOT_FOUND,
       .says = "there is no session \"absent\""},
      {.field = "CompleteRequest.create_session",
       .request = absl::StrCat(ids, "create_session: true"),
       .says = "create_session: is true, and session_id is empty"},
      {.field = "CompleteRequest.sampling.seed",
       .request = absl::StrCat(
           ids, "sampling { max_tokens: 1 seed: 18446744073709551615 }"),
       .code = StatusCode::OK,
       .says = "any 64 bits are a seed"},
      {.field = "CompleteRequest.top_logprobs",
       .request = absl::StrCat(ids, "top_logprobs: 21"),
       .says = "top_logprobs: is 21, must be in [0, 20]"},
      {.field = "CompleteRequest.top_logprobs",
       .request = absl::StrCat(ids, "top_logprobs: -2147483648"),
       .says = "top_logprobs: is -2147483648, must be in [0, 20]"},
      {.field = "CompleteRequest.idempotency_key",
       .request = absl::StrCat(ids, "idempotency_key: 'k'"),
       .code = StatusCode::UNIMPLEMENTED,
       .says = "idempotency_key: is not in this version"},
      {.field = "CompleteRequest.idempotency_key",
       .request = absl::StrCat(ids, "session_id: 'walk' idempotency_key: 'k'"),
       .code = StatusCode::UNIMPLEMENTED,
       .says = "idempotency_key: is not in this version"},
      {.field = "CompleteRequest.expected_revision",
       .request = absl::StrCat(ids, "expected_revision: 0"),
       .says = "expected_revision: is 0, and session_id is empty"},
      {.field = "CompleteRequest.expected_revision",
       .request = absl::StrCat(
           ids, "session_id: 'walk' expected_revision: 18446744073709551615"),
       .code = StatusCode::FAILED_PRECONDITION,
       .says = "session \"walk\" is at revision 1, not at "
               "18446744073709551615"},
      {.field = "CompleteRequest.on_cancel",
       .request = absl::StrCat(ids, "on_cancel: 77"),
       .says = "on_cancel: is 77, which is no OnCancel"},
      {.field = "CompleteRequest.on_cancel",
       .request = absl::StrCat(ids, "on_cancel: -2147483648"),
       .says = "on_cancel: is -2147483648, which is no OnCancel"},
      {.field = "CompleteRequest.on_cancel",
       .request = absl::StrCat(ids, "on_cancel: ON_CANCEL_CONTINUE"),
       .code = StatusCode::UNIMPLEMENTED,
       .says = "on_cancel: CONTINUE is not in this version"},
      {.field = "CompleteRequest.durability",
       .request = absl::StrCat(ids, "durability: 77"),
       .says = "durability: is 77, which is no Durability"},
      {.field = "CompleteRequest.durability",
       .request = absl::StrCat(ids, "durability: DURABILITY_DISK"),
       .code = StatusCode::UNIMPLEMENTED,
       .says = "durability: DISK is not in this version"}};
}

Fields BadScore() {
  return {{.field = "ScoreRequest.request_id",
           .request = absl::StrCat("token_ids { ids: 5 } request_id: '",
                                   Times(129, "r"), "'"),
           .says = "request_id: is 129 bytes, at most 128 are allowed"},
          {.field = "ScoreRequest.session_id",
           .request = "token_ids { ids: 5 } session_id: 'absent'",
           .code = StatusCode::NOT_FOUND,
           .says = "there is no session \"absent\""},
          {.field = "ScoreRequest.top_logprobs",
           .request = "token_ids { ids: 5 } top_logprobs: 21",
           .says = "top_logprobs: is 21, must be in [0, 20]"},
          {.field = "ScoreRequest.top_logprobs",
           .request = "token_ids { ids: 5 } top_logprobs: -1",
           .says = "top_logprobs: is -1, must be in [0, 20]"}};
}

Fields BadSessions() {
  const std::string no_session = "there is no session \"absent\"";
  return {{.field = "CreateSessionRequest.session_id",
           .request = "session_id: 'walk'",
           .code = StatusCode::ALREADY_EXISTS,
           .says = "session \"walk\" exists"},
          {.field = "GetSessionRequest.session_id",
           .request = "session_id: 'absent'",
           .code = StatusCode::NOT_FOUND,
           .says = no_session},
          {.field = "DeleteSessionRequest.session_id",
           .request = "session_id: 'absent'",
           .code = StatusCode::NOT_FOUND,
           .says = no_session},
          {.field = "ForkSessionRequest.session_id",
           .request = "session_id: 'absent'",
           .code = StatusCode::NOT_FOUND,
           .says = no_session},
          {.field = "ForkSessionRequest.new_session_id",
           .request = "session_id: 'walk' new_session_id: 'walk'",
           .code = StatusCode::ALREADY_EXISTS,
           .says = "session \"walk\" exists"},
          {.field = "ForkSessionRequest.expected_revision",
           .request = "session_id: 'walk' expected_revision: 2",
           .code = StatusCode::FAILED_PRECONDITION,
           .says = "session \"walk\" is at revision 1, not at 2"},
          {.field = "ListSessionsRequest.page_size",
           .request = "page_size: -1",
           .says = "page_size: is -1, must be in [0, 1000]"},
          {.field = "ListSessionsRequest.page_size",
           .request = "page_size: 1001",
           .says = "page_size: is 1001, must be in [0, 1000]"},
          {.field = "ListSessionsRequest.page_size",
           .request = "page_size: -2147483648",
           .says = "page_size: is -2147483648, must be in [0, 1000]"}};
}

Fields BadTokenizer() {
  Fields fields = {
      {.field = "TokenizeRequest.text",
       .request = "text: 'a\\000\\342\\226\\201 <s> \\360\\237\\230\\200'",
       .code = StatusCode::OK,
       .says = "any UTF-8 has ids; other bytes are no message"},
      {.field = "TokenizeRequest.at_start",
       .request = "at_start: true",
       .code = StatusCode::OK,
       .says = "a switch"}};
  for (const char* id : {"-1", "4096", "-2147483648", "2147483647"}) {
    fields.push_back(
        {.field = "DetokenizeRequest.ids",
         .request = absl::StrCat("ids: [5, ", id, "]"),
         .says = absl::StrCat("ids[1]: is ", id, ", must be in [0, 4096)")});
  }
  return fields;
}

// RPCs that are a name only: whatever they are given.
Fields Unimplemented() {
  Fields fields;
  const auto add = [&](const std::string& method, const std::string& field,
                       const std::string& request) {
    fields.push_back({.field = field,
                      .request = request,
                      .code = StatusCode::UNIMPLEMENTED,
                      .says = method + " is not in this version"});
  };
  add("AttachTurn", "AttachTurnRequest.turn_id", "turn_id: 't'");
  add("AttachTurn", "AttachTurnRequest.from_index", "from_index: -1");
  add("CancelTurn", "CancelTurnRequest.turn_id", "turn_id: 't'");
  add("RewindSession", "RewindSessionRequest.session_id", "session_id: 'walk'");
  add("RewindSession", "RewindSessionRequest.revision", "revision: 9");
  add("ListTurns", "ListTurnsRequest.session_id", "session_id: 'walk'");
  add("ListTurns", "ListTurnsRequest.page_size", "page_size: -1");
  add("ListTurns", "ListTurnsRequest.page_token", "page_token: '/'");
  add("GetTurn", "GetTurnRequest.session_id", "session_id: 'walk'");
  add("GetTurn", "GetTurnRequest.turn_id", "turn_id: '/'");
  add("ExportSession", "ExportSessionRequest.session_id", "session_id: 'walk'");
  add("ImportSession", "SessionChunk.data", "data: '\\377'");
  return fields;
}

}  // namespace

std::vector<BadField> BadFields() {
  return Join(
      {BadComplete(),
       BadNumbers(),
       BadBias(),
       BadStops(),
       BadInput("CompleteRequest"),
       BadNames("CompleteRequest", "session_id", "token_ids { ids: 5 }", false),
       BadScore(),
       BadInput("ScoreRequest"),
       BadNames("ScoreRequest", "session_id", "token_ids { ids: 5 }", false),
       BadSessions(),
       BadTtls("CreateSessionRequest", "session_id: 'other'"),
       BadTtls("ForkSessionRequest", "session_id: 'walk'"),
       BadNames("CreateSessionRequest", "session_id", "", false),
       BadNames("GetSessionRequest", "session_id", "", true),
       BadNames("DeleteSessionRequest", "session_id", "", true),
       BadNames("ForkSessionRequest", "session_id", "", true),
       BadNames("ForkSessionRequest", "new_session_id", "session_id: 'walk'",
                false),
       BadNames("ListSessionsRequest", "page_token", "", false),
       BadTokenizer(),
       Unimplemented()});
}

}  // namespace ttt
