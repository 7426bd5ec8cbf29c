// Stands in for csrc/cuda/common/gpu.cuh, and for CUDA C++ itself, where g++ compiles kernels for the host. See
// README.md.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/common/launch.h"
#include "runtime.h"

// Static shared memory and __constant__ are not for kernels here, and stay undefined; neither is there a __ldg.
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
// Flattened, because g++'s -fsanitize=thread does not see `*p = f()` for a struct unless f is inlined.
#define __global__ __attribute__((flatten, noinline))
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__

#define FASTRNN_HAS_CLUSTERS 1

#define threadIdx (::fastrnn::emulation::coordinates->thread)
#define blockIdx (::fastrnn::emulation::coordinates->block)
#define blockDim (::fastrnn::emulation::coordinates->threads)
#define gridDim (::fastrnn::emulation::coordinates->blocks)

inline void __syncthreads(std::source_location place = std::source_location::current()) {
  fastrnn::emulation::meet_block(place);
}

inline int __syncthreads_or(int value, std::source_location place = std::source_location::current()) {
  return fastrnn::emulation::meet_block_or(value != 0, place);
}

inline void __syncwarp(unsigned mask = ~0u, std::source_location place = std::source_location::current()) {
  fastrnn::emulation::require_full_mask(mask, place);
  fastrnn::emulation::meet_warp(place);
}

inline void __nanosleep(unsigned) { fastrnn::emulation::let_others_run(); }

namespace fastrnn::emulation {

#ifdef __SANITIZE_THREAD__
constexpr bool kInstrumented = true;
#else
constexpr bool kInstrumented = false;
#endif

// The value of lane `source` of the caller's segment of `width` lanes; the caller's own if there is no such lane.
template <class T>
T shuffle_from(unsigned mask, T value, int source, int width, Place place) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  require_full_mask(mask, place);
  const int lane = static_cast<int>(coordinates->thread.x) % kLanes, segment = lane / width * width;
  ShuffleOperands operands{0, source >= 0 && source < width ? segment + source : lane, 0};
  std::memcpy(&operands.value, &value, sizeof(T));
  meet_warp_and(shuffle, &operands, place);
  std::memcpy(&value, &operands.result, sizeof(T));
  return value;
}

inline int lane_of_segment(int width) { return static_cast<int>(coordinates->thread.x) % width; }

}  // namespace fastrnn::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = fastrnn::emulation::kLanes,
              std::source_location place = std::source_location::current()) {
  return fastrnn::emulation::shuffle_from(mask, value, (source % width + width) % width, width, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = fastrnn::emulation::kLanes,
                  std::source_location place = std::source_location::current()) {
  return fastrnn::emulation::shuffle_from(mask, value, fastrnn::emulation::lane_of_segment(width) ^ lane_mask, width,
                                          place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = fastrnn::emulation::kLanes,
                   std::source_location place = std::source_location::current()) {
  const int source = fastrnn::emulation::lane_of_segment(width) + static_cast<int>(delta);
  return fastrnn::emulation::shuffle_from(mask, value, source, width, place);
}

namespace fastrnn::cuda {

inline char* dynamic_shared() { return emulation::shared_memory(); }

template <int kDepthOfProduct, emulation::Combine* kCombine>
struct EmulatedMma {
  static constexpr int kDepth = kDepthOfProduct;
  static void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           emulation::Place place = emulation::Place::current()) {
    emulation::MmaOperands operands{c, a, b};
    emulation::meet_warp_and(kCombine, &operands, place);
  }
};

template <class T>
struct Mma;
template <>
struct Mma<__half> : EmulatedMma<16, emulation::multiply_add_half> {};
template <>
struct Mma<__nv_bfloat16> : EmulatedMma<16, emulation::multiply_add_bfloat16> {};
template <>
struct Mma<float> : EmulatedMma<8, emulation::multiply_add_tf32> {};

// To the nearest value of 10 mantissa bits, ties away from zero. The sum may carry into the exponent, as it should.
inline uint32_t to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}

inline void store_release(uint32_t* flag, uint32_t value, emulation::Place place = emulation::Place::current()) {
  emulation::store_release(flag, value, place);
}
inline uint32_t load_relaxed(const uint32_t* flag, emulation::Place place = emulation::Place::current()) {
  return emulation::load_relaxed(flag, place);
}
inline void fence_acquire() { emulation::fence_acquire(); }
inline uint64_t global_time() { return emulation::global_time(); }
inline void store_to_host(uint64_t* word, uint64_t value, emulation::Place place = emulation::Place::current()) {
  emulation::store_to_host(word, value, place);
}

inline void copy_async(void* shared, const void* global, bool valid,
                       emulation::Place place = emulation::Place::current()) {
  emulation::copy_async(shared, global, valid, place);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int kPending>
void wait_for_copies() {
  emulation::wait_for_copies(kPending);
}

inline int cluster_rank() { return emulation::cluster_rank(); }
inline void cluster_sync(emulation::Place place = emulation::Place::current()) { emulation::meet_cluster(place); }
inline void leave_cluster(emulation::Place place = emulation::Place::current()) { emulation::meet_cluster(place); }
inline void mbarrier_init(uint64_t* barrier, emulation::Place place = emulation::Place::current()) {
  emulation::mbarrier_init(barrier, place);
}
inline void mbarrier_expect(uint64_t* barrier, int bytes, emulation::Place place = emulation::Place::current()) {
  emulation::mbarrier_expect(barrier, static_cast<uint32_t>(bytes), place);
}
inline bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity,
                              emulation::Place place = emulation::Place::current()) {
  return emulation::mbarrier_try_wait(barrier, parity, place);
}
template <class V>
void store_async(V* shared, uint64_t* barrier, int rank, const V& value,
                 emulation::Place place = emulation::Place::current()) {
  static_assert(sizeof(V) == 8 || sizeof(V) == 16);
  emulation::store_async(shared, barrier, rank, &value, sizeof(V), place);
}

template <class Params>
void launch(void (*kernel)(Params), const Launch& shape, const Params& params, cudaStream_t) {
  if (shape.empty()) return;
  struct Call {
    void (*kernel)(Params);
    const Params& params;
  } call{kernel, params};
  const auto body = [](const void* opaque) __attribute__((no_sanitize_thread)) {
    const auto& [function, arguments] = *static_cast<const Call*>(opaque);
    function(arguments);
  };
  const emulation::LaunchShape emulated{shape.blocks(),
                                        shape.threads,
                                        static_cast<size_t>(shape.shared_bytes),
                                        shape.cooperative,
                                        static_cast<unsigned>(shape.cluster),
                                        emulation::kInstrumented};
  check(emulation::run(reinterpret_cast<const void*>(kernel), emulated, body, &call));
}

}  // namespace fastrnn::cuda
