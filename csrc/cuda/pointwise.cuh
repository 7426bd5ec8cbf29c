// Kernels with a thread for each value of a step: neighbouring threads take neighbouring columns of a row.
#pragma once

#include "gpu.cuh"
#include "kernels.h"

namespace fastrnn::cuda {

// Which batch rows run at a step.
struct StepRows {
  int64_t count;                // as far as the host knows
  const int64_t* device_count;  // what the GPU knows, or null

  __device__ bool include(int64_t row) const { return row < (device_count ? *device_count : count); }
};

// None before the first step.
inline StepRows rows_of_step(const Steps& steps, int64_t s) {
  return {steps.rows(s), steps.device_sizes && s >= 0 ? steps.device_sizes + steps.time(s) : nullptr};
}

// A value of a (rows, columns) matrix.
struct Element {
  int64_t row, column;
};

// The element that the calling thread takes; in the last block its row may lie beyond those of the launch.
__device__ __forceinline__ Element element_of_thread(int64_t columns) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreadsPerBlock + threadIdx.x;
  return {index / columns, index % columns};
}

template <class Params>
void launch_pointwise(void (*kernel)(Params), int64_t rows, int64_t columns, const Params& params,
                      cudaStream_t stream) {
  const int64_t blocks = (rows * columns + kThreadsPerBlock - 1) / kThreadsPerBlock;
  launch(kernel, {blocks, 1, kThreadsPerBlock, 0, false}, params, stream);
}

}  // namespace fastrnn::cuda
