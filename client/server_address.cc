#include "client/server_address.h"

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ttt {
namespace {

constexpr absl::string_view kSchemes[] = {
    "unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:"};

absl::Status Refused(absl::string_view address, absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", address, "' ", problem,
                   "; HOST:PORT is wanted, such as 127.0.0.1:50051"));
}

}  // namespace

absl::Status CheckServerAddress(absl::string_view address) {
  if (address.empty()) return Refused(address, "is empty");
  if (absl::StrContains(address, "://") && !absl::StartsWith(address, "dns:") &&
      !absl::StartsWith(address, "unix:")) {
    return Refused(address, "begins like a web address");
  }
  for (const absl::string_view scheme : kSchemes) {
    if (absl::StartsWith(address, scheme)) return absl::OkStatus();
  }
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || absl::EndsWith(address, "]")) {
    return Refused(address, "has no port");
  }
  absl::string_view host = address.substr(0, colon);
  const bool in_brackets =
      absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (!in_brackets && absl::StrContains(host, ':')) {
    return Refused(address, "has an IPv6 address without [ and ]");
  }
  if (host.empty()) return Refused(address, "has no host");
  int32_t port = 0;
  if (!absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return Refused(address, "has no port of 1 to 65535");
  }
  return absl::OkStatus();
}

}  // namespace ttt
