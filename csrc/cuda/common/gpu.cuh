// Everything that plain C++ cannot express on a GPU: inline PTX, dynamic shared memory, launches. Nothing else in cuda/
// may contain PTX, `extern __shared__` or a launch, so that the tests can run the same kernels on the host: there g++
// compiles them with the emulation in tests/cuda in place of this header.
#pragma once

#ifndef __CUDACC__
#include "emulated_gpu.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "launch.h"

namespace fastrnn::cuda {

// Dynamic shared memory, aligned to 16 bytes; allocate from it with SharedArena (layout.h).
__device__ inline char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// Functions that need compute capability 8.0 are empty below it; the plan (cuda/plan.cpp) takes no kernel that uses
// them there.

// c += a b on tensor cores for a 16 x kDepth a, a kDepth x 8 b and a 16 x 8 c, distributed over the lanes of a warp in
// the layout that PTX defines for mma.sync: with q = lane % 4 and r = lane / 4, c is rows r, r, r + 8, r + 8 and
// columns 2q, 2q + 1, 2q, 2q + 1.
//
// Half types, m16n8k16 (two values to a register, the lower column or row in the lower half):
//   a: (row r, columns 2q..), (r + 8, 2q..), (r, 2q + 8..), (r + 8, 2q + 8..);  b: (rows 2q.., column r), (2q + 8.., r)
// float rounded to TF32, m16n8k8: a: (r, q), (r + 8, q), (r, q + 4), (r + 8, q + 4);  b: (q, r), (q + 4, r)
template <class T>
struct Mma;

template <>
struct Mma<__half> {
  static constexpr int kDepth = 16;
  __device__ static __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

template <>
struct Mma<__nv_bfloat16> {
  static constexpr int kDepth = 16;
  __device__ static __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

template <>
struct Mma<float> {
  static constexpr int kDepth = 8;
  __device__ static __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
  }
};

// Rounds to the nearest TF32 value; returns the bits that Mma<float> takes.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
  return bits;
}

// Synchronisation between CTAs: what a CTA wrote before its __syncthreads(), after which one of its threads stores the
// flag, is visible to whoever loads that value and then fences, and to the threads that synchronise with that one
// afterwards. Polling with acquire loads instead would invalidate the L1 cache at every poll.
__device__ __forceinline__ void store_release(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t load_relaxed(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ void fence_acquire() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Nanoseconds since some moment in the past.
__device__ __forceinline__ uint64_t global_time() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}

// Stores to host memory that the GPU can write.
__device__ __forceinline__ void store_to_host(uint64_t* word, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

// Copies 16 bytes from global to shared memory, both aligned to 16, asynchronously; zero-fills if not `valid` (the
// address must be a legal one even then). A thread sees its own copies after wait_for_copies, those of other threads
// after a further barrier.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}
// Commits a group of copies.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most kPending of this thread's groups are in flight.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Clusters, compute capability 9.0: blocks that are co-scheduled and can access one another's shared memory. Kernels
// that use them are empty when compiled for less (FASTRNN_HAS_CLUSTERS), and are not launched there.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTRNN_HAS_CLUSTERS 1
#else
#define FASTRNN_HAS_CLUSTERS 0
#endif

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ int cluster_rank() {
  uint32_t rank = 0;
#if FASTRNN_HAS_CLUSTERS
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}

// A barrier for all threads of a cluster. Not for use in a loop: it also waits for the block's writes to global memory.
__device__ __forceinline__ void cluster_sync() {
#if FASTRNN_HAS_CLUSTERS
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The same for blocks that are about to end, which no longer order anything: none may end while others can still store
// to its shared memory. Not .aligned, since threads that filled different rows with NaN need not have converged.
__device__ __forceinline__ void leave_cluster() {
#if FASTRNN_HAS_CLUSTERS
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
#endif
}

// A transaction barrier in shared memory. A phase completes when the block has announced, once, how many bytes to
// expect in it, and that many have been stored, in either order. Other blocks may use it after cluster_sync.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier) {
#if FASTRNN_HAS_CLUSTERS
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
#endif
}
__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, int bytes) {
#if FASTRNN_HAS_CLUSTERS
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
// Whether the phase of that parity has completed, after waiting a while for it: 0 for the first, 1 for the second, 0
// for the third. If so, what was stored in it, and what the storing blocks had done before their last barrier, is
// visible.
__device__ __forceinline__ bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t ended = 0;
#if FASTRNN_HAS_CLUSTERS
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#endif
  return ended != 0;
}

// Stores asynchronously to block `rank` of the cluster, at the address that `shared` has in this block; that block's
// `barrier` counts the bytes on arrival. The address must be aligned to the value's size.
__device__ __forceinline__ uint32_t address_in(int rank, const void* shared) {
  uint32_t address = 0;
#if FASTRNN_HAS_CLUSTERS
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(shared)), "r"(rank));
#endif
  return address;
}
__device__ __forceinline__ void store_async(uint4* shared, uint64_t* barrier, int rank, const uint4& value) {
#if FASTRNN_HAS_CLUSTERS
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   address_in(rank, shared)),
               "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(address_in(rank, barrier))
               : "memory");
#endif
}
__device__ __forceinline__ void store_async(float2* shared, uint64_t* barrier, int rank, const float2& value) {
#if FASTRNN_HAS_CLUSTERS
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                   address_in(rank, shared)),
               "f"(value.x), "f"(value.y), "r"(address_in(rank, barrier))
               : "memory");
#endif
}

// Every kernel takes one struct. An empty grid launches nothing.
template <class Params>
void launch(void (*kernel)(Params), const Launch& shape, const Params& params, cudaStream_t stream) {
  if (shape.empty()) return;
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = id;
    return attribute.val;
  };
  if (shape.cooperative) add(cudaLaunchAttributeCooperative).cooperative = 1;
  if (shape.cluster > 1) {
    add(cudaLaunchAttributeClusterDimension).clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  config.gridDim = shape.blocks();
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  void* arguments[] = {const_cast<Params*>(&params)};
  check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
}

}  // namespace fastrnn::cuda

#endif
