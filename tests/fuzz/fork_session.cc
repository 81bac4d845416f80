// ForkSessionRequest at the door.
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {

void FuzzForkSession(absl::string_view bytes) {
  v1::ForkSessionRequest message;
  if (!ReadMessage(bytes, &message)) return;
  CheckSessionName("session_id", message.session_id(), message.GetDescriptor());
  CheckSessionName("new_session_id", message.new_session_id(),
                   message.GetDescriptor());
  CheckTtl(message.has_ttl(), message.ttl(), message.GetDescriptor());
}

}  // namespace ttt
