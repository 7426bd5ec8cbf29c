// Numbers as tensors hold them, and as kernels compute with them.
#pragma once

#include "gpu.cuh"
#include "kernels.h"

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

}  // namespace fastrnn::cuda
