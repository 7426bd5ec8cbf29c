#include "comparison.h"

#include <algorithm>
#include <limits>

#include "numbers.cuh"

namespace fastrnn::cuda {

namespace {

constexpr int kLanes = 32;
constexpr int kWarpsPerBlock = kThreadsPerBlock / kLanes;
constexpr int64_t kMostBlocks = kDifferences / kWarpsPerBlock;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class V>
struct DrawParams {
  V* out;
  int64_t count;
  uint64_t seed;
  float scale;
};

template <class V>
struct CompareParams {
  float* largest;  // of each warp
  const V *actual, *expected;
  int64_t count;
};

// Calls visit(i) for the thread's elements.
template <class Visit>
__device__ __forceinline__ void for_elements(int64_t count, const Visit& visit) {
  const int64_t threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += threads) visit(i);
}

// Splitmix64, by place, so that no two parts of a matrix are alike.
template <class V>
__global__ void draw_values(const DrawParams<V> p) {
  for_elements(p.count, [&](int64_t i) {
    uint64_t bits = p.seed + static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111eb;
    bits ^= bits >> 31;
    p.out[i] = narrow<V>((static_cast<float>(bits >> 40) * 0x1p-23f - 1) * p.scale);
  });
}

template <class V>
__global__ void compare_values(const CompareParams<V> p) {
  float largest = 0;
  for_elements(p.count, [&](int64_t i) {
    const float expected = widen(p.expected[i]), off = fabsf(widen(p.actual[i]) - expected);
    const float difference = off / fmaxf(1.0f, fabsf(expected));
    largest = fmaxf(largest, difference == difference ? difference : kInfinity);
  });
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  }
  if (threadIdx.x % kLanes != 0) return;
  float& of_warp = p.largest[blockIdx.x * kWarpsPerBlock + threadIdx.x / kLanes];
  of_warp = fmaxf(of_warp, largest);
}

Launch shape_for(int64_t count) {
  const int64_t blocks = (count + kThreadsPerBlock - 1) / kThreadsPerBlock;
  return {std::min(blocks, kMostBlocks), 1, kThreadsPerBlock, 0, false};
}

}  // namespace

template <class V>
void draw(V* out, int64_t count, uint64_t seed, float scale, cudaStream_t stream) {
  launch(draw_values<V>, shape_for(count), {out, count, seed, scale}, stream);
}

template <class V>
void compare(float* largest, const V* actual, const V* expected, int64_t count, cudaStream_t stream) {
  launch(compare_values<V>, shape_for(count), {largest, actual, expected, count}, stream);
}

#define FASTRNN_INSTANTIATE(V)                                    \
  template void draw(V*, int64_t, uint64_t, float, cudaStream_t); \
  template void compare(float*, const V*, const V*, int64_t, cudaStream_t);

FASTRNN_INSTANTIATE(float)
FASTRNN_INSTANTIATE(__half)
FASTRNN_INSTANTIATE(__nv_bfloat16)

#undef FASTRNN_INSTANTIATE

}  // namespace fastrnn::cuda
