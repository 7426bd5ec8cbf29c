// Sums of a product whose columns are dealt to warps: each leaves its own in shared memory, where they meet.
#pragma once

#include "layout.h"
#include "stationary_tile.cuh"

namespace fastrnn::cuda {

constexpr int kWarps = kThreadsPerBlock / 32;
constexpr int kMmaUnits = 16;  // rows of an mma's left operand, the weights

// The product has kTileGroups groups of kTiles tiles of 16 rows. A warp serves one group, and has some of its columns.
template <int kTiles, int kTileGroups>
class WarpSums {
 public:
  static constexpr int kColumnGroups = kWarps / kTileGroups;

  static FASTRNN_INLINE float* take(SharedArena& arena) {
    return arena.take<float>(int64_t{kWarps} * kTiles * kMmaUnits * kStride);
  }

  __device__ explicit WarpSums(float* sums) : warp_(static_cast<int>(threadIdx.x) / 32), sums_(sums) {}

  __device__ int warp() const { return warp_; }
  __device__ int group() const { return warp_ / kColumnGroups; }
  // The columns of this warp, of `count` that are dealt.
  __device__ int64_t first(int64_t count) const { return count * (warp_ % kColumnGroups) / kColumnGroups; }
  __device__ int64_t end(int64_t count) const { return count * (warp_ % kColumnGroups + 1) / kColumnGroups; }

  // This warp's sums of a row of a tile at two neighbouring batch rows.
  __device__ void store(int tile, int row, int batch_row, const float2& sums) const {
    *reinterpret_cast<float2*>(sums_ + index(warp_, tile, row, batch_row)) = sums;
  }

  // The whole sum, once the threads have met. row: counts over the groups' 16 each.
  __device__ float total(int tile, int row, int batch_row) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kColumnGroups; ++i) {
      sum += sums_[index(row / kMmaUnits * kColumnGroups + i, tile, row % kMmaUnits, batch_row)];
    }
    return sum;
  }

 private:
  // Not 16: neighbouring rows' sums would share a bank.
  static constexpr int kStride = kBatchRowsPerTile + 2;

  static __device__ int index(int warp, int tile, int row, int batch_row) {
    return ((warp * kTiles + tile) * kMmaUnits + row) * kStride + batch_row;
  }

  const int warp_;
  float* const sums_;
};

}  // namespace fastrnn::cuda
