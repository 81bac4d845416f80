// What this CPU can do.
#pragma once

#include <cstdint>
#include <string>

namespace ttt {

// An instruction set that the vector code is compiled for. Each holds the ones
// before it.
enum class Isa : uint8_t { kSse2, kAvx2, kAvx512 };

// The best one that the CPU and the system support.
Isa DetectIsa();
const char* IsaName(Isa isa);
// True if it also has AVX512-BF16.
bool HasAvx512BFloat16();

// Vendor, family and model: "AuthenticAMD-26-2". The GEMM library tunes its
// loops, and so its order of summation, by it.
std::string CpuModel();

// Cores that this process may use.
int32_t NumUsableCores();

}  // namespace ttt
