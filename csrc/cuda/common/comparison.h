// Random numbers, and how far two results are apart, on the GPU: what it takes to verify a kernel there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastrnn::cuda {

// Uniform between -scale and scale; the same for the same seed.
// Defined for float, __half and __nv_bfloat16, as is compare().
template <class V>
void draw(V* out, int64_t count, uint64_t seed, float scale, cudaStream_t stream);

constexpr int64_t kDifferences = 512;

// Raises each of kDifferences values, of which the largest is to be taken, to what some elements differ by: relative to
// those expected, or absolute where these are below 1; infinity for NaN.
template <class V>
void compare(float* largest, const V* actual, const V* expected, int64_t count, cudaStream_t stream);

}  // namespace fastrnn::cuda
