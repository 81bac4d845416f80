// One call being run.
#pragma once

#include <memory>

#include "server/admission/admission.h"
#include "server/request/request.h"
#include "server/request/token_stream.h"
#include "server/session/session_store.h"

namespace ttt {

// What a call hands to the engine. The engine owns it from Submit on, and gives
// lease, view and ticket back before it ends the stream.
struct Turn {
  Request request;
  std::shared_ptr<TokenStream> stream;
  Ticket ticket;
  SessionLease lease;  // no value: stateless, or a Score call
  SessionView view;    // of a Score call on a session
};

}  // namespace ttt
