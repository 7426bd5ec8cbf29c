// Sums of a GEMM whose columns are partitioned over warps: each leaves its partial sums in shared memory, where they
// are combined. Slices are those of stationary/stationary_gemm.cuh.
#pragma once

#include "../stationary/stationary_tile.cuh"
#include "layout.h"

namespace fastrnn::cuda {

constexpr int kWarps = kThreadsPerBlock / 32;
constexpr int kMmaUnits = 16;  // rows of an mma's left operand, the weights

// A warp serves one of kSliceGroups groups of kSlices, and has some of its columns.
template <int kSlices, int kSliceGroups>
class WarpSums {
 public:
  static constexpr int kColumnGroups = kWarps / kSliceGroups;

  static FASTRNN_INLINE float* take(SharedArena& arena) {
    return arena.take<float>(int64_t{kWarps} * kSlices * kMmaUnits * kStride);
  }

  __device__ explicit WarpSums(float* sums) : warp_(static_cast<int>(threadIdx.x) / 32), sums_(sums) {}

  __device__ int warp() const { return warp_; }
  __device__ int group() const { return warp_ / kColumnGroups; }
  // This warp's range of `count` columns.
  __device__ int64_t first(int64_t count) const { return count * (warp_ % kColumnGroups) / kColumnGroups; }
  __device__ int64_t end(int64_t count) const { return count * (warp_ % kColumnGroups + 1) / kColumnGroups; }

  // Stores this warp's partial sums of a row of a slice for two neighbouring batch rows.
  __device__ void store(int slice, int row, int batch_row, const float2& sums) const {
    *reinterpret_cast<float2*>(sums_ + index(warp_, slice, row, batch_row)) = sums;
  }

  // The complete sum; call after a __syncthreads(). row: counted over all groups, 16 each.
  __device__ float total(int slice, int row, int batch_row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kColumnGroups; ++i) {
      sum += sums_[index(row / kMmaUnits * kColumnGroups + i, slice, row % kMmaUnits, batch_row)];
    }
    return sum;
  }

 private:
  // Not 16, to avoid bank conflicts between neighbouring rows' sums.
  static constexpr int kStride = kBatchRowsPerTile + 2;

  static __device__ int index(int warp, int slice, int row, int batch_row) {
    return ((warp * kSlices + slice) * kMmaUnits + row) * kStride + batch_row;
  }

  const int warp_;
  float* const sums_;
};

}  // namespace fastrnn::cuda
