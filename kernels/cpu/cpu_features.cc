#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"

namespace ttt {
namespace {

struct CpuId {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuId ReadCpuId(uint32_t leaf, uint32_t subleaf) {
  CpuId id;
  __get_cpuid_count(leaf, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx);
  return id;
}

bool HasBit(uint32_t word, int bit) { return (word >> bit & 1) != 0; }

// The register states that the operating system saves.
uint64_t ReadXcr0() {
  if (!HasBit(ReadCpuId(1, 0).ecx, 27)) return 0;  // OSXSAVE
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

constexpr uint64_t kYmmState = 0x6;
constexpr uint64_t kZmmState = 0xe6;
constexpr uint64_t kTileState = 0x60000;

bool SystemSaves(uint64_t state) { return (ReadXcr0() & state) == state; }

}  // namespace

Isa DetectIsa() {
  const CpuId base = ReadCpuId(1, 0);
  const CpuId extended = ReadCpuId(7, 0);
  const bool has_avx2 = HasBit(base.ecx, 12) && HasBit(base.ecx, 28) &&
                        HasBit(extended.ebx, 5) && SystemSaves(kYmmState);
  if (!has_avx2) return Isa::kSse2;
  // F, DQ, BW and VL.
  const bool has_avx512 = HasBit(extended.ebx, 16) &&
                          HasBit(extended.ebx, 17) &&
                          HasBit(extended.ebx, 30) &&
                          HasBit(extended.ebx, 31) && SystemSaves(kZmmState);
  return has_avx512 ? Isa::kAvx512 : Isa::kAvx2;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kSse2:
      return "sse2";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "";
}

bool HasAvx512BFloat16() {
  return DetectIsa() == Isa::kAvx512 && HasBit(ReadCpuId(7, 1).eax, 5);
}

bool CpuHasBFloat16() {
  if (DetectIsa() != Isa::kAvx512) return false;
  const bool has_amx =
      HasBit(ReadCpuId(7, 0).edx, 22) && SystemSaves(kTileState);
  return has_amx || HasAvx512BFloat16();
}

std::string CpuModel() {
  const CpuId vendor = ReadCpuId(0, 0);
  char name[12];
  std::memcpy(name, &vendor.ebx, 4);
  std::memcpy(name + 4, &vendor.edx, 4);
  std::memcpy(name + 8, &vendor.ecx, 4);
  const uint32_t id = ReadCpuId(1, 0).eax;
  uint32_t family = id >> 8 & 0xf;
  uint32_t model = id >> 4 & 0xf;
  if (family == 0x6 || family == 0xf) model |= id >> 12 & 0xf0;
  if (family == 0xf) family += id >> 20 & 0xff;
  return absl::StrCat(absl::string_view(name, sizeof(name)), "-", family, "-",
                      model);
}

int32_t NumUsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) {
    return std::max(1, CPU_COUNT(&cores));
  }
  return std::max<int32_t>(1, std::thread::hardware_concurrency());
}

}  // namespace ttt
