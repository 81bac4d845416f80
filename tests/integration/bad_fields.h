// A bad value for every field that a request can have, and what is said of it.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <vector>

namespace ttt {

// One request that is refused, or, with OK, a field of which any value is fine.
struct BadField {
  // Message and path: "CompleteRequest.sampling.temperature".
  std::string field;
  // The request in protobuf's text format; in it kSession is a session.
  std::string request;
  grpc::StatusCode code = grpc::StatusCode::INVALID_ARGUMENT;
  std::string says;  // the whole message; of OK: why any value is fine
};

inline constexpr char kSession[] = "walk";  // has tokens, revision 1

std::vector<BadField> BadFields();

}  // namespace ttt
