// One warp per batch row, for layer normalisation (cells/normalized.h), which works on whole rows. Lane i takes columns
// i, i + 32, ... in every pass, and reads nothing that another lane wrote.
#pragma once

#include "../../cells/normalized.h"
#include "pointwise.cuh"

namespace fastrnn::cuda {

constexpr int kWarpLanes = 32;

__device__ __forceinline__ int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * (kThreadsPerBlock / kWarpLanes) + threadIdx.x / kWarpLanes;
}

// Not unrolled: that would take registers and so cost occupancy.
template <class Visit>
__device__ void for_each_column(int64_t columns, const Visit& visit) {
#pragma unroll 1
  for (int64_t column = threadIdx.x % kWarpLanes; column < columns; column += kWarpLanes) visit(column);
}

// The sum over a warp, in all lanes.
template <class A>
__device__ A sum_of_warp(A value) {
  for (int distance = kWarpLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// The statistics of a row of `columns` values load(column).
template <class A, class Load>
__device__ RowNorm<A> norm_of(int64_t columns, const Load& load) {
  A sum{}, squares{};
  for_each_column(columns, [&](int64_t column) { sum += load(column); });
  const A mean = sum_of_warp(sum) / static_cast<A>(columns);
  for_each_column(columns, [&](int64_t column) {
    const A deviation = load(column) - mean;
    squares += deviation * deviation;
  });
  const A variance = sum_of_warp(squares) / static_cast<A>(columns);
  return {mean, 1 / sqrt(variance + static_cast<A>(kNormEpsilon))};
}

template <class Params>
void launch_rows(void (*kernel)(Params), int64_t rows, const Params& params, cudaStream_t stream) {
  const int64_t rows_per_block = kThreadsPerBlock / kWarpLanes;
  launch(kernel, {(rows + rows_per_block - 1) / rows_per_block, 1, kThreadsPerBlock, 0, false}, params, stream);
}

}  // namespace fastrnn::cuda
