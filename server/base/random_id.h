#pragma once

#include <string>

namespace ttt {

// 128 random bits of the system as 32 hexadecimal digits. Thread-safe.
std::string RandomId();

}  // namespace ttt
