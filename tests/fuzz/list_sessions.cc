// ListSessionsRequest at the door.
#include "tests/fuzz/fuzz_targets.h"
#include "tests/fuzz/request_checks.h"

namespace ttt {

void FuzzListSessions(absl::string_view bytes) {
  v1::ListSessionsRequest message;
  if (!ReadMessage(bytes, &message)) return;
  const auto page_size = ValidatePageSize(message.page_size());
  TTT_CHECK(page_size.ok() ==
            (message.page_size() >= 0 && message.page_size() <= 1000));
  if (page_size.ok()) {
    TTT_CHECK(*page_size ==
              (message.page_size() == 0 ? 100 : message.page_size()));
  } else {
    CheckRefusal(page_size.status(), message.GetDescriptor());
  }
  CheckSessionName("page_token", message.page_token(), message.GetDescriptor());
}

}  // namespace ttt
