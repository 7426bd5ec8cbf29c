// Conversions between the tensors' element types and the types that kernels compute in.
#pragma once

#include <limits>

#include "../kernels.h"
#include "gpu.cuh"

namespace fastrnn::cuda {

template <class T>
__device__ __forceinline__ Accumulator<T> widen(T value) {
  return static_cast<Accumulator<T>>(value);
}

// Rounds to nearest.
template <class T>
__device__ __forceinline__ T narrow(Accumulator<T> value) {
  return static_cast<T>(value);
}

template <class A>
constexpr A kNan = std::numeric_limits<A>::quiet_NaN();

// Machine epsilon, and the smallest normal number.
template <class T>
constexpr double kEpsilon = std::numeric_limits<T>::epsilon();
template <>
inline constexpr double kEpsilon<__half> = 0x1p-10;
template <>
inline constexpr double kEpsilon<__nv_bfloat16> = 0x1p-7;
template <class T>
constexpr double kLeastNormal = std::numeric_limits<T>::min();
template <>
inline constexpr double kLeastNormal<__half> = 0x1p-14;
template <>
inline constexpr double kLeastNormal<__nv_bfloat16> = 0x1p-126;

// Step::per_unit_weights for a unit.
template <class Cell, class T>
struct PerUnitWeights {
  Accumulator<T> values[Cell::kPerUnitWeights > 0 ? Cell::kPerUnitWeights : 1];

  // weights (kPerUnitWeights, H)
  __device__ PerUnitWeights(const T* weights, int64_t hidden, int64_t unit) {
    for (int w = 0; w < Cell::kPerUnitWeights; ++w) values[w] = widen(weights[w * hidden + unit]);
  }
};

}  // namespace fastrnn::cuda
