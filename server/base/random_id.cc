#include "server/base/random_id.h"

#include <sys/random.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "server/base/check.h"

namespace ttt {

std::string RandomId() {
  char bits[16];
  // So few bytes come whole, and without waiting once the system has booted.
  TTT_CHECK(getrandom(bits, sizeof(bits), 0) == sizeof(bits));
  return absl::BytesToHexString(absl::string_view(bits, sizeof(bits)));
}

}  // namespace ttt
