// What gRPC and protobuf have to say, as lines of our log.
#pragma once

namespace ttt {

// From now on, in the whole process: the libraries know one place. Idempotent,
// thread-safe.
void TakeLibraryLogs();

}  // namespace ttt
