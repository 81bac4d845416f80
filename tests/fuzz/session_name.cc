// GetSessionRequest and DeleteSessionRequest at the door: a name is all they
// have.
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {
namespace {

template <typename Message>
void Check(absl::string_view bytes) {
  Message message;
  if (!ReadMessage(bytes, &message)) return;
  CheckSessionName("session_id", message.session_id(), message.GetDescriptor());
}

}  // namespace

void FuzzSessionName(absl::string_view bytes) {
  Check<v1::GetSessionRequest>(bytes);
  Check<v1::DeleteSessionRequest>(bytes);
}

}  // namespace ttt
