// The instructions by which Hopper copies to shared memory and multiplies from
// it: PTX, one function each.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace ttt {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier in shared memory that counts arrivals and bytes of copies.
class CopyBarrier {
 public:
  // One thread, then a barrier of the block.
  __device__ void Init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(address()),
                 "r"(arrivals));
  }
  __device__ void Arrive() { ArriveHere(address()); }
  __device__ static void ArriveHere(uint32_t address) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(address)
                 : "memory");
  }
  // At the barrier of the same place in a block of the cluster.
  __device__ void ArriveAt(uint32_t rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}\n" ::"r"(address()),
        "r"(rank)
        : "memory");
  }
  // Arrives, and has the phase wait for so many bytes too.
  __device__ void ArriveAndExpect(uint32_t bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
            address()),
        "r"(bytes)
        : "memory");
  }
  // Until the phase of this parity has ended.
  __device__ void Wait(uint32_t parity) { WaitHere(address(), parity); }
  __device__ static void WaitHere(uint32_t address, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra end;\n"
        "bra again;\n"
        "end:\n"
        "}\n" ::"r"(address),
        "r"(parity)
        : "memory");
  }
  // The same where other blocks of the cluster write (StoreAt).
  __device__ void WaitForCluster(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], "
        "%1;\n"
        "@done bra end;\n"
        "bra again;\n"
        "end:\n"
        "}\n" ::"r"(address()),
        "r"(parity)
        : "memory");
  }
  __device__ uint32_t address() const { return SharedAddress(this); }

 private:
  uint64_t state_;
};

// Makes initialised barriers known to the copy engine.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// True in one lane of a warp that is here as a whole. The compiler then knows
// that one thread goes on, and copies without a loop over lanes.
__device__ inline bool ElectLane() {
  uint32_t is_elected;
  asm volatile(
      "{\n"
      ".reg .pred elected;\n"
      "elect.sync _|elected, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, elected;\n"
      "}\n"
      : "=r"(is_elected));
  return is_elected != 0;
}

// How long the L2 cache keeps what a copy reads.
__device__ inline uint64_t KeepAsUsual() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}
// Of what is read once: given up before all else.
__device__ inline uint64_t GiveUpFirst() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  return policy;
}

// `bytes` from global to shared memory, both 16-byte aligned.
__device__ inline void CopyBulk(void* shared, const void* global,
                                uint32_t bytes, CopyBarrier& barrier,
                                uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1], %2, [%3], %4;\n" ::"r"(
          SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(barrier.address()), "l"(policy)
      : "memory");
}

// Asks the L2 cache for `bytes` of global memory, 16-byte aligned.
__device__ inline void PrefetchBulk(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(global),
               "r"(bytes)
               : "memory");
}

// To the same place in each block of the cluster whose bit `blocks` has; counts
// at the barrier of each.
__device__ inline void CopyBulkToBlocks(void* shared, const void* global,
                                        uint32_t bytes, CopyBarrier& barrier,
                                        uint16_t blocks, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1], %2, [%3], %4, %5;\n" ::
          "r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(barrier.address()), "h"(blocks), "l"(policy)
      : "memory");
}

// Brings the map itself, before the first box of it is copied.
__device__ inline void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
}

// The box of a tensor map whose first element is (column, row).
__device__ inline void CopyBox(void* shared, const CUtensorMap& map,
                               int32_t column, int32_t row,
                               CopyBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];\n" ::"r"(
          SharedAddress(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address())
      : "memory");
}

__device__ inline void CopyBoxToBlocks(void* shared, const CUtensorMap& map,
                                       int32_t column, int32_t row,
                                       CopyBarrier& barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;\n" ::"r"(SharedAddress(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address()), "h"(blocks)
      : "memory");
}

// Of this block in its cluster.
__device__ inline uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}
// Every thread of the cluster arrives, then waits for the others. Barriers that
// were initialised before are seen after, other memory need not be: a release
// would wait until all that was written is.
__device__ inline void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.relaxed;\n" ::: "memory");
}
__device__ inline void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire;\n" ::: "memory");
}
// Where `shared` of this block is in another one of the cluster.
__device__ inline uint32_t AddressAt(const void* shared, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n"
               : "=r"(address)
               : "r"(SharedAddress(shared)), "r"(rank));
  return address;
}
// Writes there, 16-byte aligned, and counts the bytes at a barrier there.
__device__ inline void StoreAt(uint32_t address, float4 values,
                               uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
      "[%0], {%1, %2, %3, %4}, [%5];\n" ::"r"(address),
      "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(barrier)
      : "memory");
}

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void LoadMatrices(uint32_t (&to)[4], const void* shared) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(SharedAddress(shared)));
}

// By addresses in shared memory.
__device__ inline void LoadMatrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
      : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
      : "r"(address));
}
__device__ inline void LoadMatrices(uint32_t (&to)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(address));
}

// sums[16, 8] += a[16, 16] b[8, 16]^T in bfloat16.
__device__ inline void MultiplyAdd(float (&sums)[4], const uint32_t (&a)[4],
                                   uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace ttt
