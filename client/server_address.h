// The address of a daemon, as a user gives it.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ttt {

// HOST:PORT, [IPV6]:PORT, unix:PATH, or another of gRPC's names with a scheme
// (dns:, ipv4:, ipv6:, unix-abstract:). INVALID_ARGUMENT: none of them; the
// message holds the address and says what is wrong with it, and follows the
// name of what held it. gRPC itself would look for port 443, or for a host of
// that name.
absl::Status CheckServerAddress(absl::string_view address);

}  // namespace ttt
