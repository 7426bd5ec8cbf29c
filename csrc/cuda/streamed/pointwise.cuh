// Kernels with one thread per value of a step: neighbouring threads take neighbouring columns of a row.
#pragma once

#include "../common/gpu.cuh"
#include "../kernels.h"

namespace fastrnn::cuda {

// Which batch rows run at a step.
struct StepRows {
  int64_t count;                // an upper bound known to the host
  const int64_t* device_count;  // the exact count in GPU memory, or null

  __device__ bool include(int64_t row) const { return row < (device_count ? *device_count : count); }
};

// No rows before the first step.
inline StepRows rows_of_step(const Steps& steps, int64_t s) {
  return {steps.rows(s), steps.device_sizes && s >= 0 ? steps.device_sizes + steps.time(s) : nullptr};
}

// An element of a (rows, columns) matrix.
struct Element {
  int64_t row, column;
};

// The calling thread's element; in the last block its row may be past the launch's rows.
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
