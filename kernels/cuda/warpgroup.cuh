// The matrix product of a warpgroup, wgmma: PTX.
#pragma once

#include <cstdint>

namespace ttt {

// A tile of rows of 128 bytes in shared memory, swizzled by 128 bytes, 8 rows
// in 1,024 bytes; `address` may point into its first row, at a multiple of 32.
__device__ inline uint64_t TileDescriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kGroupStride | uint64_t{1} << 16 |
         (address & 0x3ffff) / 16;
}

// Before the first product that reads registers or shared memory written by
// other instructions.
__device__ inline void WarpgroupArrive() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void WarpgroupCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until at most kPending of the committed groups have not ended.
template <int kPending>
__device__ void WarpgroupWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending)
               : "memory");
}

// Between these instructions and others that read or write `sums`: keeps the
// compiler from moving those across a wait or an arrival.
template <int kSums>
__device__ void FenceSums(float (&sums)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    asm volatile("" : "+f"(sums[i])::"memory");
  }
}

// The operands of the instruction: sums from the i-th on, and their names.
#define TTT_SUMS_8(i)                                                     \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), \
      "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]),            \
      "+f"(sums[i + 7])
#define TTT_SUMS_16(i) TTT_SUMS_8(i), TTT_SUMS_8(i + 8)
#define TTT_SUMS_32(i) TTT_SUMS_16(i), TTT_SUMS_16(i + 16)
#define TTT_SUMS_64(i) TTT_SUMS_32(i), TTT_SUMS_32(i + 32)
#define TTT_NAMES_16                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, " \
  "%12, %13, %14, %15"
#define TTT_NAMES_24 \
  TTT_NAMES_16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23"
#define TTT_NAMES_32 \
  TTT_NAMES_24       \
  ", %24, %25, %26, %27, %28, %29, %30, %31"
#define TTT_NAMES_48                                               \
  TTT_NAMES_32                                                     \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
  "%44, %45, %46, %47"
#define TTT_NAMES_56 \
  TTT_NAMES_48       \
  ", %48, %49, %50, %51, %52, %53, %54, %55"
#define TTT_NAMES_64                                               \
  TTT_NAMES_48                                                     \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
  "%60, %61, %62, %63"
#define TTT_NAMES_72 \
  TTT_NAMES_64       \
  ", %64, %65, %66, %67, %68, %69, %70, %71"
#define TTT_NAMES_88                                               \
  TTT_NAMES_64                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, " \
  "%76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87"
#define TTT_NAMES_96                                               \
  TTT_NAMES_64                                                     \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, " \
  "%76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, "   \
  "%88, %89, %90, %91, %92, %93, %94, %95"
#define TTT_NAMES_128                                                        \
  TTT_NAMES_96                                                               \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "   \
  "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, " \
  "%120, %121, %122, %123, %124, %125, %126, %127"
#define TTT_MULTIPLY_ADD(n, names, a_name, b_name, ...)             \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" n                \
               "k16.f32.bf16.bf16 {" names "}, " a_name ", " b_name \
               ", 1, 1, 1, 0, 0;\n"                                 \
               : __VA_ARGS__                                        \
               : "l"(a), "l"(b))

// sums[64, n] += a[64, 16] b[n, 16]^T, n twice the number of sums of a thread.
// Thread 32 w + l has of row 16 w + l / 4 + 8 h, column 8 j + l % 4 * 2 + i the
// sum 4 j + 2 h + i.
__device__ inline void MultiplyAdd(float (&sums)[16], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("32", TTT_NAMES_16, "%16", "%17", TTT_SUMS_16(0));
}
__device__ inline void MultiplyAdd(float (&sums)[24], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("48", TTT_NAMES_24, "%24", "%25", TTT_SUMS_16(0),
                   TTT_SUMS_8(16));
}
__device__ inline void MultiplyAdd(float (&sums)[32], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("64", TTT_NAMES_32, "%32", "%33", TTT_SUMS_32(0));
}
__device__ inline void MultiplyAdd(float (&sums)[48], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("96", TTT_NAMES_48, "%48", "%49", TTT_SUMS_32(0),
                   TTT_SUMS_16(32));
}
__device__ inline void MultiplyAdd(float (&sums)[56], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("112", TTT_NAMES_56, "%56", "%57", TTT_SUMS_32(0),
                   TTT_SUMS_16(32), TTT_SUMS_8(48));
}
__device__ inline void MultiplyAdd(float (&sums)[64], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("128", TTT_NAMES_64, "%64", "%65", TTT_SUMS_64(0));
}
__device__ inline void MultiplyAdd(float (&sums)[72], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("144", TTT_NAMES_72, "%72", "%73", TTT_SUMS_64(0),
                   TTT_SUMS_8(64));
}
__device__ inline void MultiplyAdd(float (&sums)[88], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("176", TTT_NAMES_88, "%88", "%89", TTT_SUMS_64(0),
                   TTT_SUMS_16(64), TTT_SUMS_8(80));
}
__device__ inline void MultiplyAdd(float (&sums)[96], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("192", TTT_NAMES_96, "%96", "%97", TTT_SUMS_64(0),
                   TTT_SUMS_32(64));
}
__device__ inline void MultiplyAdd(float (&sums)[128], uint64_t a, uint64_t b) {
  TTT_MULTIPLY_ADD("256", TTT_NAMES_128, "%128", "%129", TTT_SUMS_64(0),
                   TTT_SUMS_64(64));
}

#undef TTT_MULTIPLY_ADD
#undef TTT_NAMES_16
#undef TTT_NAMES_24
#undef TTT_NAMES_32
#undef TTT_NAMES_48
#undef TTT_NAMES_56
#undef TTT_NAMES_64
#undef TTT_NAMES_72
#undef TTT_NAMES_88
#undef TTT_NAMES_96
#undef TTT_NAMES_128
#undef TTT_SUMS_8
#undef TTT_SUMS_16
#undef TTT_SUMS_32
#undef TTT_SUMS_64

}  // namespace ttt
