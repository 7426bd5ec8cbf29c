// GEMM of stationary weights with 16 batch rows, for the whole sequence.
//
// The weights are kTileGroups groups of kTiles tiles of 16 rows by `depth` columns. A warp serves one group. Columns
// are partitioned over the warps of a group in pieces as deep as an mma: each warp multiplies its own by all 16 batch
// rows, and the warps' partial sums are combined in shared memory. A warp keeps its first kRegisterPieces pieces in
// registers and the rest in shared memory, as fragments either way.
//
// Within a piece, lane q = lane % 4 of an mma holds columns 2q, 2q + 1, 2q + 8, 2q + 9 (TF32: q, q + 4). Which columns
// of memory these stand for is arbitrary as long as both operands agree: here 4q to 4q + 3 (TF32: 2q, 2q + 1), so that
// a lane's share of a row is a single 8-byte load.
#pragma once

#include "../common/warp_sums.cuh"

namespace fastrnn::cuda {

constexpr int kMmaRows = 8;  // batch rows per mma
constexpr int kRowTiles = kBatchRowsPerTile / kMmaRows;

// A lane's share of one row in one piece: two registers of an mma operand.
struct Pair {
  uint32_t low, high;
};

template <class T>
__device__ __forceinline__ Pair load_pair(const T* values) {
  if constexpr (sizeof(T) == 4) {
    const float2 pair = *reinterpret_cast<const float2*>(values);
    return {to_tf32(pair.x), to_tf32(pair.y)};
  } else {
    const uint2 pair = *reinterpret_cast<const uint2*>(values);
    return {pair.x, pair.y};
  }
}

__device__ __forceinline__ uint32_t pack(__half low, __half high) {
  return __half_as_ushort(low) | static_cast<uint32_t>(__half_as_ushort(high)) << 16;
}
__device__ __forceinline__ uint32_t pack(__nv_bfloat16 low, __nv_bfloat16 high) {
  return __bfloat16_as_ushort(low) | static_cast<uint32_t>(__bfloat16_as_ushort(high)) << 16;
}

// The same for values `stride` apart.
template <class T>
__device__ __forceinline__ Pair gather_pair(const T* values, int64_t stride) {
  if constexpr (sizeof(T) == 4) {
    return {to_tf32(values[0]), to_tf32(values[stride])};
  } else {
    return {pack(values[0], values[stride]), pack(values[2 * stride], values[3 * stride])};
  }
}

// kWeightRegisters: per thread, at most.
template <class T, int kTiles, int kTileGroups, int kWeightRegisters>
class StationaryGemm {
 public:
  using Sums = WarpSums<kTiles, kTileGroups>;
  static constexpr int kDepth = Mma<T>::kDepth;
  static constexpr int kPairWidth = kDepth / 4;  // values per Pair
  static constexpr int kRegisterPieces = kWeightRegisters / (4 * kTiles);

  // A block's shared memory: weights beyond the registers, and the warps' partial sums.
  struct Shared {
    uint4* weights;
    float* sums;

    FASTRNN_INLINE Shared(int64_t depth, SharedArena& arena)
        : weights(arena.take<uint4>(kWarps * shared_pieces(depth) * kTiles * 32)), sums(Sums::take(arena)) {}
  };

  __device__ StationaryGemm(int64_t depth, const Shared& shared)
      : sums_(shared.sums),
        lane_(static_cast<int>(threadIdx.x) % 32),
        first_(sums_.first(depth / kDepth)),
        pieces_(static_cast<int>(sums_.end(depth / kDepth) - first_)),
        shared_weights_(shared.weights + (sums_.warp() * shared_pieces(depth) * kTiles) * 32 + lane_) {}

  // The columns of this warp.
  __device__ int64_t begin() const { return first_ * kDepth; }
  __device__ int64_t end() const { return (first_ + pieces_) * kDepth; }

  // address(tile, row, column): the address of an element of the weights; the next column is `stride` after it. Rows
  // are counted over all groups, 16 each.
  template <class Address>
  __device__ void load_weights(const Address& address, int64_t stride) {
    const auto pair = [&](int tile, int row, int64_t column) {
      const T* const values = address(tile, row, column);
      return stride == 1 ? load_pair(values) : gather_pair(values, stride);
    };
#pragma unroll
    for (int i = 0; i < kRegisterPieces; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4 fragment = i < pieces_ ? load_fragment(tile, i, pair) : uint4{};
        weights_[i][tile][0] = fragment.x;
        weights_[i][tile][1] = fragment.y;
        weights_[i][tile][2] = fragment.z;
        weights_[i][tile][3] = fragment.w;
      }
    }
    for (int i = kRegisterPieces; i < pieces_; ++i) {
      for (int tile = 0; tile < kTiles; ++tile) shared_fragment(i, tile) = load_fragment(tile, i, pair);
    }
  }

  // Sums over this warp's columns, left in shared memory. row(i): the address of a batch row, null for zeros;
  // offset(column): a column's offset in it.
  template <class Row, class Offset>
  __device__ void multiply(const Row& row, const Offset& offset) const {
    const T* rows[kRowTiles];
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) rows[half] = row(half * kMmaRows + lane_ / 4);
    float sums[kTiles][kRowTiles][4] = {};
#pragma unroll
    for (int i = 0; i < kRegisterPieces; ++i) {
      if (i < pieces_) add_piece(i, weights_[i], rows, offset, sums);
    }
#pragma unroll 1
    for (int i = kRegisterPieces; i < pieces_; ++i) {
      uint32_t weights[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint4 fragment = shared_fragment(i, tile);
        weights[tile][0] = fragment.x;
        weights[tile][1] = fragment.y;
        weights[tile][2] = fragment.z;
        weights[tile][3] = fragment.w;
      }
      add_piece(i, weights, rows, offset, sums);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < kRowTiles; ++half) {
        const float (&sum)[4] = sums[tile][half];
        const int batch_row = half * kMmaRows + lane_ % 4 * 2;
        sums_.store(tile, lane_ / 4, batch_row, {sum[0], sum[1]});
        sums_.store(tile, lane_ / 4 + 8, batch_row, {sum[2], sum[3]});
      }
    }
  }

  // The complete sum; call after a __syncthreads() that follows multiply().
  __device__ float sum(int tile, int row, int batch_row) const { return sums_.total(tile, row, batch_row); }

 private:
  static FASTRNN_INLINE int64_t shared_pieces(int64_t depth) {
    const int64_t most = (depth / kDepth + Sums::kColumnGroups - 1) / Sums::kColumnGroups;
    return most > kRegisterPieces ? most - kRegisterPieces : 0;
  }

  __device__ uint4& shared_fragment(int piece, int tile) const {
    return shared_weights_[((piece - kRegisterPieces) * kTiles + tile) * 32];
  }

  template <class LoadPair>
  __device__ uint4 load_fragment(int tile, int piece, const LoadPair& pair) const {
    const int64_t column = (first_ + piece) * kDepth + lane_ % 4 * kPairWidth;
    const int row = sums_.group() * kMmaUnits + lane_ / 4;
    const Pair upper = pair(tile, row, column), lower = pair(tile, row + 8, column);
    return {upper.low, lower.low, upper.high, lower.high};
  }

  template <class Offset>
  __device__ __forceinline__ void add_piece(int piece, const uint32_t (&weights)[kTiles][4],
                                            const T* const (&rows)[kRowTiles], const Offset& offset,
                                            float (&sums)[kTiles][kRowTiles][4]) const {
    const int64_t at = offset((first_ + piece) * kDepth) + lane_ % 4 * kPairWidth;
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      const Pair pair = rows[half] ? load_pair(rows[half] + at) : Pair{0, 0};
      const uint32_t right[2] = {pair.low, pair.high};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) Mma<T>::multiply_add(sums[tile][half], weights[tile], right);
    }
  }

  const Sums sums_;
  const int lane_;
  const int64_t first_;  // piece
  const int pieces_;
  uint4* const shared_weights_;
  uint32_t weights_[kRegisterPieces][kTiles][4];
};

}  // namespace fastrnn::cuda
