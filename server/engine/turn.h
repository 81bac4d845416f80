// One call being run.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "server/admission/admission.h"
#include "server/request/request.h"
#include "server/request/token_stream.h"
#include "server/session/session_store.h"

namespace ttt {

// What a call hands to the engine. The engine owns it from Submit on, and gives
// lease, view and work back before it ends the stream.
//
// A Score call names its session, and the engine takes the view when it starts
// the call: a call that waits keeps no state alive that its session has left
// behind.
struct Turn {
  Request request;
  std::shared_ptr<TokenStream> stream;
  CallWork work;
  absl::Time arrival = absl::InfiniteFuture();  // of the call; at most now
  SessionLease lease;        // no value: stateless, or a Score call
  std::string view_session;  // of a Score call; empty: from nothing
  SessionView view;          // filled by the engine
};

}  // namespace ttt
