// GEMM of stationary weights with 16 batch rows, for the whole sequence.
//
// A slice of the weights is 16 rows by `depth` columns, the left operand of an mma: the rows of one gate, or where a
// cluster splits the depth, those of one block's units. There are kSliceGroups groups of kSlices, one group per 16
// units of a larger block:
//
//              columns of warp 0 | of warp 1 | ...
//   slice 0    piece piece piece | piece ... |          a piece is as deep as an mma: 16 x 16 (TF32: 16 x 8)
//   slice 1    piece piece piece | piece ... |
//   ...
//
// A warp serves one group. Columns are partitioned over the warps of a group: each multiplies its own by all 16 batch
// rows, and the warps' partial sums are combined in shared memory. A warp keeps its first kRegisterPieces pieces of
// every slice in registers and the rest in shared memory, as fragments either way.
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

// What such a share is in memory.
template <class T>
using Loaded = std::conditional_t<sizeof(T) == 4, float2, uint2>;

template <class T>
__device__ __forceinline__ Loaded<T> load(const T* values) {
  return *reinterpret_cast<const Loaded<T>*>(values);
}

__device__ __forceinline__ Pair operand(float2 loaded) { return {to_tf32(loaded.x), to_tf32(loaded.y)}; }
__device__ __forceinline__ Pair operand(uint2 loaded) { return {loaded.x, loaded.y}; }

template <class T>
__device__ __forceinline__ Pair load_pair(const T* values) {
  return operand(load(values));
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
template <class T, int kSlices, int kSliceGroups, int kWeightRegisters>
class StationaryGemm {
 public:
  using Sums = WarpSums<kSlices, kSliceGroups>;
  static constexpr int kDepth = Mma<T>::kDepth;
  static constexpr int kPairWidth = kDepth / 4;  // values per Pair
  static constexpr int kRegisterPieces = kWeightRegisters / (4 * kSlices);
  // Pieces of the batch rows that are loaded before the first is multiplied, so that their latencies overlap.
  static constexpr int kAhead = 8;

  // A block's shared memory: weights beyond the registers, and the warps' partial sums.
  struct Shared {
    uint4* weights;
    float* sums;

    FASTRNN_INLINE Shared(int64_t depth, SharedArena& arena)
        : weights(arena.take<uint4>(kWarps * shared_pieces(depth) * kSlices * 32)), sums(Sums::take(arena)) {}
  };

  __device__ StationaryGemm(int64_t depth, const Shared& shared)
      : sums_(shared.sums),
        lane_(static_cast<int>(threadIdx.x) % 32),
        first_(sums_.first(depth / kDepth)),
        pieces_(static_cast<int>(sums_.end(depth / kDepth) - first_)),
        shared_weights_(shared.weights + (sums_.warp() * shared_pieces(depth) * kSlices) * 32 + lane_) {}

  // address(slice, row, column): the address of an element of the weights; the next column is `stride` after it. Rows
  // are counted over all groups, 16 each.
  template <class Address>
  __device__ void load_weights(const Address& address, int64_t stride) {
    const auto pair = [&](int slice, int row, int64_t column) {
      const T* const values = address(slice, row, column);
      return stride == 1 ? load_pair(values) : gather_pair(values, stride);
    };
#pragma unroll
    for (int i = 0; i < kRegisterPieces; ++i) {
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        const uint4 fragment = i < pieces_ ? load_fragment(slice, i, pair) : uint4{};
        weights_[i][slice][0] = fragment.x;
        weights_[i][slice][1] = fragment.y;
        weights_[i][slice][2] = fragment.z;
        weights_[i][slice][3] = fragment.w;
      }
    }
    for (int i = kRegisterPieces; i < pieces_; ++i) {
      for (int slice = 0; slice < kSlices; ++slice) shared_fragment(i, slice) = load_fragment(slice, i, pair);
    }
  }

  // Sums over this warp's columns, left in shared memory. row(i): the address of a batch row, never null;
  // offset(column): a column's offset in it.
  template <class Row, class Offset>
  __device__ void multiply(const Row& row, const Offset& offset) const {
    const T* rows[kRowTiles];
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      rows[half] = row(half * kMmaRows + lane_ / 4) + lane_ % 4 * kPairWidth;
    }
    float sums[kSlices][kRowTiles][4] = {};
    if (pieces_ < kRegisterPieces) {
      multiply_pieces<false>(rows, offset, sums);
    } else {
      multiply_pieces<true>(rows, offset, sums);
    }
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
      for (int half = 0; half < kRowTiles; ++half) {
        const float (&sum)[4] = sums[slice][half];
        const int batch_row = half * kMmaRows + lane_ % 4 * 2;
        sums_.store(slice, lane_ / 4, batch_row, {sum[0], sum[1]});
        sums_.store(slice, lane_ / 4 + 8, batch_row, {sum[2], sum[3]});
      }
    }
  }

  // The complete sum; call after a __syncthreads() that follows multiply().
  __device__ float sum(int slice, int row, int batch_row) const { return sums_.total(slice, row, batch_row); }

 private:
  static FASTRNN_INLINE int64_t shared_pieces(int64_t depth) {
    const int64_t most = (depth / kDepth + Sums::kColumnGroups - 1) / Sums::kColumnGroups;
    return most > kRegisterPieces ? most - kRegisterPieces : 0;
  }

  __device__ uint4& shared_fragment(int piece, int slice) const {
    return shared_weights_[((piece - kRegisterPieces) * kSlices + slice) * 32];
  }

  template <class LoadPair>
  __device__ uint4 load_fragment(int slice, int piece, const LoadPair& pair) const {
    const int64_t column = (first_ + piece) * kDepth + lane_ % 4 * kPairWidth;
    const int row = sums_.group() * kMmaUnits + lane_ / 4;
    const Pair upper = pair(slice, row, column), lower = pair(slice, row + 8, column);
    return {upper.low, lower.low, upper.high, lower.high};
  }

  // kAll: the warp has at least as many pieces as the registers hold. No load depends on a condition, since each would
  // be waited for by itself: past the last piece, that one is loaded once more.
  template <bool kAll, class Offset>
  __device__ __forceinline__ void multiply_pieces(const T* const (&rows)[kRowTiles], const Offset& offset,
                                                  float (&sums)[kSlices][kRowTiles][4]) const {
    Loaded<T> ahead[kAhead][kRowTiles];
    const int last = pieces_ > 0 ? pieces_ - 1 : 0;
    const auto load_piece = [&](int i, Loaded<T>(&to)[kRowTiles]) {
      // In the registers' pieces, which are all there, nvcc has a constant for this.
      const int piece = (kAll && i < kRegisterPieces) || i < last ? i : last;
      const unsigned at = offset((static_cast<int>(first_) + piece) * kDepth);
#pragma unroll
      for (int half = 0; half < kRowTiles; ++half) to[half] = load(rows[half] + at);
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (kAll || i < kRegisterPieces) load_piece(i, ahead[i]);
    }
#pragma unroll
    for (int i = 0; i < kRegisterPieces; ++i) {
      if (kAll || i < pieces_) add_piece(weights_[i], ahead[i % kAhead], sums);
      if (kAll || i + kAhead < kRegisterPieces) load_piece(i + kAhead, ahead[i % kAhead]);
    }
    if constexpr (kAll) {
#pragma unroll 1
      for (int first = kRegisterPieces; first < pieces_; first += kAhead) {
        const uint4* const fragments = &shared_fragment(first, 0);
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (first + k >= pieces_) break;
          uint32_t weights[kSlices][4];
#pragma unroll
          for (int slice = 0; slice < kSlices; ++slice) {
            const uint4 fragment = fragments[(k * kSlices + slice) * 32];
            weights[slice][0] = fragment.x;
            weights[slice][1] = fragment.y;
            weights[slice][2] = fragment.z;
            weights[slice][3] = fragment.w;
          }
          Loaded<T>(&loaded)[kRowTiles] = ahead[(kRegisterPieces + k) % kAhead];
          add_piece(weights, loaded, sums);
          load_piece(first + k + kAhead, loaded);
        }
      }
    }
  }

  __device__ __forceinline__ static void add_piece(const uint32_t (&weights)[kSlices][4],
                                                   const Loaded<T> (&loaded)[kRowTiles],
                                                   float (&sums)[kSlices][kRowTiles][4]) {
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      const Pair pair = operand(loaded[half]);
      const uint32_t right[2] = {pair.low, pair.high};
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) Mma<T>::multiply_add(sums[slice][half], weights[slice], right);
    }
  }

  const Sums sums_;
  const int lane_;
  const int64_t first_;  // piece
  const int pieces_;
  uint4* const shared_weights_;
  uint32_t weights_[kRegisterPieces][kSlices][4];
};

}  // namespace fastrnn::cuda
