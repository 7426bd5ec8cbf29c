// The GEMMs of stationary_gemm.cuh and scattered_gemm.cuh in full float32, by FFMA: the weights are in shared
// memory, with four consecutive columns of a row (a quad) stored contiguously.
//
// A lane multiplies 4 batch rows by every eighth row of the weights: lane / 4 selects the weights' rows, so that a warp
// loads 128 contiguous bytes, and lane % 4 the batch rows, which are broadcast.
#pragma once

#include "stationary_gemm.cuh"

namespace fastrnn::cuda {

constexpr int kQuad = 4;  // columns loaded at once
constexpr int kLaneBatchRows = kBatchRowsPerTile / 4;

// sums[i][b] += the lane's i-th row of weights, each 8 rows after the one before, times its b-th batch row.
template <int kLaneRows>
__device__ __forceinline__ void add_quad(const float4* weights, const float4 (&batch)[kLaneBatchRows],
                                         float (&sums)[kLaneRows][kLaneBatchRows]) {
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) {
    const float4 w = weights[i * 8];
#pragma unroll
    for (int b = 0; b < kLaneBatchRows; ++b) {
      sums[i][b] += w.x * batch[b].x;
      sums[i][b] += w.y * batch[b].y;
      sums[i][b] += w.z * batch[b].z;
      sums[i][b] += w.w * batch[b].w;
    }
  }
}

// Four columns, `stride` apart.
__device__ __forceinline__ float4 load_quad(const float* values, int64_t stride) {
  return {values[0], values[stride], values[2 * stride], values[3 * stride]};
}

template <int kSlices, int kSliceGroups>
class ExactStationaryGemm {
  using Sums = WarpSums<kSlices, kSliceGroups>;
  static constexpr int kRows = kSlices * kMmaUnits;  // in a group

 public:
  struct Shared {
    float4* weights;
    float* sums;

    FASTRNN_INLINE Shared(int64_t depth, SharedArena& arena)
        : weights(arena.take<float4>(kSliceGroups * depth / kQuad * kRows)), sums(Sums::take(arena)) {}
  };

  __device__ ExactStationaryGemm(int64_t depth, const Shared& shared)
      : sums_(shared.sums),
        lane_(static_cast<int>(threadIdx.x) % 32),
        first_(sums_.first(depth / kQuad)),
        quads_(static_cast<int>(sums_.end(depth / kQuad) - first_)),
        weights_(shared.weights + (depth / kQuad * sums_.group() + first_) * kRows) {}

  __device__ int64_t begin() const { return first_ * kQuad; }
  __device__ int64_t end() const { return (first_ + quads_) * kQuad; }

  template <class Address>
  __device__ void load_weights(const Address& address, int64_t stride) {
    for (int i = lane_; i < quads_ * kRows; i += 32) {
      const int row = i % kRows, in_groups = sums_.group() * kMmaUnits + row % kMmaUnits;
      weights_[i] = load_quad(address(row / kMmaUnits, in_groups, (first_ + i / kRows) * kQuad), stride);
    }
    __syncwarp();
  }

  template <class Row, class Offset>
  __device__ void multiply(const Row& row, const Offset& offset) const {
    const float* rows[kLaneBatchRows];
#pragma unroll
    for (int b = 0; b < kLaneBatchRows; ++b) rows[b] = row(lane_ % 4 * kLaneBatchRows + b);
    multiply_slices<0>(rows, offset);
  }

  __device__ float sum(int slice, int row, int batch_row) const { return sums_.total(slice, row, batch_row); }

 private:
  // Two slices at a time, starting with kFirst: nvcc has no registers for more. On the second pass the batch rows come
  // from the L1 cache.
  template <int kFirst, class Offset>
  __device__ void multiply_slices(const float* const (&rows)[kLaneBatchRows], const Offset& offset) const {
    constexpr int kCount = kSlices - kFirst < 2 ? kSlices - kFirst : 2;
    float sums[2 * kCount][kLaneBatchRows] = {};
    float4 ahead[kLaneBatchRows];
    const auto load_quads = [&](int i) {
      const int at = offset((static_cast<int>(first_) + i) * kQuad);
#pragma unroll
      for (int b = 0; b < kLaneBatchRows; ++b) ahead[b] = *reinterpret_cast<const float4*>(rows[b] + at);
    };
    load_quads(0);
#pragma unroll 1
    for (int i = 0; i < quads_; ++i) {
      float4 batch[kLaneBatchRows];
#pragma unroll
      for (int b = 0; b < kLaneBatchRows; ++b) batch[b] = ahead[b];
      // Past the last one, that one once more: a load that depends on a condition would be waited for by itself.
      load_quads(i + 1 < quads_ ? i + 1 : i);
      add_quad(weights_ + i * kRows + kFirst * kMmaUnits + lane_ / 4, batch, sums);
    }
#pragma unroll
    for (int i = 0; i < 2 * kCount; ++i) {
#pragma unroll
      for (int b = 0; b < kLaneBatchRows; b += 2) {
        const int row = lane_ / 4 + i % 2 * 8, batch_row = lane_ % 4 * kLaneBatchRows + b;
        sums_.store(kFirst + i / 2, row, batch_row, {sums[i][b], sums[i][b + 1]});
      }
    }
    if constexpr (kFirst + kCount < kSlices) multiply_slices<kFirst + kCount>(rows, offset);
  }

  const Sums sums_;
  const int lane_;
  const int64_t first_;  // quad
  const int quads_;
  float4* const weights_;  // (quads, kRows): this warp's columns
};

template <int kDepth>
class ExactScatteredGemm {
  static constexpr int kQuads = kDepth / kQuad;

 public:
  struct Shared {
    float4* weights;

    FASTRNN_INLINE Shared(int64_t rows, SharedArena& arena) : weights(arena.take<float4>(rows * kQuads)) {}
  };

  __device__ ExactScatteredGemm(int64_t rows, const Shared& shared)
      : warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        slices_(static_cast<int>(rows / kMmaUnits)),
        weights_(shared.weights) {}

  template <class Address>
  __device__ void load_weights(const Address& address, int64_t stride) {
    for (int slice = warp_; slice < slices_; slice += kWarps) {
      for (int i = lane_; i < kQuads * kMmaUnits; i += 32) {
        const int64_t row = int64_t{slice} * kMmaUnits + i % kMmaUnits;
        weights_[slice * kQuads * kMmaUnits + i] = load_quad(address(row, i / kMmaUnits * kQuad), stride);
      }
    }
    __syncwarp();
  }

  template <class Row, class Store>
  __device__ void multiply(const Row& row, const Store& store) const {
    for (int slice = warp_; slice < slices_; slice += kWarps) {
      float sums[2][kLaneBatchRows] = {};
#pragma unroll 4
      for (int quad = 0; quad < kQuads; ++quad) {
        float4 batch[kLaneBatchRows];
#pragma unroll
        for (int b = 0; b < kLaneBatchRows; ++b) {
          batch[b] = *reinterpret_cast<const float4*>(row(lane_ % 4 * kLaneBatchRows + b) + quad * kQuad);
        }
        add_quad(weights_ + (slice * kQuads + quad) * kMmaUnits + lane_ / 4, batch, sums);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t unit = int64_t{slice} * kMmaUnits + lane_ / 4 + i * 8;
#pragma unroll
        for (int b = 0; b < kLaneBatchRows; b += 2) {
          store(unit, lane_ % 4 * kLaneBatchRows + b, float2{sums[i][b], sums[i][b + 1]});
        }
      }
    }
  }

 private:
  const int warp_, lane_, slices_;
  float4* const weights_;  // (slices, kQuads, 16)
};

}  // namespace fastrnn::cuda
